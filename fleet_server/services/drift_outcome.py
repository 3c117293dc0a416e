"""Turn verdicts into what is stored: cells for tables, alarms with their memory, decisions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime

from fleet_server.core.drift_alarm import AlarmEvent, AlarmMemory, AlarmState, Look, step_alarm
from fleet_server.core.drift_case import AlarmCase
from fleet_server.core.drift_cells import DriftCell, Key
from fleet_server.core.drift_compare import find_strength
from fleet_server.core.drift_finding import Change, Finding
from fleet_server.core.drift_policy import FLEET_SUBJECT, Level, Severity
from fleet_server.core.drift_verdict import Verdict
from fleet_server.ports.drift import DriftDecision, DriftOutcome, StoredAlarm, StoredCell

_LOG_10 = math.log(10)


def make_outcome(
    model: str,
    verdicts: Sequence[Verdict],
    alarms: Sequence[StoredAlarm],
    subjects: Mapping[Level, frozenset[str]],
    *,
    at: datetime,
) -> DriftOutcome:
    """Step every alarm of one model and collect what is to be written.

    Args:
        model: The model.
        verdicts: One a family, the main one first.
        alarms: Those that are not closed.
        subjects: Devices and groups that exist; alarms of others are closed.
        at: Now.
    """
    living = {(alarm.level, alarm.subject): alarm for alarm in alarms}
    cases = {(c.level, c.subject): (c, v) for v in reversed(verdicts) for c in v.cases}
    changed: list[StoredAlarm] = []
    dropped: list[int] = []
    decisions: list[DriftDecision] = []
    for key in sorted(living.keys() | cases.keys()):
        alarm, (case, verdict) = living.get(key), cases.get(key, (None, None))
        if alarm is not None and key[1] not in subjects[key[0]]:
            closed = _close(alarm, at)
            changed.append(closed)
            decisions.append(_decide(closed, "closed", f"{key[1]} no longer exists"))
            continue
        verdict = verdict or _find_verdict(key, verdicts)
        if verdict is None:
            continue
        look = Look(
            newest_ms=verdict.newest_ms,
            window_ms=verdict.window_ms,
            case_windows=case.windows if case else 0,
            is_confirmed=case is not None and case.is_confirmed,
            is_quiet=verdict.quiet.get(key),
            is_folded=key in verdict.folded,
        )
        memory, event = step_alarm(alarm.memory if alarm else None, look)
        if memory is None:
            if alarm is not None:
                dropped.append(alarm.id)
            continue
        stepped = _update(model, alarm, case, memory, event, at=at)
        if stepped is None:
            continue
        changed.append(stepped)
        decision = _find_decision(alarm, stepped, case, event, verdict.folded.get(key))
        if decision is not None:
            decisions.append(decision)
    return DriftOutcome(
        model=model,
        cells=tuple(store_cell(cell, at) for verdict in verdicts for cell in verdict.cells),
        alarms=tuple(changed),
        dropped=tuple(dropped),
        decisions=tuple(decisions),
        at=at,
    )


def store_cell(cell: DriftCell, at: datetime) -> StoredCell:
    """Flatten a cell into what tables and JSON show."""
    finding = cell.finding
    name, statistic = _find_statistic(finding)
    return StoredCell(
        level=cell.level,
        subject=cell.subject,
        feature=finding.feature,
        rows=finding.rows,
        windows=finding.windows,
        statistic=statistic,
        p_value=finding.p_value,
        psi=finding.psi,
        sentence=cell.sentence,
        detail={
            "statistic": name,
            "change": str(finding.change),
            "is_notable": cell.is_notable,
            "z_location": finding.z_location,
            "z_spread": finding.z_spread,
            "log10_p": finding.log_p / _LOG_10,
            "median_rank": finding.median_rank,
            "shares": asdict(finding.shares),
            "affected": cell.affected,
            "devices": cell.devices,
            "since_ms": cell.since_ms,
            "rest_psi": cell.rest_psi,
            "rest_log10_p": None if cell.rest_log_p is None else cell.rest_log_p / _LOG_10,
        },
        at=at,
    )


def known_subjects(device_ids: Sequence[str], groups: Sequence[str]) -> dict[Level, frozenset[str]]:
    """Say which subjects exist, for ``make_outcome``."""
    return {
        Level.DEVICE: frozenset(device_ids),
        Level.GROUP: frozenset(groups),
        Level.FLEET: frozenset({FLEET_SUBJECT}),
    }


def _find_statistic(finding: Finding) -> tuple[str, float]:
    if finding.change in (Change.UP, Change.DOWN):
        return "location z", finding.z_location
    if finding.change in (Change.WIDER, Change.NARROWER):
        return "spread z", finding.z_spread
    return f"{finding.change} strength", float(find_strength(finding.log_p))


def _find_verdict(key: Key, verdicts: Sequence[Verdict]) -> Verdict | None:
    """Find who judged a subject: only then does its alarm move."""
    return next((v for v in verdicts if key in v.quiet or key in v.folded), None)


def _update(
    model: str,
    alarm: StoredAlarm | None,
    case: AlarmCase | None,
    memory: AlarmMemory,
    event: AlarmEvent,
    *,
    at: datetime,
) -> StoredAlarm | None:
    if alarm is None:
        if case is None:
            return None
        alarm = StoredAlarm(
            id=0,
            model=model,
            level=case.level,
            subject=case.subject,
            memory=memory,
            severity=case.severity,
            features=case.features,
            sentence=case.sentence,
            changed_at=at,
        )
    if case is not None:
        alarm = replace(
            alarm, severity=case.severity, features=case.features, sentence=case.sentence
        )
    alarm = replace(alarm, memory=memory, changed_at=at)
    if event is AlarmEvent.OPENED:
        return replace(alarm, opened_at=at)
    return _close(alarm, at) if memory.state is AlarmState.CLOSED else alarm


def _close(alarm: StoredAlarm, at: datetime) -> StoredAlarm:
    memory = replace(alarm.memory, state=AlarmState.CLOSED)
    return replace(alarm, memory=memory, closed_at=at, changed_at=at)


def _find_decision(
    before: StoredAlarm | None,
    alarm: StoredAlarm,
    case: AlarmCase | None,
    event: AlarmEvent,
    folded_into: Key | None,
) -> DriftDecision | None:
    """Put opening, closing, folding and getting worse on record."""
    if event is AlarmEvent.OPENED and case is not None:
        return _decide(alarm, "open", alarm.sentence, case)
    if event is AlarmEvent.CLOSED:
        return _decide(alarm, "closed", f"{alarm.subject}: quiet for long enough again")
    if event is AlarmEvent.FOLDED and folded_into is not None:
        level, subject = folded_into
        return _decide(alarm, "folded", f"{alarm.subject}: part of the alarm of {level} {subject}")
    is_worse = (
        before is not None
        and case is not None
        and before.severity is Severity.WATCH
        and case.severity is Severity.ACT
        and before.memory.state is not AlarmState.PENDING
    )
    return _decide(alarm, "act", alarm.sentence, case) if is_worse else None


def _decide(
    alarm: StoredAlarm, verdict: str, sentence: str, case: AlarmCase | None = None
) -> DriftDecision:
    return DriftDecision(
        subject=f"{alarm.model}/{alarm.level}/{alarm.subject}",
        verdict=verdict,
        sentence=sentence,
        inputs=case.inputs if case else {"memory": alarm.memory.to_json()},
    )
