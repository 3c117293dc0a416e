"""Rollouts: plan, start, pause, resume, abort, roll back, list, show, explain."""

from collections.abc import Callable
from typing import Annotated, Protocol

from fastapi import APIRouter, Query

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.adapters.database.pages import FleetPages
from fleet_server.api.access import CallerNow, access
from fleet_server.api.params import (
    NUMBER_MAX,
    ROLLOUTS_PAGE_MAX,
    Before,
    Limit,
    Number,
    Reason,
)
from fleet_server.api.rollout_shapes import (
    ExplanationPublic,
    LeftOutPublic,
    MemberPublic,
    MembersPublic,
    PlanIn,
    PlannedStagePublic,
    PlanPublic,
    PolicyIn,
    RolloutEntry,
    RolloutPage,
    RolloutPublic,
    SteeredPublic,
    VerdictPublic,
)
from fleet_server.bootstrap import Fleet
from fleet_server.core.roles import Role
from fleet_server.core.rollout_limits import (
    FixedThreshold,
    GatePolicy,
    RolloutPolicy,
    SequentialTest,
)
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_state import Rollout
from fleet_server.core.shadow_limits import GOAL_SHARE, DisagreementTest
from fleet_server.errors import MisuseError
from fleet_server.services.issue_tokens import Caller
from fleet_server.services.plan_rollout import PlanRequest, RolloutPlan
from fleet_server.services.read_rollouts import dump_member
from fleet_server.services.steer_rollout import RolloutDesk, Steered
from fleet_server.wiring.rollouts import build_planner, build_rollout_desk, build_rollout_reader

DEVICES_SHOWN_MAX = 1_000
DryRun = Annotated[bool, Query(alias="dry_run", description="Say what would happen only.")]


class Steer(Protocol):
    """One of the acts of ``RolloutDesk`` that need a reason."""

    def __call__(
        self, desk: RolloutDesk, /, rollout_id: int, reason: str, *, is_dry_run: bool = False
    ) -> Steered:
        """Do it."""


_ACTS: tuple[tuple[str, Steer], ...] = (
    ("pause", RolloutDesk.pause),
    ("resume", RolloutDesk.resume),
    ("abort", RolloutDesk.abort),
    ("rollback", RolloutDesk.roll_back),
)


def rollouts_router(fleet: Fleet) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])

    @router.get("", operation_id="list_rollouts", **access(Role.VIEWER))
    def list_rollouts(
        before: Before = NUMBER_MAX,
        limit: Annotated[int, Query(ge=1, le=ROLLOUTS_PAGE_MAX)] = 20,
    ) -> RolloutPage:
        """List rollouts, newest first."""
        found = FleetPages(fleet.engine).rollouts(before=before, limit=limit)
        return RolloutPage(
            rollouts=[_entry(rollout) for rollout in found],
            next=found[-1].id if len(found) == limit and found[-1].id > 1 else None,
        )

    @router.post(
        "", operation_id="plan_rollout", status_code=201, **access(Role.OPERATOR, 404, 409)
    )
    def plan_rollout(caller: CallerNow, body: PlanIn) -> PlanPublic:
        """Plan a rollout and store it as a draft, which changes nothing until it is started."""
        planner = build_planner(fleet, actor=caller.actor)
        plan = planner.plan(_request(body))
        return _plan(plan, planner.store(plan))

    @router.post("/preview", operation_id="preview_rollout", **access(Role.OPERATOR, 404, 409))
    def preview_rollout(caller: CallerNow, body: PlanIn) -> PlanPublic:
        """Work out a plan and store nothing."""
        return _plan(build_planner(fleet, actor=caller.actor).plan(_request(body)), None)

    @router.get("/{rollout}", operation_id="get_rollout", **access(Role.VIEWER, 404))
    def get_rollout(rollout: Number) -> RolloutPublic:
        """Show one rollout."""
        return RolloutPublic.model_validate(build_rollout_reader(fleet).show(rollout).to_json())

    @router.get("/{rollout}/devices", operation_id="list_members", **access(Role.VIEWER, 404))
    def list_members(
        rollout: Number, outcome: Outcome | None = None, limit: Limit = 100
    ) -> MembersPublic:
        """List its devices, the newest change first; with one outcome, or all."""
        outcomes = [outcome] if outcome else list(Outcome)
        found = build_rollout_reader(fleet).list_members(rollout, outcomes, limit)
        return MembersPublic(devices=[MemberPublic(**dump_member(member)) for member in found])

    @router.get("/{rollout}/explain", operation_id="explain_rollout", **access(Role.VIEWER, 404))
    def explain_rollout(rollout: Number) -> ExplanationPublic:
        """Show every verdict with its inputs, judged again."""
        return ExplanationPublic(
            verdicts=[
                VerdictPublic(
                    at=found.decision.at,
                    verdict=found.decision.verdict,
                    sentence=found.decision.sentence,
                    inputs=dict(found.decision.inputs),
                    replayed=found.replay.verdict if found.replay else None,
                    is_same=found.replay.is_same if found.replay else None,
                )
                for found in build_rollout_reader(fleet).explain(rollout)
            ]
        )

    @router.post(
        "/{rollout}/start", operation_id="start_rollout", **access(Role.OPERATOR, 404, 409)
    )
    def start_rollout(
        caller: CallerNow, rollout: Number, *, is_dry_run: DryRun = False
    ) -> SteeredPublic:
        """Open the first stage of a draft."""
        done = _desk(caller).start(rollout, is_dry_run=is_dry_run)
        return _steered(done, is_dry_run=is_dry_run)

    def _desk(caller: Caller) -> RolloutDesk:
        return build_rollout_desk(fleet, actor=caller.actor)

    for word, steer in _ACTS:
        _add_act(router, word, steer, _desk)
    return router


def _add_act(
    router: APIRouter, word: str, steer: Steer, desk_of: Callable[[Caller], RolloutDesk]
) -> None:
    """Add one act that needs a reason."""

    def act(
        caller: CallerNow, rollout: Number, body: Reason, *, is_dry_run: DryRun = False
    ) -> SteeredPublic:
        done = steer(desk_of(caller), rollout, body.reason, is_dry_run=is_dry_run)
        return _steered(done, is_dry_run=is_dry_run)

    router.post(
        f"/{{rollout}}/{word}",
        operation_id=f"{word}_rollout",
        description=(steer.__doc__ or "").partition(" Raises")[0].strip(),
        **access(Role.OPERATOR, 404, 409),
    )(act)


def _request(body: PlanIn) -> PlanRequest:
    return PlanRequest(
        model=body.model,
        version=body.version,
        group=body.group,
        stages=body.stages,
        slot=body.slot,
        policy=_policy(body.policy),
    )


def _policy(given: PolicyIn) -> RolloutPolicy:
    try:
        test: FixedThreshold | SequentialTest = (
            SequentialTest(goal=given.goal, never_above=given.never_above)
            if given.fixed is None
            else FixedThreshold(failure_share_max=given.fixed, finished_min=given.fixed_after)
        )
        return RolloutPolicy(
            gate=GatePolicy(test=test, soak_s=given.soak_s, on_inconclusive=given.on_inconclusive),
            on_halt=given.on_halt,
            in_flight_max=given.in_flight_max,
            is_held_by_alarms=given.is_held_by_alarms,
            deadline_s=given.deadline_s,
            tries_max=given.tries_max,
            is_again=given.is_again,
            probation=ProbationPolicy(
                duration_s=given.probation_s,
                rows_min=given.probation_rows,
                timeout_s=given.probation_timeout_s,
                error_rate_max=given.error_rate_max,
                output_shift_max=given.output_shift_max,
            ),
            shadow=_shadow(given),
            disagreement=_disagreement(given),
        )
    except ValueError as error:
        raise MisuseError(f"policy: {error}") from error


def _shadow(given: PolicyIn) -> ShadowPolicy | None:
    if given.shadow_s is None:
        return None
    return ShadowPolicy(
        duration_s=given.shadow_s,
        rows_min=given.shadow_rows,
        timeout_s=given.shadow_timeout_s,
        share=given.shadow_share,
        cpu_share=given.shadow_cpu_share,
    )


def _disagreement(given: PolicyIn) -> DisagreementTest | None:
    never_above, goal = given.disagree_never_above, given.disagree_goal
    if never_above is None:
        if goal is not None or given.disagree_by:
            raise MisuseError("policy: disagree_goal and disagree_by need disagree_never_above")
        return None
    return DisagreementTest(
        goal=never_above * GOAL_SHARE if goal is None else goal,
        never_above=never_above,
        difference_min=given.disagree_by,
    )


def _plan(plan: RolloutPlan, number: int | None) -> PlanPublic:
    request = plan.request
    return PlanPublic(
        id=number,
        model=request.model,
        version=request.version,
        slot=request.slot,
        group=request.group,
        devices=plan.devices,
        stages=[
            PlannedStagePublic(
                name=stage.name,
                count=len(stage.devices),
                devices=[device.id for device in stage.devices[:DEVICES_SHOWN_MAX]],
            )
            for stage in plan.stages
        ],
        packages={package.profile: package.target for package in plan.packages.values()},
        left_out=[
            LeftOutPublic(device=x.device.id, reason=str(x.reason), detail=x.detail)
            for x in plan.left_out[:DEVICES_SHOWN_MAX]
        ],
        left_out_total=len(plan.left_out),
        notes=list(plan.notes),
        policy=request.policy.to_json(),
    )


def _entry(rollout: Rollout) -> RolloutEntry:
    return RolloutEntry(
        id=rollout.id,
        model=rollout.model,
        version=rollout.version,
        slot=rollout.slot,
        group=rollout.group,
        state=str(rollout.state),
        stage=rollout.stage + 1,
        stages=len(rollout.stages),
        sentence=rollout.sentence,
        created_at=rollout.created_at,
        started_at=rollout.started_at,
        finished_at=rollout.finished_at,
        revision=rollout.revision,
    )


def _steered(done: Steered, *, is_dry_run: bool) -> SteeredPublic:
    return SteeredPublic(
        id=done.rollout.id,
        state=str(done.rollout.state),
        effect=done.effect,
        is_dry_run=is_dry_run,
    )
