"""The audit log: append-only rows, each carrying the hash of the one before."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from fleet_server.adapters.database.tables import AuditRow

GENESIS = "0" * 64


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


def find_breaks(rows: Iterator[AuditRow]) -> Iterator[str]:
    """Yield a sentence for each edited, removed or reordered row; rows come oldest first."""
    previous, number = GENESIS, 0
    for row in rows:
        number += 1
        if row.id != number:
            yield f"row {number} is missing: the next row is {row.id}"
            number = row.id or number
        if row.previous_sha256 != previous:
            yield f"row {row.id} does not follow the row before it"
        if row.sha256 != _hash(row):
            yield f"row {row.id} ({row.act} {row.object}) was edited"
        previous = row.sha256


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
