"""What reports say about a device's identity, written with its rows: certificate, copies, attacks.

Cheap where nothing is new: one look-up for the serials of a batch, nothing for reports without a
refusal. A refusal is told to the audit log when the report before did not have it, at most
ROWS_PER_HOUR_MAX rows a device and hour; what was left out is counted in the next row.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import update
from sqlmodel import Session, col, select

from edge_agent.contract.errors import ContractError
from edge_agent.contract.messages import Reported
from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.certificate_book import CertificateBook
from fleet_server.adapters.database.tables import CertificateRow, DeviceRow
from fleet_server.core.quota import Quota
from fleet_server.ports.gateway import DeviceChange
from fleet_server.services.record_report import find_trust_refusals

ROWS_PER_HOUR_MAX = 6
HOUR_S = 3_600.0
_IN_MAX = 500


class IdentityNotes:
    """Writes them; one per process, so that the bound on audit rows holds."""

    def __init__(self) -> None:
        self._told = Quota(count_max=ROWS_PER_HOUR_MAX, period_s=HOUR_S)

    def write(self, session: Session, changes: Sequence[DeviceChange], *, at: datetime) -> None:
        """Note what a batch says, before its rows are replaced, in the same transaction."""
        evidence = {c.device: c.evidence for c in changes if c.evidence}
        evidence |= self._note_certificates(session, changes, at)
        for device, sentence in evidence.items():
            self._note_copy(session, device, sentence, at)
        for change in changes:
            if change.refusals:
                self._note_refusals(session, change, at)

    def _note_certificates(
        self, session: Session, changes: Sequence[DeviceChange], at: datetime
    ) -> dict[int, str]:
        said = {c.device: c.report.certificate for c in changes if c.report is not None}
        serials = [serial for serial in said.values() if serial]
        news: set[str] = set()
        for start in range(0, len(serials), _IN_MAX):
            found = session.exec(
                select(CertificateRow.serial).where(
                    col(CertificateRow.serial).in_(serials[start : start + _IN_MAX]),
                    col(CertificateRow.seen_at).is_(None)
                    | col(CertificateRow.revoked_at).is_not(None),
                )
            )
            news |= set(found)
        book, evidence = CertificateBook(session), {}
        for device, serial in said.items():
            if serial in news:
                sentence = book.mark_seen(device, serial, at=at)
                if sentence:
                    evidence[device] = sentence
        return evidence

    def _note_copy(self, session: Session, device: int, sentence: str, at: datetime) -> None:
        marked = session.connection().execute(
            update(DeviceRow)
            .where(col(DeviceRow.number) == device, col(DeviceRow.cloned_at).is_(None))
            .values(cloned_at=at, clone_evidence=sentence)
        )
        if marked.rowcount:
            name = _name_of(session, device)
            append_audit(
                session,
                at=at,
                actor="gateway",
                act="device.cloned",
                object=name,
                reason=sentence,
            )

    def _note_refusals(self, session: Session, change: DeviceChange, at: datetime) -> None:
        name, text = session.exec(
            select(DeviceRow.id, DeviceRow.reported).where(col(DeviceRow.number) == change.device)
        ).one()
        before = _refusals_of(text)
        news = [note for note in change.refusals if (note.place, note.code) not in before]
        for note in news:
            if not self._told.take(name, at.timestamp()):
                continue
            append_audit(
                session,
                at=at,
                actor=f"device {name}",
                act="report.refused",
                object=name,
                reason=f"{note.code}: {note.detail}"[:500],
                detail={
                    "code": note.code,
                    "slot": note.place,
                    "untold": self._told.take_refused(name),
                },
            )


def _refusals_of(text: str) -> frozenset[tuple[str, str]]:
    """Return place and code of the refusals in the report that is stored."""
    if not text:
        return frozenset()
    try:
        report = Reported.decode(text.encode())
    except ContractError:
        return frozenset()
    return frozenset((note.place, note.code) for note in find_trust_refusals(report))


def _name_of(session: Session, device: int) -> str:
    return session.exec(select(DeviceRow.id).where(col(DeviceRow.number) == device)).one()
