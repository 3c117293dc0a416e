"""Rollouts, their devices' rows and verdicts in the control database.

Device rows go through Core statements in bulk; counts are computed, never kept. ``save`` writes
only over the revision that was read, so an operator's act and a look cannot overwrite each other.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, func, insert, update
from sqlmodel import Session, col, select

from fleet_server.adapters.database.rollout_members import (
    find_relabelled,
    find_shared,
    has_unsettled,
    load_members,
)
from fleet_server.adapters.database.shadow_rows import read_shadows
from fleet_server.adapters.database.tables import (
    DecisionRow,
    DesiredRow,
    DeviceRow,
    RolloutDeviceRow,
    RolloutRow,
    SlotRow,
)
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_machine import ACTIVE, FINAL, RolloutState
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_round import Change, Decision, SeenShadow
from fleet_server.core.rollout_state import (
    Member,
    Rollout,
    StageRecord,
    dump_memory,
    read_memory,
)
from fleet_server.core.rollout_tally import TallyKey
from fleet_server.ports.rollouts import MemberView, NewRollout, StoredDecision

DECISION_KIND = "rollout"
IDS_PER_QUERY = 500
_STARTED = tuple(state for state in RolloutState if state is not RolloutState.DRAFT)


class RolloutRepository:
    """The ``RolloutStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, rollout_id: int) -> Rollout | None:
        """Return a rollout."""
        query = select(RolloutRow).where(col(RolloutRow.id) == rollout_id)
        row = self._session.exec(query.execution_options(populate_existing=True)).first()
        return _rollout(row) if row else None

    def list_newest(self, limit: int) -> list[Rollout]:
        """Return rollouts, newest first."""
        query = select(RolloutRow).order_by(col(RolloutRow.id).desc()).limit(limit)
        return [_rollout(row) for row in self._session.exec(query)]

    def list_active(self) -> list[Rollout]:
        """Return rollouts that hold the slot of their devices, by id."""
        query = select(RolloutRow).where(col(RolloutRow.state).in_(sorted(ACTIVE)))
        return [_rollout(row) for row in self._session.exec(query.order_by(col(RolloutRow.id)))]

    def list_to_look_at(self, *, finished_after: datetime) -> list[Rollout]:
        """Return what the controller looks at: under way, or over and not yet settled."""
        ended = sorted(FINAL)
        query = select(RolloutRow).where(
            col(RolloutRow.state).in_(_STARTED),
            col(RolloutRow.state).not_in(ended) | (col(RolloutRow.finished_at) > finished_after),
        )
        rollouts = [_rollout(row) for row in self._session.exec(query.order_by(col(RolloutRow.id)))]
        rollouts += self._list_relabelled({rollout.id for rollout in rollouts})
        return [r for r in rollouts if r.state not in FINAL or has_unsettled(self._session, r)]

    def _list_relabelled(self, known: set[int]) -> list[Rollout]:
        """Return completed rollouts of families, however old, that hold a device labelled since."""
        numbers = find_relabelled(self._session) - known
        query = select(RolloutRow).where(
            col(RolloutRow.id).in_(sorted(numbers)),
            col(RolloutRow.state) == RolloutState.COMPLETED,
            col(RolloutRow.policy).contains('"family"'),
        )
        return [_rollout(row) for row in self._session.exec(query)] if numbers else []

    def add(self, new: NewRollout, *, at: datetime) -> int:
        """Store a draft with its devices; return its number."""
        draft = Rollout(
            id=0,
            model=new.model,
            version=new.version,
            slot=new.slot,
            group=new.group,
            state=RolloutState.DRAFT,
            policy=new.policy,
            stages=tuple(StageRecord(name=name) for name in new.stages),
            created_at=at,
        )
        row = RolloutRow(**_columns(draft), created_at=at)
        self._session.add(row)
        self._session.flush()
        number = _number(row)
        rows = [
            {
                "rollout": number,
                "device": device,
                "stage": stage,
                "outcome": str(Outcome.PENDING),
                "changed_at": at,
            }
            for stage, devices in enumerate(new.members)
            for device in devices
        ]
        self._session.execute(insert(RolloutDeviceRow), rows)
        return number

    def save(self, rollout: Rollout) -> bool:
        """Store a rollout read at its ``revision``; False when it was written since."""
        values = _columns(rollout) | {"revision": rollout.revision + 1}
        result = self._session.connection().execute(
            update(RolloutRow)
            .where(col(RolloutRow.id) == rollout.id, col(RolloutRow.revision) == rollout.revision)
            .values(values)
        )
        return result.rowcount == 1

    def tally(self, rollout_id: int) -> dict[TallyKey, int]:
        """Count its devices."""
        row = RolloutDeviceRow
        keys = (row.stage, row.outcome, row.code, row.tries, row.target)
        columns = tuple(col(key) for key in keys)
        query = sa.select(*columns, func.count()).where(col(row.rollout) == rollout_id)
        found: dict[TallyKey, int] = {}
        rows = self._session.execute(query.group_by(*columns))
        for stage, outcome, code, tries, target, count in rows:
            key = TallyKey(stage, Outcome(outcome), code, tries, target.partition("/")[0])
            found[key] = found.get(key, 0) + count
        return found

    def load_members(self, rollout: Rollout) -> list[Member]:
        """Return the devices whose outcome may change or who may be offered something now."""
        return load_members(self._session, rollout)

    def list_shadows(self, rollout: Rollout) -> dict[int, SeenShadow]:
        """Return what its devices found in shadow, by number."""
        if rollout.policy.shadow is None:
            return {}
        found = read_shadows(self._session, rollout=rollout.id, slot=rollout.slot)
        row = RolloutDeviceRow
        stages: dict[int, int] = {}
        if found:
            query = sa.select(col(row.device), col(row.stage)).where(col(row.rollout) == rollout.id)
            stages = dict(self._session.execute(query).all())
        return {
            device: SeenShadow(stage=stages[device], report=report)
            for device, report in found.items()
            if device in stages
        }

    def put_members(self, rollout_id: int, changes: Sequence[Change]) -> None:
        """Store devices' new rows."""
        new = [_member_columns(rollout_id, change) for change in changes if change.is_new]
        old = [_member_columns(rollout_id, change) for change in changes if not change.is_new]
        if new:
            self._session.execute(insert(RolloutDeviceRow), new)
        if old:
            renamed = [{f"b_{name}": value for name, value in row.items()} for row in old]
            self._session.connection().execute(_UPDATE_MEMBER, renamed)

    def list_members(
        self, rollout_id: int, outcomes: Sequence[Outcome], limit: int
    ) -> list[MemberView]:
        """Return devices with one of these outcomes, the newest change first."""
        row = RolloutDeviceRow
        query = (
            select(row, DeviceRow.id, DeviceRow.profile, SlotRow.running_target)
            .join(DeviceRow, col(DeviceRow.number) == col(row.device))
            .join(RolloutRow, col(RolloutRow.id) == col(row.rollout))
            .join(
                SlotRow,
                (col(SlotRow.device) == col(row.device)) & (col(SlotRow.slot) == RolloutRow.slot),
                isouter=True,
            )
            .where(col(row.rollout) == rollout_id, col(row.outcome).in_([str(o) for o in outcomes]))
            .order_by(col(row.changed_at).desc(), col(row.device))
            .limit(limit)
        )
        return [
            MemberView(
                device=device,
                profile=profile,
                stage=found.stage,
                outcome=Outcome(found.outcome),
                code=found.code,
                detail=found.detail,
                running_target=running or "",
                offered_at=found.offered_at,
                changed_at=found.changed_at,
                tries=found.tries,
            )
            for found, device, profile, running in self._session.exec(query)
        ]

    def count_running(self, rollout: Rollout) -> int:
        """Count devices of the rollout that say they run its version now."""
        family = rollout.policy.family
        releases = (
            {(rollout.model, rollout.version)}
            if family is None
            else {member.release for member in family.all_members}
        )
        wanted = {f"{model}/{version}" for model, version in releases}
        return sum(
            count
            for target, count in self.count_targets(rollout).items()
            if target.rpartition("/")[0] in wanted
        )

    def count_targets(self, rollout: Rollout) -> dict[str, int]:
        """Count what the slots of its devices say they run, by target."""
        running = col(SlotRow.running_target)
        query = (
            sa.select(running, func.count())
            .join(RolloutDeviceRow, col(SlotRow.device) == col(RolloutDeviceRow.device))
            .where(
                col(RolloutDeviceRow.rollout) == rollout.id,
                col(SlotRow.slot) == rollout.slot,
                running != "",
            )
            .group_by(running)
        )
        return dict(self._session.execute(query).all())

    def find_overlaps(self, rollout: Rollout) -> dict[int, int]:
        """Return active rollouts of the same slot with the number of devices they share."""
        return find_shared(self._session, rollout)

    def is_superseded(self, rollout: Rollout) -> bool:
        """Tell whether a later rollout was started on the same slot."""
        query = select(RolloutRow.id).where(
            col(RolloutRow.slot) == rollout.slot,
            col(RolloutRow.id) > rollout.id,
            col(RolloutRow.started_at).is_not(None),
        )
        return self._session.exec(query.limit(1)).first() is not None

    def find_held(self, rollout: Rollout, devices: Sequence[int]) -> set[int]:
        """Return which of these devices' slots this rollout still holds."""
        held: set[int] = set()
        for start in range(0, len(devices), IDS_PER_QUERY):
            query = select(DesiredRow.device).where(
                col(DesiredRow.device).in_(devices[start : start + IDS_PER_QUERY]),
                col(DesiredRow.slot) == rollout.slot,
                col(DesiredRow.rollout) == rollout.id,
            )
            held.update(self._session.exec(query))
        return held

    def list_holders(self, device: int) -> list[tuple[int, str]]:
        """Return the rollouts that hold slots of a device, each with what the slot is to run."""
        row = DesiredRow
        query = sa.select(col(row.rollout), col(row.target)).where(
            col(row.device) == device, col(row.rollout) != 0
        )
        return [(number, target) for number, target in self._session.execute(query)]

    def add_decision(self, rollout_id: int, decision: Decision, *, at: datetime) -> None:
        """Store a verdict."""
        self._session.add(
            DecisionRow(
                kind=DECISION_KIND,
                subject=_subject(rollout_id),
                verdict=decision.verdict,
                sentence=decision.sentence,
                inputs=json.dumps(dict(decision.inputs), sort_keys=True),
                at=at,
            )
        )

    def list_decisions(self, rollout_id: int, limit: int) -> list[StoredDecision]:
        """Return the newest verdicts, oldest first."""
        query = (
            select(DecisionRow)
            .where(
                col(DecisionRow.kind) == DECISION_KIND,
                col(DecisionRow.subject) == _subject(rollout_id),
            )
            .order_by(col(DecisionRow.id).desc())
            .limit(limit)
        )
        return [
            StoredDecision(
                id=row.id or 0,
                verdict=row.verdict,
                sentence=row.sentence,
                inputs=json.loads(row.inputs),
                at=row.at,
            )
            for row in reversed(self._session.exec(query).all())
        ]


_MEMBER_KEYS = ("rollout", "device")
_MEMBER_VALUES = (
    "stage",
    "outcome",
    "code",
    "detail",
    "previous_target",
    "target",
    "offered_at",
    "changed_at",
    "tries",
    "was_online",
)
_UPDATE_MEMBER = (
    update(RolloutDeviceRow)
    .where(*(getattr(RolloutDeviceRow, name) == bindparam(f"b_{name}") for name in _MEMBER_KEYS))
    .values({name: bindparam(f"b_{name}") for name in _MEMBER_VALUES})
)


def _member_columns(rollout_id: int, change: Change) -> dict[str, Any]:
    progress = change.progress
    return {
        "rollout": rollout_id,
        "device": change.device.number,
        "stage": change.stage,
        "outcome": str(progress.outcome),
        "code": progress.code,
        "detail": progress.detail,
        "previous_target": change.previous_target,
        "target": change.target,
        "offered_at": progress.offered_at,
        "changed_at": progress.changed_at,
        "tries": progress.tries,
        "was_online": progress.offered_at is not None
        and progress.outcome is not Outcome.SILENT_BEFORE,
    }


def _rollout(row: RolloutRow) -> Rollout:
    return Rollout(
        id=_number(row),
        model=row.model,
        version=row.version,
        slot=row.slot,
        group=row.group,
        state=RolloutState(row.state),
        policy=RolloutPolicy.from_json(json.loads(row.policy)),
        created_at=row.created_at,
        stage=row.stage,
        stage_opened_at=row.stage_opened_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        sentence=row.sentence,
        revision=row.revision,
        **read_memory(json.loads(row.stages)),
    )


def _columns(rollout: Rollout) -> dict[str, Any]:
    return {
        "model": rollout.model,
        "version": rollout.version,
        "slot": rollout.slot,
        "group": rollout.group,
        "state": str(rollout.state),
        "stages": json.dumps(dump_memory(rollout), sort_keys=True),
        "policy": json.dumps(rollout.policy.to_json(), sort_keys=True),
        "stage": rollout.stage,
        "stage_opened_at": rollout.stage_opened_at,
        "started_at": rollout.started_at,
        "finished_at": rollout.finished_at,
        "sentence": rollout.sentence,
    }


def _number(row: RolloutRow) -> int:
    assert row.id is not None  # noqa: S101 - the primary key of a stored row
    return row.id


def _subject(rollout_id: int) -> str:
    return f"rollout/{rollout_id}"
