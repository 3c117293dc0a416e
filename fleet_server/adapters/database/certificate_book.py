"""Certificates of devices in the control database; the revocation list on disk follows them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import literal_column, update
from sqlmodel import Session, col, select

from fleet_server.adapters.database.tables import CertificateRow, DeviceRow
from fleet_server.core.renewal import CertificateRecord
from fleet_server.ports.trust import IssuedCertificate

SERIALS_PER_QUERY = 500


class CertificateBook:
    """The ``CertificateStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, device: int, issued: IssuedCertificate, *, at: datetime) -> None:
        """Record a certificate as the newest of a device."""
        self._session.add(
            CertificateRow(
                serial=issued.serial,
                device=device,
                key_sha256=issued.key_sha256,
                issued_at=at,
                expires_at=issued.expires_at,
                pem=issued.pem.decode(),
            )
        )

    def list_unexpired(self, device: int, *, now_at: datetime) -> list[CertificateRecord]:
        """Return a device's certificates that have not expired, oldest first."""
        rows = self._session.exec(
            select(CertificateRow)
            .where(col(CertificateRow.device) == device, col(CertificateRow.expires_at) > now_at)
            .order_by(literal_column("rowid"))
        )
        return [_record(row) for row in rows]

    def mark_seen(self, device: int, serial: str, *, at: datetime) -> str:
        """Note that a device says it uses a certificate; all others of it are revoked then."""
        row = self._session.get(CertificateRow, serial)
        if row is None or row.device != device:
            return ""
        if row.revoked_at is not None:
            return f"certificate {serial} is in use after it was replaced"
        if row.seen_at is None:
            row.seen_at, row.pem = at, ""
            owner = self._session.get_one(DeviceRow, device)
            owner.certificate_serial, owner.certificate_expires_at = serial, row.expires_at
            self.revoke(device, at=at, keep=serial)
        return ""

    def revoke(self, device: int, *, at: datetime, keep: str = "") -> list[str]:
        """Revoke every certificate of a device but ``keep``; return their serials."""
        rows = self._session.exec(
            select(CertificateRow).where(
                col(CertificateRow.device) == device,
                col(CertificateRow.serial) != keep,
                col(CertificateRow.revoked_at).is_(None),
                col(CertificateRow.expires_at) > at,
            )
        ).all()
        for row in rows:
            row.revoked_at, row.pem = at, ""
        return [row.serial for row in rows]

    def list_unlisted(self, limit: int) -> list[str]:
        """Return serials that are revoked and not yet in the list on disk."""
        query = select(CertificateRow.serial).where(
            col(CertificateRow.listed_at).is_(None), col(CertificateRow.revoked_at).is_not(None)
        )
        return list(self._session.exec(query.limit(limit)))

    def list_revoked(self, *, now_at: datetime) -> list[str]:
        """Return every revoked serial that has not expired."""
        query = select(CertificateRow.serial).where(
            col(CertificateRow.revoked_at).is_not(None), col(CertificateRow.expires_at) > now_at
        )
        return list(self._session.exec(query))

    def mark_listed(self, serials: Sequence[str], *, at: datetime) -> None:
        """Note that the list on disk names these."""
        for start in range(0, len(serials), SERIALS_PER_QUERY):
            self._session.execute(
                update(CertificateRow)
                .where(col(CertificateRow.serial).in_(serials[start : start + SERIALS_PER_QUERY]))
                .values(listed_at=at)
            )


def _record(row: CertificateRow) -> CertificateRecord:
    return CertificateRecord(
        serial=row.serial,
        device=row.device,
        key_sha256=row.key_sha256,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        seen_at=row.seen_at,
        revoked_at=row.revoked_at,
        pem=row.pem,
    )
