"""Devices of a rollout in shadow: counted for the gate, held until it has passed, let go. Pure.

While a stage's candidate is undecided its devices are held: they compare until told otherwise, and
the candidate answers nobody. One whose time-out is over is through as far as the gate is concerned,
with what it has compared; a stage that stays undecided so is a person's. Once it has passed, those
that have compared as long and as much as the plan asks for, or whose time-out is over, are assigned
the same package without a shadow, which ends the comparing on the device.
"""

from dataclasses import replace
from datetime import timedelta

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

HEARD_AGAIN_S = 120.0
"""A server that was down first hears what devices compared meanwhile; they report every minute."""


def count_shadow(look: Round, stage: int) -> ShadowCounts:
    """Count what one stage has compared; needs limits on it."""
    policy = look.rollout.policy
    if policy.disagreement is None or policy.shadow is None:
        return ShadowCounts()
    seen = [found.report for found in look.view.shadows.values() if found.stage == stage]
    places = look.tally.count_shadow(stage)
    ready = short = 0
    for member in look.members.values():
        if member.stage == stage:
            is_enough = _has_compared(look, member, policy.shadow)
            is_short = not is_enough and _is_late(look, member, policy.shadow)
            ready, short = ready + (is_enough or is_short), short + is_short
    return ShadowCounts(
        compared=count_compared(policy.disagreement.count(report) for report in seen),
        through=places.after + ready,
        to_come=places.before + places.within - ready,
        short=short,
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
    """Let candidates answer that are through in stages that passed; return how many."""
    policy, released = look.rollout.policy.shadow, 0
    for member in list_held(look):
        has_passed = look.rollout.stages[member.stage].shadow is not None
        if released == room or policy is None or member.desired is None:
            break
        is_through = _has_compared(look, member, policy) or _is_late(look, member, policy)
        if has_passed and is_through:
            look.releases.append(
                Offer(
                    device=member.device, target=member.desired.target, retry=member.desired.retry
                )
            )
            # From here on silence counts as after any offer.
            progress = replace(member.progress, offered_at=look.view.now)
            look.set_member(replace(member, progress=progress))
            released += 1
    return released


def _has_compared(look: Round, member: Member, policy: ShadowPolicy) -> bool:
    seen = look.view.shadows.get(member.device.number)
    is_within = member.progress.outcome is Outcome.SHADOW
    return is_within and seen is not None and has_compared(seen.report, policy)


def _is_late(look: Round, member: Member, policy: ShadowPolicy) -> bool:
    """Tell whether a device has been in shadow for as long as the plan allows."""
    if member.progress.outcome is not Outcome.SHADOW:
        return False
    due_at = member.progress.changed_at + timedelta(seconds=policy.timeout_s)
    since = look.view.listening_since
    if since is not None:
        due_at = max(due_at, since + timedelta(seconds=HEARD_AGAIN_S))
    return look.view.now >= due_at
