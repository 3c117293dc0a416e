"""The audit log: append-only rows, each carrying the hash of the one before.

The chain shows edits and gaps. It cannot show that its newest rows are gone: for that its head is
kept elsewhere (``adapters/audit_head.py``).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import AuditRow
from fleet_server.ports.audit import AuditFilter, AuditHead, AuditRecord

GENESIS = "0" * 64
ROWS_AT_ONCE = 1_000


def append_audit(
    session: Session,
    *,
    at: datetime,
    actor: str,
    act: str,
    object: str,  # noqa: A002 - the word of the log's column
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
) -> AuditRow:
    """Add one row in the caller's write transaction, so that act and record are one.

    Args:
        session: Holds the write lock; the chain has one writer at a time.
        at: Aware UTC.
        actor: Person, token or loop.
        act: Verb phrase such as ``model.approve``.
        object: What it was done to, such as ``digits/3``.
        reason: As given by the actor.
        detail: JSON-able inputs.
    """
    last = session.exec(select(AuditRow).order_by(col(AuditRow.id).desc()).limit(1)).first()
    row = AuditRow(
        at=at,
        actor=actor,
        act=act,
        object=object,
        reason=reason,
        detail=json.dumps(dict(detail or {}), sort_keys=True, default=str),
        previous_sha256=last.sha256 if last else GENESIS,
        sha256="",
    )
    row.sha256 = _hash(row)
    session.add(row)
    session.flush()
    return row


class AuditLog:
    """The ``AuditReader`` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_page(self, wanted: AuditFilter, *, before: int, limit: int) -> list[AuditRecord]:
        """Return rows, the newest below number ``before`` first."""
        query = select(AuditRow).where(col(AuditRow.id) < before)
        if wanted.actor:
            query = query.where(AuditRow.actor == wanted.actor)
        if wanted.act.endswith("."):
            # a range, not LIKE: an index finds it and no character has a meaning of its own
            query = query.where(
                col(AuditRow.act) >= wanted.act, col(AuditRow.act) < f"{wanted.act[:-1]}/"
            )
        elif wanted.act:
            query = query.where(AuditRow.act == wanted.act)
        if wanted.since is not None:
            query = query.where(col(AuditRow.at) >= wanted.since)
        with read_session(self._engine) as session:
            rows = session.exec(query.order_by(col(AuditRow.id).desc()).limit(limit))
            return [_record(row) for row in rows]

    def find_head(self) -> AuditHead | None:
        """Return the newest row; None for an empty log."""
        query = select(AuditRow).order_by(col(AuditRow.id).desc()).limit(1)
        with read_session(self._engine) as session:
            row = session.exec(query).first()
            return AuditHead(rows=row.id or 0, sha256=row.sha256) if row else None

    def find_hash(self, row: int) -> str | None:
        """Return the hash a row carries; None when there is no such row."""
        with read_session(self._engine) as session:
            found = session.get(AuditRow, row)
            return found.sha256 if found else None

    def find_breaks(self, heads: Sequence[AuditHead]) -> Iterator[str]:
        """Read the whole log in parts and yield what is wrong; see ``find_breaks``."""
        with read_session(self._engine) as session:
            query = select(AuditRow).order_by(col(AuditRow.id))
            parts = session.scalars(query.execution_options(yield_per=ROWS_AT_ONCE))
            yield from find_breaks(parts, heads)


def find_breaks(rows: Iterable[AuditRow], heads: Sequence[AuditHead] = ()) -> Iterator[str]:
    """Yield a sentence for each edited, removed or reordered row; rows come oldest first.

    Args:
        rows: Of the whole log.
        heads: Rows somebody saw: they must be there, unchanged. Rows cut off the end, and a log
            that was written anew as a whole, show only against one of these.
    """
    previous, number = GENESIS, 0
    seen: dict[int, list[AuditHead]] = {}
    for head in heads:
        seen.setdefault(head.rows, []).append(head)
    for row in rows:
        number += 1
        if row.id != number:
            yield f"row {number} is missing: the next row is {row.id}"
            number = row.id or number
        if row.previous_sha256 != previous:
            yield f"row {row.id} does not follow the row before it"
        if row.sha256 != _hash(row):
            yield f"row {row.id} ({row.act} {row.object}) was edited"
        for head in seen.pop(number, ()):
            if head.sha256 != row.sha256:
                yield f"row {number} is not the one that {head.place} remembers: written anew"
        previous = row.sha256
    for rows_seen, lost in sorted(seen.items()):
        for head in lost:
            yield (
                f"the log ends at row {number}, but {head.place} remembers row {rows_seen}:"
                f" {max(rows_seen - number, 1)} of the newest rows were cut off, or an old copy of"
                " the database was put back"
            )


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        id=row.id or 0,
        at=row.at,
        actor=row.actor,
        act=row.act,
        object=row.object,
        reason=row.reason,
        detail=row.detail,
        sha256=row.sha256,
    )


def _hash(row: AuditRow) -> str:
    body = [
        row.at.isoformat(),
        row.actor,
        row.act,
        row.object,
        row.reason,
        row.detail,
        row.previous_sha256,
    ]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
