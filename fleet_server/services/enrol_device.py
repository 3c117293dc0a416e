"""Let a device in: its join secret and a key of its own against a certificate.

The name in the certificate is that of the token's record. The certificate is issued inside the
transaction that uses the token up, so a request that is refused leaves the token as it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.contract.join import EnrolGrant
from fleet_server.core.quota import Quota
from fleet_server.errors import RefusedError, ThrottledError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import DeviceRecord, JoinToken, Ledger, Ledgers
from fleet_server.ports.trust import CertificateIssuer, IssuedCertificate
from fleet_server.services.add_device import Place, hash_secret

HOUR_S = 3_600.0
REFUSALS_TOLD_PER_HOUR_MAX = 6
"""Audit rows about one device's join strings, and as many about unknown ones, all together."""


class JoinRefusedError(RefusedError):
    """The join string is unknown, used, expired or cancelled; a new one is needed.

    ``device_id`` is whose it was, empty when unknown.
    """

    def __init__(self, sentence: str, *, device_id: str = "") -> None:
        super().__init__(sentence)
        self.device_id = device_id


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentDesk:
    """Answers devices that want to join.

    Attributes:
        ledgers: Opens transactions.
        issuer: Issues and revokes certificates.
        root: Returns the TUF root file of a sha256, the newest for an empty or unknown one.
        place: Where devices find the broker.
        clock: Time of day.
        told: Bounds the audit rows about refused join strings.
    """

    ledgers: Ledgers
    issuer: CertificateIssuer
    root: Callable[[str], bytes]
    place: Callable[[], Place]
    clock: Clock
    told: Quota = field(
        default_factory=lambda: Quota(count_max=REFUSALS_TOLD_PER_HOUR_MAX, period_s=HOUR_S)
    )

    def enrol(self, secret: str, csr_pem: bytes, *, root_sha256: str = "") -> EnrolGrant:
        """Issue a certificate; the secret works no second time.

        Args:
            secret: From the join string.
            csr_pem: Certificate request for the device's own key.
            root_sha256: The root that the join string pins; later roots reach the device with
                its first metadata.

        Raises:
            JoinRefusedError: The secret is unknown, used, expired or cancelled.
            RefusedError: The certificate request is malformed; the secret still works.
        """
        return self.enrol_many([(secret, csr_pem)], root_sha256=root_sha256)[0]

    def enrol_many(
        self, requests: Sequence[tuple[str, bytes]], *, root_sha256: str = ""
    ) -> list[EnrolGrant]:
        """Enrol devices in one transaction, all or none: simulated fleets join this way.

        Args:
            requests: Secret and certificate request of each.
            root_sha256: As in ``enrol``.

        Raises:
            JoinRefusedError: As ``enrol``, for any of them.
            RefusedError: As ``enrol``, for any of them.
        """
        try:
            return self._enrol_many(requests, root_sha256)
        except JoinRefusedError as error:
            self._tell(str(error), error.device_id)
            raise
        except RefusedError as error:
            self._tell(str(error), "")
            raise

    def tell_throttled(self, error: ThrottledError) -> None:
        """Note that an address tries too often; its attempts are not looked at."""
        self._tell(str(error), "", key="throttled")

    def _enrol_many(
        self, requests: Sequence[tuple[str, bytes]], root_sha256: str
    ) -> list[EnrolGrant]:
        with self.ledgers() as ledger:
            joined = [self._enrol(ledger, secret, csr_pem) for secret, csr_pem in requests]
            names = [device.id for device, _ in joined]
            subject = names[0] if len(names) == 1 else f"{len(names)} devices"
            ledger.audit.append(
                at=self.clock.now(),
                actor=f"device {names[0]}" if len(names) == 1 else subject,
                act="device.enrol",
                subject=subject,
                detail={"serials": {d.id: issued.serial for d, issued in joined[:100]}},
            )
        former = [device.certificate_serial for device, _ in joined if device.certificate_serial]
        if former:
            self.issuer.revoke(former)
        place, ca, root = self.place(), self.issuer.ca_pem.decode(), self.root(root_sha256).decode()
        return [
            EnrolGrant(
                device_id=device.id,
                profile=device.profile,
                fleet=place.fleet,
                certificate=issued.pem.decode(),
                ca=ca,
                root=root,
                mqtt_host=place.mqtt_host,
                mqtt_port=place.mqtt_port,
            )
            for device, issued in joined
        ]

    def _enrol(
        self, ledger: Ledger, secret: str, csr_pem: bytes
    ) -> tuple[DeviceRecord, IssuedCertificate]:
        """Use a secret up; return the device as it was before, and its new certificate."""
        secret_sha256 = hash_secret(secret)
        device = self._check(ledger, secret_sha256)
        issued, now_at = self.issuer.issue_device(csr_pem, device.id), self.clock.now()
        ledger.devices.mark_enrolled(
            device.number,
            secret_sha256,
            serial=issued.serial,
            expires_at=issued.expires_at,
            at=now_at,
        )
        if device.certificate_serial:  # whoever still holds the former one is to leave
            ledger.certificates.revoke(device.number, at=now_at)
            ledger.devices.want_cut(device.number, at=now_at)
        ledger.certificates.add(device.number, issued, at=now_at)
        return device, issued

    def _check(self, ledger: Ledger, secret_sha256: str) -> DeviceRecord:
        """Return whom a secret belongs to; found by its hash, so timing tells nothing of it.

        Raises:
            JoinRefusedError: It may not be used.
        """
        token = ledger.devices.find_token(secret_sha256)
        if token is None:
            raise JoinRefusedError(
                "this server does not know the join string: it was mistyped or is another"
                " server's; make one with `edgefleet device add ID --profile PROFILE`"
            )
        device = ledger.devices.get(token.device)
        problem = self._find_problem(token)
        if problem:
            raise JoinRefusedError(
                f"the join string of {device.id} {problem}; make a new one with"
                f" `edgefleet device add {device.id} --again`",
                device_id=device.id,
            )
        return device

    def _tell(self, reason: str, device_id: str, *, key: str = "") -> None:
        """Note a refused join string: one used twice was copied, many unknown ones are guesses."""
        key = key or device_id
        if not self.told.take(key, self.clock.monotonic()):
            return
        with self.ledgers() as ledger:
            ledger.audit.append(
                at=self.clock.now(),
                actor="somebody with a join string",
                act="join.refused",
                subject=device_id or "unknown",
                reason=reason,
                detail={"untold": self.told.take_refused(key)},
            )

    def _find_problem(self, token: JoinToken) -> str:
        if token.used_at is not None:
            return f"was used at {token.used_at:%Y-%m-%d %H:%M:%S} UTC"
        if token.expires_at <= self.clock.now():
            return f"expired or was cancelled at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        return ""
