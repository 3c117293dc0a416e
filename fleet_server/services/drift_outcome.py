"""Turn verdicts into what is stored: cells for tables, alarms with their memory, decisions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from fleet_server.core.drift_alarm import AlarmEvent, AlarmMemory, AlarmState, Look, step_alarm
from fleet_server.core.drift_case import AlarmCase
from fleet_server.core.drift_cells import DriftCell, Key
from fleet_server.core.drift_compare import find_strength
from fleet_server.core.drift_finding import Change, Finding
from fleet_server.core.drift_policy import Level, Severity
from fleet_server.core.drift_verdict import Verdict
from fleet_server.ports.drift import DriftDecision, DriftOutcome, StoredAlarm, StoredCell

_LOG_10 = math.log(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Who there is: alarms of others are closed, and what is part of what.

    Attributes:
        devices: Ids.
        groups: Ids of the members by group name.
    """

    devices: frozenset[str]
    groups: Mapping[str, frozenset[str]]

    def has(self, key: Key) -> bool:
        """Tell whether a subject still exists."""
        level, subject = key
        known = {Level.DEVICE: self.devices, Level.GROUP: self.groups.keys()}
        return level is Level.FLEET or subject in known[level]

    def is_member(self, key: Key, whole: Key) -> bool:
        """Tell whether a subject is a device of a group or of the fleet."""
        if key[0] is not Level.DEVICE or whole[0] is Level.DEVICE:
            return False
        return whole[0] is Level.FLEET or key[1] in self.groups.get(whole[1], frozenset())


def make_outcome(
    model: str,
    verdicts: Sequence[Verdict],
    alarms: Sequence[StoredAlarm],
    subjects: Subjects,
    *,
    at: datetime,
) -> DriftOutcome:
    """Step every alarm of one model and collect what is to be written.

    Args:
        model: The model.
        verdicts: One a family, the main one first.
        alarms: Those that are not closed.
        subjects: Who there is.
        at: Now.
    """
    steps = _Steps(model, {(alarm.level, alarm.subject): alarm for alarm in alarms}, subjects, at)
    cases = {(c.level, c.subject): (c, v) for v in reversed(verdicts) for c in v.cases}
    order = (Level.FLEET, Level.GROUP, Level.DEVICE)
    for key in sorted(steps.living.keys() | cases.keys(), key=lambda k: (order.index(k[0]), k[1])):
        case, verdict = cases.get(key, (None, None))
        steps.step(key, case, verdict or _find_verdict(key, verdicts))
    return DriftOutcome(
        model=model,
        cells=tuple(store_cell(cell, at) for verdict in verdicts for cell in verdict.cells),
        alarms=tuple(steps.changed),
        dropped=tuple(steps.dropped),
        decisions=tuple(steps.decisions),
        at=at,
    )


class _Steps:
    """Steps alarms one by one, larger sets first, and collects what changes."""

    def __init__(
        self, model: str, living: dict[Key, StoredAlarm], subjects: Subjects, at: datetime
    ) -> None:
        self._model, self._subjects, self._at = model, subjects, at
        self.living = living
        self.changed: list[StoredAlarm] = []
        self.dropped: list[int] = []
        self.decisions: list[DriftDecision] = []

    def step(self, key: Key, case: AlarmCase | None, verdict: Verdict | None) -> None:
        """Step one alarm, or open it."""
        alarm = self.living.get(key)
        if alarm is not None and not self._subjects.has(key):
            closed = _close(alarm, self._at)
            self._keep(key, closed, _decide(closed, "closed", f"{key[1]} no longer exists"))
            return
        if verdict is None:
            return
        whole = verdict.folded.get(key) or (self._find_cover(key, case) if case else None)
        if whole is not None and key not in verdict.folded:
            case = None  # an open alarm of a larger set says it already
        look = Look(
            newest_ms=verdict.newest_ms,
            window_ms=verdict.window_ms,
            case_windows=case.windows if case else 0,
            is_confirmed=case is not None and case.is_confirmed,
            is_quiet=verdict.quiet.get(key),
            is_folded=whole is not None,
        )
        memory, event = step_alarm(alarm.memory if alarm else None, look)
        if memory is None:
            if alarm is not None:
                self.dropped.append(alarm.id)
                del self.living[key]
            return
        stepped = _update(self._model, alarm, case, memory, event, at=self._at)
        if stepped is not None:
            self._keep(key, stepped, _find_decision(alarm, stepped, case, event, whole))

    def _find_cover(self, key: Key, case: AlarmCase) -> Key | None:
        """Find an open alarm of a larger set that names the worst feature of this case."""
        for whole, alarm in self.living.items():
            is_open = alarm.memory.state is AlarmState.OPEN
            if (
                is_open
                and self._subjects.is_member(key, whole)
                and case.features[0] in alarm.features
            ):
                return whole
        return None

    def _keep(self, key: Key, alarm: StoredAlarm, decision: DriftDecision | None) -> None:
        self.changed.append(alarm)
        self.living[key] = alarm
        if decision is not None:
            self.decisions.append(decision)


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
