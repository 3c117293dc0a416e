"""Drift verdicts in the control database, and who and what is watched."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update
from sqlmodel import Session, col

from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    DecisionRow,
    DeviceRow,
    DriftAlarmRow,
    DriftCellRow,
    GroupRow,
)
from fleet_server.core.drift_alarm import AlarmMemory, AlarmState
from fleet_server.core.drift_policy import Level, Severity
from fleet_server.ports.drift import (
    DriftDecision,
    DriftOutcome,
    StoredAlarm,
    StoredCell,
    WatchedDevice,
    WatchedPackage,
)

DECISION_KIND = "drift"


class DatabaseDriftCatalog:
    """The ``DriftCatalog`` of a workspace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_packages(self) -> list[WatchedPackage]:
        """Return every registered package."""
        columns = (
            col(ArtifactRow.model),
            col(ArtifactRow.version),
            col(ArtifactRow.sha256),
            col(ArtifactRow.reference_hash),
        )
        with read_session(self._engine) as session:
            return [
                WatchedPackage(model=model, version=version, sha256=sha256, reference_hash=found)
                for model, version, sha256, found in session.execute(select(*columns))
            ]

    def list_devices(self) -> list[WatchedDevice]:
        """Return every device that is not revoked."""
        columns = col(DeviceRow.number), col(DeviceRow.id), col(DeviceRow.profile)
        query = select(*columns, col(DeviceRow.labels)).where(col(DeviceRow.revoked_at).is_(None))
        with read_session(self._engine) as session:
            return [
                WatchedDevice(
                    number=number or 0, id=name, profile=profile, labels=json.loads(labels)
                )
                for number, name, profile, labels in session.execute(query)
            ]

    def list_groups(self) -> dict[str, str]:
        """Return label queries by group name."""
        query = select(col(GroupRow.name), col(GroupRow.query)).order_by(col(GroupRow.name))
        with read_session(self._engine) as session:
            return {str(row.name): str(row.query) for row in session.execute(query)}


class DatabaseDriftStore:
    """The ``DriftStore`` of a workspace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_alarms(self, model: str | None = None, *, closed_max: int = 0) -> list[StoredAlarm]:
        """Return alarms that are not closed, and the newest ``closed_max`` closed ones."""
        is_closed = col(DriftAlarmRow.state) == AlarmState.CLOSED
        living = select(DriftAlarmRow).where(~is_closed).order_by(col(DriftAlarmRow.id))
        closed = select(DriftAlarmRow).where(is_closed).order_by(col(DriftAlarmRow.id).desc())
        if model is not None:
            living = living.where(col(DriftAlarmRow.model) == model)
            closed = closed.where(col(DriftAlarmRow.model) == model)
        with read_session(self._engine) as session:
            rows = list(session.scalars(living))
            rows += session.scalars(closed.limit(closed_max))
            return [_alarm(row) for row in rows]

    def find_closed(self, model: str) -> dict[tuple[Level, str], AlarmMemory]:
        """Return what the newest closed alarm of each subject remembers."""
        newest = (
            select(func.max(DriftAlarmRow.id))
            .where(col(DriftAlarmRow.model) == model, col(DriftAlarmRow.state) == AlarmState.CLOSED)
            .group_by(col(DriftAlarmRow.level), col(DriftAlarmRow.subject))
        )
        query = select(DriftAlarmRow).where(col(DriftAlarmRow.id).in_(newest))
        with read_session(self._engine) as session:
            alarms = [_alarm(row) for row in session.scalars(query)]
        return {(alarm.level, alarm.subject): alarm.memory for alarm in alarms}

    def find_alarm(self, alarm_id: int) -> StoredAlarm | None:
        """Return one alarm."""
        with read_session(self._engine) as session:
            row = session.get(DriftAlarmRow, alarm_id)
            return _alarm(row) if row else None

    def list_cells(self, model: str, level: Level | None = None) -> list[StoredCell]:
        """Return the newest judgement of a model, largest effect first."""
        query = (
            select(DriftCellRow)
            .where(col(DriftCellRow.model) == model)
            .order_by(col(DriftCellRow.psi).desc(), col(DriftCellRow.p_value))
        )
        if level is not None:
            query = query.where(col(DriftCellRow.level) == level)
        with read_session(self._engine) as session:
            return [_cell(row) for row in session.scalars(query)]

    def list_judged(self) -> list[str]:
        """Return the models with a judgement, by name."""
        query = select(col(DriftCellRow.model)).distinct().order_by(col(DriftCellRow.model))
        with read_session(self._engine) as session:
            return list(session.scalars(query))

    def save(self, outcome: DriftOutcome) -> None:
        """Write an outcome in one transaction."""
        with write_session(self._engine) as session:
            session.execute(delete(DriftCellRow).where(col(DriftCellRow.model) == outcome.model))
            if outcome.cells:
                session.execute(insert(DriftCellRow), list(_cell_values(outcome)))
            _save_alarms(session, outcome.alarms)
            if outcome.dropped:
                session.execute(
                    delete(DriftAlarmRow).where(col(DriftAlarmRow.id).in_(list(outcome.dropped)))
                )
            session.add_all(_decision_rows(outcome.decisions, outcome))

    def acknowledge(self, alarm_id: int, *, reason: str, actor: str, at: datetime) -> None:
        """Note who looks after an alarm, with an audit row."""
        with write_session(self._engine) as session:
            row = session.get_one(DriftAlarmRow, alarm_id)
            row.acknowledged_at, row.acknowledged_reason = at, reason
            append_audit(
                session,
                at=at,
                actor=actor,
                act="drift.ack",
                object=f"{row.model}/{row.level}/{row.subject}",
                reason=reason,
                detail={"alarm": alarm_id, "sentence": row.sentence},
            )


def _alarm(row: DriftAlarmRow) -> StoredAlarm:
    return StoredAlarm(
        id=row.id or 0,
        model=row.model,
        level=Level(row.level),
        subject=row.subject,
        memory=AlarmMemory.from_json(json.loads(row.memory)),
        severity=Severity(row.severity),
        features=tuple(json.loads(row.features)),
        sentence=row.sentence,
        changed_at=row.changed_at,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        acknowledged_at=row.acknowledged_at,
        acknowledged_reason=row.acknowledged_reason,
    )


def _alarm_values(alarm: StoredAlarm) -> dict[str, Any]:
    """Give the columns a judgement owns; acknowledging is a person's."""
    return {
        "model": alarm.model,
        "level": str(alarm.level),
        "subject": alarm.subject,
        "state": str(alarm.memory.state),
        "severity": str(alarm.severity),
        "features": json.dumps(alarm.features),
        "sentence": alarm.sentence,
        "memory": json.dumps(alarm.memory.to_json()),
        "opened_at": alarm.opened_at,
        "closed_at": alarm.closed_at,
        "changed_at": alarm.changed_at,
    }


def _save_alarms(session: Session, alarms: Sequence[StoredAlarm]) -> None:
    for alarm in alarms:
        values = _alarm_values(alarm)
        if alarm.id:
            session.execute(
                update(DriftAlarmRow).where(col(DriftAlarmRow.id) == alarm.id).values(**values)
            )
        else:
            session.add(DriftAlarmRow(**values))


def _cell(row: DriftCellRow) -> StoredCell:
    return StoredCell(
        level=Level(row.level),
        subject=row.subject,
        feature=row.feature,
        rows=row.rows,
        windows=row.horizon,
        statistic=row.statistic,
        p_value=row.p_value,
        psi=row.psi,
        sentence=row.sentence,
        detail=json.loads(row.detail),
        at=row.at,
    )


def _cell_values(outcome: DriftOutcome) -> Iterator[dict[str, Any]]:
    for cell in outcome.cells:
        yield {
            "model": outcome.model,
            "level": str(cell.level),
            "subject": cell.subject,
            "feature": cell.feature,
            "rows": cell.rows,
            "horizon": cell.windows,
            "statistic": cell.statistic,
            "p_value": cell.p_value,
            "psi": cell.psi,
            "sentence": cell.sentence,
            "detail": json.dumps(cell.detail),
            "at": cell.at,
        }


def _decision_rows(
    decisions: Sequence[DriftDecision], outcome: DriftOutcome
) -> Iterator[DecisionRow]:
    for decision in decisions:
        yield DecisionRow(
            kind=DECISION_KIND,
            subject=decision.subject,
            verdict=decision.verdict,
            sentence=decision.sentence,
            inputs=json.dumps(decision.inputs),
            at=outcome.at,
        )
