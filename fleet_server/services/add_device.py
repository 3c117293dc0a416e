"""Add devices, label them, let them join again, revoke them.

A join secret is 256 random bits, shown once inside the join string; the server keeps its sha256.
It belongs to one device id, works once, and only for a while.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from device_profiles.profile import DeviceProfile
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.join import JoinTicket
from edge_agent.contract.topics import check_device_id
from fleet_server.errors import MisuseError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import DeviceRecord, Ledger, Ledgers, NewDevice
from fleet_server.ports.trust import CertificateIssuer

TTL_DEFAULT = timedelta(hours=24)
TTL_MIN, TTL_MAX = timedelta(minutes=1), timedelta(days=30)
DEVICES_PER_CALL_MAX = 100_000
LABELS_MAX, LABEL_CHARS_MAX = 64, 128
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_TTL = re.compile(r"(\d{1,6})([mhd])\Z")
_TTL_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """A device to be added."""

    id: str
    profile: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where devices find this server and what they pin.

    Attributes:
        host: Server name or address.
        api_port: HTTPS port of enrolment.
        mqtt_host: Name or address of the broker.
        mqtt_port: TLS port of the broker.
        fleet: Name of the fleet.
        ca_sha256: Of the CA's certificate.
        root_sha256: Of the TUF root, from the operator's own copy where there is one.
        is_plain: The server runs without TLS now, on this machine's loopback.
    """

    host: str
    api_port: int
    mqtt_host: str
    mqtt_port: int
    fleet: str
    ca_sha256: str
    root_sha256: str
    is_plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDesk:
    """What an operator does with devices.

    Attributes:
        ledgers: Opens transactions.
        issuer: Revokes certificates.
        load_profile: Loads a device profile; raises NotFoundError for an unknown one.
        clock: Time of day.
        place: For the join strings; called when one is made.
        actor: Who acts, for the audit log.
    """

    ledgers: Ledgers
    issuer: CertificateIssuer
    load_profile: Callable[[str], DeviceProfile]
    clock: Clock
    place: Callable[[], Place]
    actor: str

    def add(self, spec: DeviceSpec, *, ttl: timedelta = TTL_DEFAULT) -> JoinTicket:
        """Add one device; see ``add_many``."""
        return self.add_many([spec], ttl=ttl)[0]

    def add_many(
        self, specs: Sequence[DeviceSpec], *, ttl: timedelta = TTL_DEFAULT
    ) -> list[JoinTicket]:
        """Add devices, all or none, and return their join tickets in the same order.

        Raises:
            MisuseError: A malformed id, label or ``ttl``, or too many at once.
            NotFoundError: No such profile.
            RefusedError: A device of that id exists.
        """
        check_ttl(ttl)
        if len(specs) > DEVICES_PER_CALL_MAX:
            raise MisuseError(f"{len(specs)} devices at once, the limit is {DEVICES_PER_CALL_MAX}")
        place, now_at = self.place(), self.clock.now()
        profiles = {name: self.load_profile(name) for name in {spec.profile for spec in specs}}
        tickets, devices = [], []
        for spec in specs:
            ticket = _make_ticket(place, _checked_id(spec.id))
            tickets.append(ticket)
            devices.append(
                NewDevice(
                    id=spec.id,
                    profile=spec.profile,
                    labels=check_labels({**profiles[spec.profile].labels, **spec.labels}),
                    secret_sha256=hash_secret(ticket.secret),
                )
            )
        ids = [device.id for device in devices]
        if len(set(ids)) != len(ids):
            raise MisuseError("two devices of one id; give each its own")
        with self.ledgers() as ledger:
            known = ledger.devices.find_many(ids)
            if known:
                raise RefusedError(
                    f"device {min(known)!r} exists; to let it join again:"
                    f" edgefleet device add {min(known)} --again"
                )
            ledger.devices.add_many(devices, at=now_at, until=now_at + ttl)
            ledger.audit.append(
                at=now_at,
                actor=self.actor,
                act="device.add",
                subject=ids[0] if len(ids) == 1 else f"{len(ids)} devices",
                detail={"devices": ids[:100], "count": len(ids)},
            )
        return tickets

    def add_again(self, device_id: str, *, ttl: timedelta = TTL_DEFAULT) -> JoinTicket:
        """Give a device that exists a new join string.

        Its present certificate works until the new one is issued; then it is revoked.

        Raises:
            MisuseError: ``ttl`` is out of range.
            NotFoundError: No such device.
        """
        check_ttl(ttl)
        ticket, now_at = _make_ticket(self.place(), _checked_id(device_id)), self.clock.now()
        with self.ledgers() as ledger:
            device = find_device(ledger, device_id)
            ledger.devices.replace_token(
                device.number, hash_secret(ticket.secret), at=now_at, until=now_at + ttl
            )
            ledger.audit.append(
                at=now_at, actor=self.actor, act="device.add_again", subject=device_id
            )
        return ticket

    def label(self, device_id: str, changes: Mapping[str, str | None]) -> DeviceRecord:
        """Set labels, or remove those whose value is None; return the device as it is then.

        Raises:
            NotFoundError: No such device.
            MisuseError: A malformed label.
        """
        with self.ledgers() as ledger:
            device = find_device(ledger, device_id)
            labels = {**device.labels, **changes}
            kept = check_labels({k: v for k, v in labels.items() if v is not None})
            if kept != device.labels:
                ledger.devices.set_labels(device.number, kept, at=self.clock.now())
                ledger.audit.append(
                    at=self.clock.now(),
                    actor=self.actor,
                    act="device.label",
                    subject=device_id,
                    detail=dict(changes),
                )
            return find_device(ledger, device_id)

    def revoke(self, device_id: str, reason: str) -> DeviceRecord:
        """Shut a device out: its certificates are revoked, it is assigned nothing any more.

        The running server then cuts its session (``end_sessions.py``), also when this call is
        interrupted before it writes the revocation list.

        Raises:
            NotFoundError: No such device.
        """
        with self.ledgers() as ledger:
            device = find_device(ledger, device_id)
            if device.revoked_at is None:
                now_at = self.clock.now()
                ledger.devices.mark_revoked(device.number, at=now_at)
                ledger.certificates.revoke(device.number, at=now_at)
                ledger.devices.want_cut(device.number, at=now_at)
                ledger.audit.append(
                    at=now_at,
                    actor=self.actor,
                    act="device.revoked",
                    subject=device_id,
                    reason=reason,
                    detail={"serial": device.certificate_serial},
                )
            device = find_device(ledger, device_id)
        if device.certificate_serial:
            self.issuer.revoke([device.certificate_serial])
        return device


def find_device(ledger: Ledger, device_id: str) -> DeviceRecord:
    """Return a device; raises NotFoundError."""
    device = ledger.devices.find(device_id)
    if device is None:
        raise NotFoundError(f"no device {device_id[:80]!r}; edgefleet device ls names them")
    return device


def hash_secret(secret: str) -> str:
    """Return the form in which a join secret is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels unchanged.

    Raises:
        MisuseError: Too many, or a name or value out of bounds.
    """
    if len(labels) > LABELS_MAX:
        raise MisuseError(f"{len(labels)} labels, the limit is {LABELS_MAX}")
    for name, value in labels.items():
        if not _LABEL.match(name):
            raise MisuseError(f"label name {name[:80]!r}: use letters, digits, '_', '.' and '-'")
        if len(value) > LABEL_CHARS_MAX or not value.isprintable():
            raise MisuseError(f"label {name}: at most {LABEL_CHARS_MAX} printable characters")
    return dict(labels)


def parse_ttl(text: str) -> timedelta:
    """Read ``90m``, ``24h`` or ``7d``; raises MisuseError.

    >>> parse_ttl("24h")
    datetime.timedelta(days=1)
    """
    match = _TTL.match(text)
    if match is None:
        raise MisuseError(f"{text[:40]!r} is no duration; write for example 90m, 24h or 7d")
    return check_ttl(timedelta(**{_TTL_UNITS[match[2]]: int(match[1])}))


def check_ttl(ttl: timedelta) -> timedelta:
    """Return how long a join string works unchanged; raises MisuseError."""
    if not TTL_MIN <= ttl <= TTL_MAX:
        raise MisuseError(f"a join string works for 1 minute to 30 days, not {ttl}")
    return ttl


def _checked_id(device_id: str) -> str:
    try:
        return check_device_id(device_id)
    except MalformedError as error:
        raise MisuseError(str(error)) from error


def _make_ticket(place: Place, device_id: str) -> JoinTicket:
    return JoinTicket(
        host=place.host,
        api_port=place.api_port,
        mqtt_port=place.mqtt_port,
        fleet=place.fleet,
        device_id=device_id,
        ca_sha256=place.ca_sha256,
        root_sha256=place.root_sha256,
        secret=secrets.token_urlsafe(32),
        is_plain=place.is_plain,
    )
