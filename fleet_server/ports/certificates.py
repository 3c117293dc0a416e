"""What renewal, revocation and cutting sessions need from the database and the broker."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fleet_server.core.renewal import CertificateRecord
from fleet_server.ports.trust import IssuedCertificate


class CertificateStore(Protocol):
    """Certificates of devices within one transaction; the truth behind the revocation list."""

    def add(self, device: int, issued: IssuedCertificate, *, at: datetime) -> None:
        """Record a certificate as the newest of a device."""
        ...

    def list_unexpired(self, device: int, *, now_at: datetime) -> list[CertificateRecord]:
        """Return a device's certificates that have not expired, oldest first."""
        ...

    def mark_seen(self, device: int, serial: str, *, at: datetime) -> str:
        """Note that a device says it uses a certificate; all others of it are revoked then.

        Returns:
            Evidence that the identity is in use twice, when that certificate was replaced by one
            seen in use; empty otherwise.
        """
        ...

    def revoke(self, device: int, *, at: datetime, keep: str = "") -> list[str]:
        """Revoke every certificate of a device but ``keep``; return their serials."""
        ...

    def list_unlisted(self, limit: int) -> list[str]:
        """Return serials that are revoked and not yet in the list on disk."""
        ...

    def list_revoked(self, *, now_at: datetime) -> list[str]:
        """Return every revoked serial that has not expired."""
        ...

    def mark_listed(self, serials: Sequence[str], *, at: datetime) -> None:
        """Note that the list on disk names these."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCut:
    """A device whose open session must end.

    Attributes:
        device: Number.
        device_id: Id.
        wanted_at: Since when; a later wish is another one.
        is_revoked: It may not come back at all.
    """

    device: int
    device_id: str
    wanted_at: datetime
    is_revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedPair:
    """A certificate made to be refused, and its key, both PEM: who refuses it has the list."""

    certificate: bytes
    key: bytes


class RevocationList(Protocol):
    """The list that the broker reads."""

    def revoke(self, serials: Sequence[str]) -> None:
        """Add serials."""
        ...

    def revoke_probe(self, serials: Sequence[str]) -> RevokedPair:
        """Add serials and, in the same list, a certificate made for this."""
        ...


class SessionBroker(Protocol):
    """The broker, as somebody sees it who ends sessions."""

    def refuses(self, pair: RevokedPair) -> bool | None:
        """Tell whether devices with this certificate are refused; None when nobody answers."""
        ...

    def cut(self, device_id: str) -> bool:
        """End a device's session and forget what waits for it; False when it did not work."""
        ...

    def clear_desired(self, device_ids: Sequence[str]) -> bool:
        """Remove the retained assignments of devices; False when it did not work."""
        ...
