"""What came of training families, among the decisions of the control database.

Failures have no version to stand with, so the newest run of each family keeps them; a run takes
the place of the one before it, whose counts stay in the audit log.
"""

import json

from sqlalchemy import delete
from sqlmodel import Session, col, select

from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.tables import DecisionRow
from fleet_server.ports.registry import FamilyRun

KIND = "family"
ACCEPTED, TOO_MANY_FAILED = "trained", "too many failed"
FAILURES_KEPT_MAX = 2_000
REASON_CHARS_MAX = 500


def write_family_run(session: Session, run: FamilyRun, actor: str) -> None:
    """Keep a run in place of the last; at most FAILURES_KEPT_MAX failures, the first by name."""
    failed = sorted(run.failed.items())[:FAILURES_KEPT_MAX]
    inputs = {
        "registered": run.registered,
        "kept": run.kept,
        "failed": {name: reason[:REASON_CHARS_MAX] for name, reason in failed},
        "too_small": dict(sorted(run.too_small.items())[:FAILURES_KEPT_MAX]),
        "rows_without": run.rows_without,
        "reasons": dict(run.reasons),
    }
    verdict = ACCEPTED if run.is_acceptable else TOO_MANY_FAILED
    session.execute(
        delete(DecisionRow).where(
            col(DecisionRow.kind) == KIND, col(DecisionRow.subject) == run.pattern
        )
    )
    session.add(
        DecisionRow(
            kind=KIND,
            subject=run.pattern,
            verdict=verdict,
            sentence=run.sentence,
            inputs=json.dumps(inputs, sort_keys=True),
            at=run.at,
        )
    )
    append_audit(
        session,
        at=run.at,
        actor=actor,
        act="family.train",
        object=run.pattern,
        detail={
            "verdict": verdict,
            "registered": run.registered,
            "kept": run.kept,
            "failed": len(run.failed),
        },
    )


def read_family_run(session: Session, pattern: str) -> FamilyRun | None:
    """Give the newest run of a family; None when none was kept."""
    query = (
        select(DecisionRow)
        .where(col(DecisionRow.kind) == KIND, col(DecisionRow.subject) == pattern)
        .order_by(col(DecisionRow.id).desc())
        .limit(1)
    )
    row = session.exec(query).first()
    if row is None:
        return None
    return FamilyRun(
        pattern=pattern,
        is_acceptable=row.verdict == ACCEPTED,
        sentence=row.sentence,
        at=row.at,
        **json.loads(row.inputs),
    )
