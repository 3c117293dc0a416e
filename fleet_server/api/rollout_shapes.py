"""How rollouts look in requests and answers."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.api.params import MODEL, NAME, NUMBER_MAX, Body
from fleet_server.api.shapes import Shape
from fleet_server.core.rollout_limits import OnHalt, OnInconclusive, RolloutPolicy, SequentialTest
from fleet_server.core.stage_plan import STAGES_CHARS_MAX
from fleet_server.services.plan_rollout import SLOT_CHARS_MAX

_GATE, _POLICY, _PROBATION = SequentialTest(), RolloutPolicy(), ProbationPolicy()
_SHADOW = ShadowPolicy()
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=2_592_000)]


class PolicyIn(Body):
    """What the rollout is held to; ``fixed`` takes the place of goal and never_above.

    Without ``shadow_s`` candidates are not compared before they answer; without
    ``disagree_never_above`` what differs there is not judged.
    """

    goal: Share = _GATE.goal
    never_above: Share = _GATE.never_above
    fixed: Share | None = None
    fixed_after: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    soak_s: Seconds = 0.0
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    on_halt: OnHalt = OnHalt.ROLL_BACK
    in_flight_max: Annotated[int, Field(ge=0, le=1_000_000)] = _POLICY.in_flight_max
    is_held_by_alarms: bool = _POLICY.is_held_by_alarms
    deadline_s: Annotated[float, Field(ge=1, le=2_592_000)] = _POLICY.deadline_s
    tries_max: Annotated[int, Field(ge=1, le=20)] = _POLICY.tries_max
    is_again: bool = _POLICY.is_again
    probation_s: Annotated[float, Field(ge=0, le=604_800)] = _PROBATION.duration_s
    probation_rows: Annotated[int, Field(ge=0, le=10**9)] = _PROBATION.rows_min
    probation_timeout_s: Seconds = _PROBATION.timeout_s
    shadow_s: Annotated[float, Field(ge=0, le=604_800)] | None = None
    shadow_rows: Annotated[int, Field(ge=0, le=10**9)] = _SHADOW.rows_min
    shadow_timeout_s: Seconds = _SHADOW.timeout_s
    shadow_share: Share = _SHADOW.share
    shadow_cpu_share: Annotated[float, Field(ge=0.001, le=1)] = _SHADOW.cpu_share
    disagree_goal: Share | None = None
    disagree_never_above: Share | None = None
    disagree_by: Annotated[float, Field(ge=0, le=1)] = 0.0
    error_rate_max: Share = _PROBATION.error_rate_max
    output_shift_max: Share = _PROBATION.output_shift_max


class PlanIn(Body):
    """What is asked for; the slot is the model's name unless given."""

    model: Annotated[str, Field(pattern=MODEL)]
    version: Annotated[int, Field(ge=1, le=NUMBER_MAX)]
    group: Annotated[str, Field(pattern=NAME)]
    stages: Annotated[str, Field(min_length=1, max_length=STAGES_CHARS_MAX)]
    slot: Annotated[str, Field(pattern=rf"^$|{NAME}", max_length=SLOT_CHARS_MAX)] = ""
    policy: PolicyIn = PolicyIn()


class PlannedStagePublic(Shape):
    """A stage: how many devices, and the first of them."""

    name: str
    count: int
    devices: list[str]


class LeftOutPublic(Shape):
    """A device that gets nothing, and why."""

    device: str
    reason: str
    detail: str


class PlanPublic(Shape):
    """Who gets what; ``id`` is null while nothing is stored."""

    id: int | None
    model: str
    version: int
    slot: str
    group: str
    devices: int
    stages: list[PlannedStagePublic]
    packages: dict[str, str]
    left_out: list[LeftOutPublic]
    left_out_total: int
    notes: list[str]
    policy: dict[str, Any]


class RolloutEntry(Shape):
    """A rollout in a list."""

    id: int
    model: str
    version: int
    slot: str
    group: str
    state: str
    stage: int
    stages: int
    sentence: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    revision: int


class RolloutPage(Shape):
    """Rollouts, newest first."""

    rollouts: list[RolloutEntry]
    next: int | None


class StagePublic(Shape):
    """A stage with its devices by outcome."""

    name: str
    devices: int
    outcomes: dict[str, int]
    verdict: str
    is_passed: bool
    shadow: dict[str, Any] | None


class MemberPublic(Shape):
    """A device of a rollout."""

    device: str
    profile: str
    stage: int
    outcome: str
    code: str
    detail: str
    running: str
    offered_at: datetime | None
    changed_at: datetime
    tries: int


class FamilyMemberPublic(Shape):
    """A member of a family that failed somewhere, or was taken out of the rollout."""

    model: str
    finished: int
    failed: int
    evidence: float
    excluded_at: datetime | None
    closed_at: datetime | None


class RolloutPublic(Shape):
    """A rollout whole."""

    id: int
    model: str
    version: int
    slot: str
    group: str
    state: str
    is_undecided: bool
    sentence: str
    stage: int
    stages: list[StagePublic]
    running: int
    failures: list[MemberPublic]
    members: list[FamilyMemberPublic]
    members_finished: int
    policy: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    stage_opened_at: datetime | None
    finished_at: datetime | None
    revision: int
    read_at: datetime


class MembersPublic(Shape):
    """Devices of a rollout, the newest change first."""

    devices: list[MemberPublic]


class VerdictPublic(Shape):
    """A verdict, its inputs, and what the gate makes of them again."""

    at: datetime
    verdict: str
    sentence: str
    inputs: dict[str, Any]
    replayed: str | None
    is_same: bool | None


class ExplanationPublic(Shape):
    """Verdicts, oldest first."""

    verdicts: list[VerdictPublic]


class SteeredPublic(Shape):
    """What an act did, or would do."""

    id: int
    state: str
    effect: str
    is_dry_run: bool
