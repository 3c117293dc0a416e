"""Replace the certificate authority in two steps, without losing a device.

First a new authority is trusted beside the old one, by approvers' signature; devices follow and ask
for certificates of it. Then, when all have, the old one is trusted no more. Each step may be given
again after it was cut.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fleet_server.errors import RefusedError
from fleet_server.ports.devices import DeviceRecord, Ledgers
from fleet_server.ports.keys import CA_ROLE, AuthorityHandover, KeyAct, KeyChange
from fleet_server.services.change_keys import KeyDesk, KeyOutcome, Show

NAMED_MAX = 20
"""Devices that a refusal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """How far the change of authority is.

    Attributes:
        authorities: sha256 of those that count, newest first.
        waiting: Devices that do not hold a certificate of the newest one, by id.
        devices: How many devices there are that joined and are not revoked.
    """

    authorities: tuple[str, ...]
    waiting: tuple[str, ...]
    devices: int

    @property
    def is_under_way(self) -> bool:
        """Whether the former authority counts still."""
        return len(self.authorities) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityDesk:
    """Replaces the authority of one fleet.

    Attributes:
        ledgers: Opens transactions.
        keys: Signs, and puts in force.
        find_authorities: Gives the authority's files as they are now.
    """

    ledgers: Ledgers
    keys: KeyDesk
    find_authorities: Callable[[], AuthorityHandover]

    def look(self) -> Handover:
        """Tell how far it is."""
        known = self.find_authorities().authorities
        with self.ledgers() as ledger:
            devices = [d for d in ledger.devices.list_all() if is_in_service(d)]
        waiting = tuple(d.id for d in devices if not is_following(d, known[0]))
        return Handover(authorities=known, waiting=waiting, devices=len(devices))

    def begin(self, *, show: Show | None = None) -> KeyOutcome | None:
        """Let a new authority count beside the old one; None when one does already.

        Raises:
            RefusedError: As ``KeyDesk.change``.
        """
        finished = self.keys.finish()
        change = KeyChange(act=KeyAct.ROTATE, role=CA_ROLE)
        if finished is not None and finished.change == change.request:
            return finished
        if len(self.find_authorities().authorities) > 1:
            return None
        return self.keys.change(change, show=show)

    def conclude(self, *, is_forced: bool = False, show: Show | None = None) -> KeyOutcome | None:
        """Let the newest authority alone count; None when it does already.

        Args:
            is_forced: Also when devices have not followed: they must join anew.
            show: Shows what is signed.

        Raises:
            RefusedError: Devices have not followed; or as ``KeyDesk.change``.
        """
        finished = self.keys.finish()
        change = KeyChange(act=KeyAct.RETIRE, role=CA_ROLE)
        if finished is not None and finished.change == change.request:
            return finished
        standing = self.look()
        if not standing.is_under_way:
            return None
        if standing.waiting and not is_forced:
            raise RefusedError(
                f"{len(standing.waiting)} of {standing.devices} devices do not hold a certificate"
                f" of the new authority {standing.authorities[0][:12]}:"
                f" {_name(standing.waiting)}; wait until they have been online, revoke them, or"
                " --force: they must then join anew (`edgefleet device add ID --again`)"
            )
        return self.keys.change(change, show=show)


def is_in_service(device: DeviceRecord) -> bool:
    """Tell whether a device joined and is not revoked."""
    return device.enrolled_at is not None and device.revoked_at is None


def is_following(device: DeviceRecord, newest: str) -> bool:
    """Tell whether a device has said that it uses a certificate of the newest authority."""
    return _is_its_own(device) and device.certificate.get("authority") == newest


def find_left_behind(devices: Iterable[DeviceRecord], known: tuple[str, ...]) -> list[str]:
    """Return devices whose certificate is of no authority that counts: they must join anew.

    One that joined again and has not reported since is none of them.
    """
    return [
        device.id
        for device in devices
        if is_in_service(device)
        and _is_its_own(device)
        and device.certificate.get("authority") not in known
    ]


def _is_its_own(device: DeviceRecord) -> bool:
    """Tell whether the newest report is about the newest certificate."""
    return device.certificate.get("serial", "") == device.certificate_serial


def _name(ids: tuple[str, ...]) -> str:
    more = len(ids) - NAMED_MAX
    return ", ".join(ids[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
