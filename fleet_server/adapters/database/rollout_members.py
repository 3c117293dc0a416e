"""Which devices of a rollout a look must see, and how their rows become values.

Not all of them: what is settled and was not heard of since is only counted. One query joins what
is remembered, what the device last said, what is desired and what was signed.
"""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, false, func, or_, select, true
from sqlmodel import Session, col

from edge_agent.contract.codes import Code, FailureClass, class_of
from fleet_server.adapters.database.tables import (
    AssignmentRow,
    DesiredRow,
    DeviceRow,
    RolloutDeviceRow,
    RolloutRow,
    SlotRow,
)
from fleet_server.core.rollout_duties import ROWS_PER_ROUND, SETTLED_IN
from fleet_server.core.rollout_limits import OnHalt
from fleet_server.core.rollout_machine import ACTIVE, DUTIES, Duty, RolloutState
from fleet_server.core.rollout_outcome import (
    EXPOSED,
    IN_FLIGHT,
    Outcome,
    Progress,
    Refusal,
    SlotFacts,
)
from fleet_server.core.rollout_state import Desired, Member, Rollout
from fleet_server.core.targeting import Candidate, Unfit

_RETRYABLE = sorted(code for code in Code if class_of(code) is FailureClass.RETRYABLE)
_SCATTER = 2_654_435_761
"""Knuth's multiplier: the queue is served in an order that mixes ids, profiles and sites."""
_SCATTER_RANGE = 4_294_967_291

_READS_REPORT = frozenset(
    {Outcome.PENDING, Outcome.SILENT_BEFORE, Outcome.OFFERED, Outcome.WITHDRAWN}
)
"""Outcomes that depend on more of a report than its slot; reading it is the dearest part."""

_MEMBER = col(RolloutDeviceRow.device)
_COLUMNS: tuple[Any, ...] = (
    col(RolloutDeviceRow.stage),
    col(RolloutDeviceRow.outcome),
    col(RolloutDeviceRow.code),
    col(RolloutDeviceRow.detail),
    col(RolloutDeviceRow.previous_target),
    col(RolloutDeviceRow.target),
    col(RolloutDeviceRow.offered_at),
    col(RolloutDeviceRow.changed_at),
    col(RolloutDeviceRow.tries),
    col(DeviceRow.number),
    col(DeviceRow.id),
    col(DeviceRow.profile),
    col(DeviceRow.labels),
    col(DeviceRow.enrolled_at),
    col(DeviceRow.revoked_at),
    col(DeviceRow.is_online),
    col(DeviceRow.last_seen_at),
    col(DeviceRow.reported_at),
    col(DeviceRow.reported),
    col(SlotRow.state).label("slot_state"),
    col(SlotRow.running_sha256),
    col(SlotRow.confirmed_sha256),
    col(SlotRow.running_target),
    col(SlotRow.confirmed_target),
    col(SlotRow.code).label("slot_code"),
    col(SlotRow.detail).label("slot_detail"),
    col(SlotRow.rollout).label("slot_rollout"),
    col(SlotRow.changed_at).label("slot_changed_at"),
    col(DesiredRow.target).label("desired_target"),
    col(DesiredRow.rollout).label("desired_rollout"),
    col(DesiredRow.retry).label("desired_retry"),
    col(DesiredRow.shadow).label("desired_shadow"),
    col(AssignmentRow.counter),
    col(AssignmentRow.is_stale),
)


def load_members(session: Session, rollout: Rollout) -> list[Member]:
    """Return the devices a look must see, the queue last and in the order it is served."""
    found = [*session.execute(_query(rollout).where(_is_moving(rollout)))]
    queued = _is_queued(rollout)
    if queued is not None:
        scattered = (_MEMBER * _SCATTER + rollout.id * 40_503) % _SCATTER_RANGE
        order = (col(DeviceRow.is_online).desc(), scattered)
        found += session.execute(
            _query(rollout).where(queued).order_by(*order).limit(ROWS_PER_ROUND)
        )
    members = {row.number: _member(row) for row in found}
    return list(members.values())


def has_unsettled(session: Session, rollout: Rollout) -> bool:
    """Tell whether a rollout that is over still has devices to hear of or to serve."""
    queued = _is_queued(rollout)
    moving = or_(_is_unfinished(), _came_back(), false() if queued is None else queued)
    query = _join(select(_MEMBER), rollout).where(moving)
    if session.execute(query.limit(1)).first() is not None:
        return True
    return _has_moves(session, rollout)


def find_relabelled(session: Session) -> set[int]:
    """Return rollouts that hold a device whose labels changed since its offer, or that moves."""
    query = (
        select(col(DesiredRow.rollout))
        .join(DeviceRow, col(DeviceRow.number) == col(DesiredRow.device))
        .join(
            RolloutDeviceRow,
            and_(
                col(RolloutDeviceRow.device) == col(DesiredRow.device),
                col(RolloutDeviceRow.rollout) == col(DesiredRow.rollout),
            ),
        )
        .where(
            col(DeviceRow.labelled_at).is_not(None),
            or_(_is_relabelled(), _is_unfinished(), _came_back()),
        )
        .distinct()
    )
    return set(session.scalars(query))


def _has_moves(session: Session, rollout: Rollout) -> bool:
    """Tell whether a completed rollout of a family has a device that is for another member now."""
    family = rollout.policy.family
    if family is None or rollout.state is not RolloutState.COMPLETED:
        return False
    out = rollout.excluded_models
    columns: tuple[Any, ...] = (col(DeviceRow.labels), col(RolloutDeviceRow.target))
    rows = session.execute(_join(select(*columns), rollout).where(_may_move(rollout)))
    for labels, target in rows:
        due = family.choose(json.loads(labels), out)
        if due is not None and target.rpartition("/")[0] != f"{due.model}/{due.version}":
            return True
        if due is None and target.partition("/")[0] in out:
            return True
    return False


def _may_move(rollout: Rollout) -> ColumnElement[bool]:
    """Devices of a family that may be for another member than the one they were offered."""
    if rollout.policy.family is None:
        return false()
    was_without = and_(_is(Outcome.REFUSED), col(RolloutDeviceRow.code) == str(Unfit.NO_MEMBER))
    relabelled = and_(_is_relabelled(), or_(_is_held(rollout), was_without))
    if not rollout.excluded or rollout.policy.on_halt is OnHalt.STAY:
        return relabelled
    target = col(RolloutDeviceRow.target)
    model = func.substr(target, 1, func.instr(target, "/") - 1)
    taken_out = model.in_(sorted(rollout.excluded_models))
    return or_(relabelled, and_(taken_out, _is_held(rollout), _is(*EXPOSED)))


def _is_relabelled() -> ColumnElement[bool]:
    """Devices whose labels changed since they were offered something, or since their row."""
    row = RolloutDeviceRow
    since = func.coalesce(col(row.offered_at), col(row.changed_at))
    return and_(col(DeviceRow.labelled_at).is_not(None), col(DeviceRow.labelled_at) >= since)


def find_shared(session: Session, rollout: Rollout) -> dict[int, int]:
    """Return active rollouts of the same slot with the number of devices they share."""
    mine = select(_MEMBER).where(col(RolloutDeviceRow.rollout) == rollout.id)
    query = (
        select(col(RolloutRow.id), func.count())
        .join(RolloutDeviceRow, col(RolloutDeviceRow.rollout) == col(RolloutRow.id))
        .where(
            col(RolloutRow.state).in_(sorted(ACTIVE)),
            col(RolloutRow.slot) == rollout.slot,
            col(RolloutRow.id) != rollout.id,
            _MEMBER.in_(mine),
        )
        .group_by(col(RolloutRow.id))
    )
    return {number: count for number, count in session.execute(query) if number is not None}


def _query(rollout: Rollout) -> Select[Any]:
    return _join(select(*_COLUMNS), rollout)


def _join(query: Select[Any], rollout: Rollout) -> Select[Any]:
    """Add the tables a row is made of."""
    return (
        query.join(DeviceRow, col(DeviceRow.number) == _MEMBER)
        .join(
            SlotRow,
            and_(col(SlotRow.device) == _MEMBER, col(SlotRow.slot) == rollout.slot),
            isouter=True,
        )
        .join(
            DesiredRow,
            and_(col(DesiredRow.device) == _MEMBER, col(DesiredRow.slot) == rollout.slot),
            isouter=True,
        )
        .join(AssignmentRow, col(AssignmentRow.device) == _MEMBER, isouter=True)
        .where(col(RolloutDeviceRow.rollout) == rollout.id)
    )


def _is(*outcomes: Outcome) -> ColumnElement[bool]:
    return col(RolloutDeviceRow.outcome).in_([str(outcome) for outcome in outcomes])


def _is_unfinished() -> ColumnElement[bool]:
    return _is(*IN_FLIGHT, Outcome.WITHDRAWN)


def _is_moving(rollout: Rollout) -> ColumnElement[bool]:
    """Devices that are under way, may be tried again, came back, or spoke since their row."""
    row = RolloutDeviceRow
    spoke = and_(col(row.offered_at).is_not(None), col(SlotRow.changed_at) >= col(row.changed_at))
    may_retry = and_(
        _is(Outcome.FAILED),
        col(row.code).in_(_RETRYABLE),
        col(row.tries) < rollout.policy.tries_max,
    )
    return or_(_is_unfinished(), spoke, may_retry, _came_back(), _may_move(rollout))


def _came_back() -> ColumnElement[bool]:
    return and_(_is(Outcome.SILENT_BEFORE), col(DeviceRow.is_online))


def _is_held(rollout: Rollout) -> ColumnElement[bool]:
    return func.coalesce(col(DesiredRow.rollout), 0) == rollout.id


def _is_queued(rollout: Rollout) -> ColumnElement[bool] | None:
    """Devices the state's duty may serve; None when it serves nobody."""
    row = RolloutDeviceRow
    offered = col(row.offered_at).is_not(None)
    match DUTIES.get(rollout.state):
        case Duty.OFFER:
            return and_(_is(Outcome.PENDING), col(row.stage) <= rollout.stage)
        case Duty.OFFER_LEFT_OUT:
            return and_(_is(Outcome.PENDING, Outcome.SILENT_BEFORE), col(row.offered_at).is_(None))
        case Duty.WITHDRAW:
            scope = rollout.returning_stage
            is_meant = true() if scope is None else col(row.stage) == scope
            return and_(offered, _is_held(rollout), is_meant)
        case Duty.WITHDRAW_UNFINISHED:
            return and_(offered, _is_held(rollout), ~_is(*SETTLED_IN))
        case None:
            return None


def _member(row: Row[Any]) -> Member:
    outcome = Outcome(row.outcome)
    is_needed = outcome in _READS_REPORT or row.tries > 1
    said = _read_report(row.reported) if is_needed else {}
    return Member(
        device=Candidate(
            number=row.number,
            id=row.id,
            profile=row.profile,
            labels=json.loads(row.labels),
            is_enrolled=row.enrolled_at is not None,
            is_revoked=row.revoked_at is not None,
            is_online=row.is_online,
            capabilities=_mapping(said.get("capabilities")),
        ),
        stage=row.stage,
        progress=Progress(
            outcome=outcome,
            code=row.code,
            detail=row.detail,
            offered_at=row.offered_at,
            changed_at=row.changed_at,
            tries=row.tries,
        ),
        previous_target=row.previous_target,
        target=row.target,
        slot=_slot(row, said),
        refusal=_refusal(said.get("refusal"), row.reported_at),
        desired=_desired(row),
        last_seen_at=row.last_seen_at,
    )


def _slot(row: Row[Any], said: dict[str, Any]) -> SlotFacts:
    accepted = said.get("assignment_counter")
    newest = row.counter
    has_newest = newest is not None and not row.is_stale and isinstance(accepted, int)
    return SlotFacts(
        state=row.slot_state or "",
        running_sha256=row.running_sha256 or "",
        confirmed_sha256=row.confirmed_sha256 or "",
        running_target=row.running_target or "",
        confirmed_target=row.confirmed_target or "",
        code=row.slot_code or "",
        detail=row.slot_detail or "",
        rollout=row.slot_rollout or 0,
        changed_at=row.slot_changed_at,
        has_newest=has_newest and accepted >= newest,
    )


def _desired(row: Row[Any]) -> Desired | None:
    if row.desired_target is None:
        return None
    return Desired(
        target=row.desired_target,
        rollout=row.desired_rollout,
        retry=row.desired_retry,
        is_shadowed=bool(row.desired_shadow),
    )


def _refusal(value: Any, at: datetime | None) -> Refusal | None:
    if at is None or not isinstance(value, dict) or not isinstance(value.get("code"), str):
        return None
    return Refusal(code=value["code"], detail=str(value.get("detail", "")), at=at)


def _read_report(text: str) -> dict[str, Any]:
    """Read a stored report; it was checked when it came in, an unreadable one says nothing."""
    try:
        said = json.loads(text) if text else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and value else None
