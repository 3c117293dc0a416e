"""One write transaction over the control database, as use cases see it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session

from fleet_server.adapters.database.approval_repository import ApprovalRepository
from fleet_server.adapters.database.assignment_repository import AssignmentRepository
from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.certificate_book import CertificateBook
from fleet_server.adapters.database.device_repository import DeviceRepository
from fleet_server.adapters.database.engine import write_session
from fleet_server.ports.devices import Ledger, Ledgers


class DatabaseLedger:
    """The ``Ledger`` over one session that holds the write lock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.devices = DeviceRepository(session)
        self.certificates = CertificateBook(session)
        self.assignments = AssignmentRepository(session)
        self.approvals = ApprovalRepository(session)
        self.audit = AuditTrail(session)


class AuditTrail:
    """The ``AuditTrail`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(
        self,
        *,
        at: datetime,
        actor: str,
        act: str,
        subject: str,
        reason: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one row."""
        append_audit(
            self._session,
            at=at,
            actor=actor,
            act=act,
            object=subject,
            reason=reason,
            detail=detail,
        )


def ledgers_of(engine: Engine) -> Ledgers:
    """Give what opens ledgers over an engine."""

    @contextmanager
    def open_ledger() -> Iterator[Ledger]:
        with write_session(engine) as session:
            yield DatabaseLedger(session)

    return open_ledger
