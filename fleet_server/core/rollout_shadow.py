"""Devices of a rollout in shadow: counted for the gate, held until it has passed, let go. Pure.

While a stage's candidate is undecided its devices are asked to compare until their time-out. Once
it has passed, those that have compared as long and as much as the plan asks for are assigned the
same package without a shadow, which ends the comparing on the device.
"""

from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.core.rollout_gate import StageJudgement, Verdict
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_round import Offer, Round
from fleet_server.core.rollout_state import Member
from fleet_server.core.shadow_gate import (
    ShadowCounts,
    ShadowJudgement,
    count_compared,
    join_verdicts,
    judge_shadow,
)
from fleet_server.core.shadow_limits import has_compared, hold_in_shadow


def count_shadow(look: Round, stage: int) -> ShadowCounts:
    """Count what one stage has compared; needs limits on it."""
    policy = look.rollout.policy
    if policy.disagreement is None or policy.shadow is None:
        return ShadowCounts()
    seen = [found.report for found in look.view.shadows.values() if found.stage == stage]
    places = look.tally.count_shadow(stage)
    ready = sum(
        member.stage == stage and _has_compared(look, member, policy.shadow)
        for member in look.members.values()
    )
    return ShadowCounts(
        compared=count_compared(policy.disagreement.count(report) for report in seen),
        through=places.after + ready,
        to_come=places.before + places.within - ready,
    )


def judge_with_shadow(
    look: Round, stage: int, counts: ShadowCounts, judgement: StageJudgement
) -> tuple[Verdict, str, ShadowJudgement | None]:
    """Let both gates judge a stage; the second only when the plan asks for it."""
    policy = look.rollout.policy
    if policy.disagreement is None:
        return judgement.verdict, judgement.sentence, None
    shadow = judge_shadow(
        counts,
        policy.disagreement,
        look.rollout.stages[stage].shadow,
        now=look.view.now,
        on_inconclusive=policy.gate.on_inconclusive,
    )
    return *join_verdicts(judgement, shadow), shadow


def choose_shadow(look: Round, stage: int) -> ShadowPolicy | None:
    """Give what an offer asks to compare: held until its stage has passed, else as planned."""
    rollout = look.rollout
    policy = rollout.policy
    is_open = rollout.stages[stage].shadow is None and rollout.finished_at is None
    if policy.shadow is None or policy.disagreement is None or not is_open:
        return policy.shadow
    return hold_in_shadow(policy.shadow)


def list_held(look: Round) -> list[Member]:
    """List the devices in shadow that this rollout has not let go."""
    if look.rollout.policy.disagreement is None:
        return []
    return [
        member
        for member in look.members.values()
        if member.progress.outcome is Outcome.SHADOW
        and member.desired is not None
        and member.desired.rollout == look.rollout.id
        and member.desired.is_shadowed
    ]


def release_held(look: Round, room: int) -> int:
    """Let candidates answer that have compared enough in stages that passed; return how many."""
    policy, released = look.rollout.policy.shadow, 0
    for member in list_held(look):
        has_passed = look.rollout.stages[member.stage].shadow is not None
        if released == room or policy is None or member.desired is None:
            break
        if has_passed and _has_compared(look, member, policy):
            look.releases.append(
                Offer(
                    device=member.device, target=member.desired.target, retry=member.desired.retry
                )
            )
            released += 1
    return released


def _has_compared(look: Round, member: Member, policy: ShadowPolicy) -> bool:
    seen = look.view.shadows.get(member.device.number)
    is_within = member.progress.outcome is Outcome.SHADOW
    return is_within and seen is not None and has_compared(seen.report, policy)
