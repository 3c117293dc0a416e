"""Devices of a family's rollout that change their member. Pure.

Two things make the package a device is for another than the one it was offered: its labels changed,
or its member was taken out. Both are looked for at every look, while the rollout runs and for as
long as it holds the device's slot afterwards, so that a label set years later still counts. A moved
device passes what every candidate passes there: hash, self-test, shadow and probation as planned.

Once the rollout has completed no stage's gate is left; then a member whose own evidence is against
it is closed: who has it keeps it, nobody else gets it.

A device whose new labels name no member keeps what it has. While a rollout runs only confirmed
devices follow their labels: what the others do is still evidence.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum

from edge_agent.contract.assignment import target_path
from fleet_server.core.family_plan import FamilyPlan
from fleet_server.core.member_gate import (
    ExcludedMember,
    MemberCounts,
    MemberTest,
    find_bad_members,
    say_member,
)
from fleet_server.core.rollout_device import (
    find_unfit,
    is_held,
    make_offer,
    see_return,
    withdraw_one,
)
from fleet_server.core.rollout_gate import Verdict
from fleet_server.core.rollout_limits import OnHalt
from fleet_server.core.rollout_machine import RolloutEvent, RolloutState
from fleet_server.core.rollout_outcome import EXPOSED, Outcome, Reading
from fleet_server.core.rollout_round import Act, Decision, Round
from fleet_server.core.rollout_state import Member, Rollout
from fleet_server.core.targeting import MemberPackages, Unfit, find_package

EXCLUDE = "exclude"
"""Verdict on a member that is taken out."""
CLOSE = "close"
"""Verdict on a member of a completed rollout that no further device gets."""
MOVE = "rollout.move"
"""Act in the audit log: ``devices`` by id, each with what it had and what it is to have."""
MOVES_PER_ROUND = 200
"""Devices moved in one look: each is named in the audit log."""
MOVING = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.COMPLETED})
"""States in which labels mean something, paused ones as soon as they go on."""
ENDED = frozenset({Outcome.CONFIRMED, Outcome.FAILED, Outcome.SILENT_AFTER})


class Move(StrEnum):
    """What is to happen to a device whose member is another one now."""

    NONE = "none"
    OFFER = "offer"
    RETURN = "return"


def exclude_members(look: Round) -> bool:
    """Take out the members whose own evidence is against them; tell whether that stops all."""
    found, test = _find_bad(look)
    for model, counts in found.items():
        out = ExcludedMember(model=model, at=look.view.now, **asdict(counts))
        look.rollout = replace(look.rollout, excluded=(*look.rollout.excluded, out))
        look.tally.exclude(model, has_place=look.rollout.has_place)
        _store(look, EXCLUDE, out, test, say_where(look.rollout))
    if not found or len(look.rollout.excluded) <= test.excluded_max:
        return False
    reason = (
        f"{len(look.rollout.excluded):,} of {test.members:,} members fail too often: that is no"
        " fault of single members."
    )
    look.decisions.append(Decision(verdict=Verdict.HALT, sentence=reason, inputs={}))
    look.apply(RolloutEvent.HALT, reason)
    return True


def close_members(look: Round) -> None:
    """Let no further device have a member whose own evidence is against it by now."""
    found, test = _find_bad(look)
    for model, counts in found.items():
        if model not in look.rollout.closed_models:
            out = ExcludedMember(model=model, at=look.view.now, **asdict(counts))
            look.rollout = replace(look.rollout, closed=(*look.rollout.closed, out))
            _store(look, CLOSE, out, test, "Its devices keep it, no other device gets it.")


def _find_bad(look: Round) -> tuple[Mapping[str, MemberCounts], MemberTest]:
    """Give the members whose evidence is against them with their counts, the worst first."""
    policy = look.rollout.policy
    if policy.family is None or policy.members is None:
        return {}, MemberTest()
    counts = look.tally.count_members()
    members = max(policy.members.members, len(counts) + len(look.rollout.excluded))
    test = replace(policy.members, members=members)
    return {one: counts[one] for one in find_bad_members(counts, test, policy.goal)}, test


def _store(look: Round, verdict: str, out: ExcludedMember, test: MemberTest, tail: str) -> None:
    """Store the verdict on one member: its sentence, its inputs and the act."""
    goal = look.rollout.policy.goal
    counts = MemberCounts(finished=out.finished, failed=out.failed, in_flight=out.in_flight)
    sentence = f"{say_member(out.model, counts, test, goal)} {tail}"
    inputs = {
        "member": out.model,
        "counts": asdict(counts),
        "test": test.to_json(),
        "goal": goal,
        "now": out.at.isoformat(),
    }
    look.decisions.append(Decision(verdict=verdict, sentence=sentence, inputs=inputs))
    detail = {"member": out.model, "sentence": sentence, "stage": look.rollout.stage + 1}
    look.acts.append(Act(act=f"rollout.{verdict}_member", detail=detail))


def say_where(rollout: Rollout) -> str:
    """Say what becomes of the devices of a member that was taken out."""
    family = rollout.policy.family
    if rollout.has_place and family is not None and family.fallback is not None:
        return f"Its devices take the fallback {family.fallback.model}."
    if rollout.policy.on_halt is OnHalt.STAY:
        return "Its devices stay as they are."
    return "Its devices return to what they ran before."


def queue_labelled(look: Round) -> None:
    """Queue devices that were for no member and are for one by now."""
    if not isinstance(look.view.packages, MemberPackages):
        return
    stage, is_closed = find_queue(look.rollout)
    is_over = is_closed or look.rollout.state is RolloutState.COMPLETED
    for member in tuple(look.members.values()):
        progress = member.progress
        was_without = progress.outcome is Outcome.REFUSED and progress.code == Unfit.NO_MEMBER
        if was_without and progress.offered_at is None and find_unfit(look, member) is None:
            outcome = Outcome.SILENT_BEFORE if is_over else Outcome.PENDING
            look.set_outcome(member, Reading(outcome), stage=stage)


def find_queue(rollout: Rollout) -> tuple[int, bool]:
    """Give the stage in which newcomers queue, and whether that is over: none comes after it."""
    stage, is_closed = rollout.stage, rollout.stages[rollout.stage].settled is not None
    if is_closed and stage + 1 < len(rollout.stages):
        return stage + 1, False
    return stage, is_closed


def move_members(look: Round, room: int) -> int:
    """Offer devices the member they are for now, as far as there is room; return how many."""
    packages, moved = look.view.packages, dict[str, list[str]]()
    if not isinstance(packages, MemberPackages):
        return 0
    for member in tuple(look.members.values()):
        if member.progress.outcome is Outcome.WITHDRAWN:
            see_return(look, member)
            continue
        move = find_move(look, packages, member)
        if move is Move.NONE or len(moved) >= min(room, MOVES_PER_ROUND):
            continue
        if move is Move.RETURN:
            moved[member.device.id] = [member.target, member.previous_target]
            _return(look, member)
            continue
        due = packages.find(member.device)
        if due is not None:
            moved[member.device.id] = [member.target, due.target]
            _offer(look, packages, member)
    if moved:
        look.acts.append(Act(act=MOVE, detail={"devices": moved}))
    return len(moved)


def find_move(look: Round, packages: MemberPackages, member: Member) -> Move:
    """Say whether a device is for another package than the one it was offered."""
    is_out = _model_of(member) in packages.excluded
    is_over = look.rollout.state is RolloutState.COMPLETED
    followed = EXPOSED if is_out else ENDED if is_over else {Outcome.CONFIRMED}
    if not member.target or not is_held(look, member) or member.progress.outcome not in followed:
        return Move.NONE
    if is_out and look.rollout.policy.on_halt is OnHalt.STAY:
        return Move.NONE
    due = packages.find(member.device)
    if due is not None and due.target == member.target:
        return Move.NONE
    if is_closed(look, member):
        due = None
    if due is None or find_unfit(look, member) is not None:
        return Move.RETURN if is_out else Move.NONE
    return Move.OFFER if is_out or is_over or member.device.is_online else Move.NONE


def is_closed(look: Round, member: Member) -> bool:
    """Tell whether the member a device is for is given to no further device."""
    due = find_package(look.view.packages, member.device)
    return due is not None and due.target.partition("/")[0] in look.rollout.closed_models


def _return(look: Round, member: Member) -> None:
    """Let a device without a member go back; what it did stays out of every count."""
    withdraw_one(look, member)
    released = look.members[member.device.number]
    if released.progress.outcome in EXPOSED:
        progress = released.progress
        detail = progress.detail or "its member was taken out"
        look.set_outcome(released, Reading(Outcome.RETURNED, progress.code, detail))


def _offer(look: Round, packages: MemberPackages, member: Member) -> None:
    """Make an offer that is told apart from what the device reported of the one before."""
    is_out = _model_of(member) in packages.excluded
    previous = member.previous_target if is_out else _find_previous(packages.plan, member)
    progress = replace(member.progress, tries=1)
    outcome = Outcome.OFFERED if member.device.is_online else Outcome.SILENT_BEFORE
    make_offer(look, replace(member, progress=progress, previous_target=previous), outcome)


def _find_previous(plan: FamilyPlan, member: Member) -> str:
    """Name what a rollback gives a device of these labels: what was in service before."""
    device = member.device
    for chosen in (plan.choose(device.labels), plan.fallback):
        if chosen is not None and chosen.champion_before:
            return target_path(chosen.model, chosen.champion_before, device.profile)
    return ""


def _model_of(member: Member) -> str:
    return member.target.partition("/")[0]


def tell_label(rollout: Rollout, target: str, labels: Mapping[str, str]) -> str:
    """Say what labels mean for a device whose slot a family's rollout holds; empty for nothing.

    Args:
        rollout: Under way or completed.
        target: What the slot is to run now.
        labels: Of the device, as they are now.
    """
    family = rollout.policy.family
    if family is None or rollout.state not in MOVING:
        return ""
    due = family.choose(labels, rollout.excluded_models)
    if due is None:
        why = family.say_why_none(labels)
        return f"slot {rollout.slot} keeps {target} (rollout {rollout.id}): {why}"
    name = f"{due.model}/{due.version}"
    if target.rpartition("/")[0] == name:
        return ""
    if due.model in rollout.closed_models:
        return (
            f"slot {rollout.slot} keeps {target}: {due.model} failed too often after rollout"
            f" {rollout.id} and is given to no further device; `edgefleet rollout explain"
            f" {rollout.id}` says why"
        )
    when = ", and the rollout is resumed" if rollout.state is RolloutState.PAUSED else ""
    return (
        f"slot {rollout.slot} goes from {target.rpartition('/')[0]} to {name} (rollout"
        f" {rollout.id}), tested there like any candidate, as soon as `edgefleet up` runs and the"
        f" device is online{when}"
    )
