"""What is asked of one device: take a package, or go back to what it ran before. Pure."""

from dataclasses import replace

from fleet_server.core.label_query import device_facts
from fleet_server.core.rollout_outcome import Outcome, Reading
from fleet_server.core.rollout_round import Offer, Round, Withdrawal
from fleet_server.core.rollout_shadow import choose_shadow
from fleet_server.core.rollout_state import Member
from fleet_server.core.targeting import find_offered, find_package, find_unfitness

LEFT_GROUP = "left-group"
AGAIN_STEP = 1_000
"""Retry numbers of a rollout that tries again begin at this times its id: above those of every
rollout before it, each of which counts a few tries."""
_STAY = frozenset({Outcome.FAILED, Outcome.REFUSED, Outcome.SILENT_AFTER})
"""Outcomes that a withdrawal does not change: they say what happened."""


def is_held(look: Round, member: Member) -> bool:
    """Tell whether the slot's desired target is still this rollout's."""
    return member.desired is not None and member.desired.rollout == look.rollout.id


def find_unfit(look: Round, member: Member) -> Reading | None:
    """Say why a device can no longer be offered the version; None when it can."""
    view, device = look.view, member.device
    if view.query is not None:
        facts = device_facts(device.id, device.profile, device.labels)
        if not view.query.is_match(facts):
            return Reading(Outcome.REFUSED, LEFT_GROUP, f"no longer in {view.rollout.group}")
    found = find_unfitness(device, view.packages, view.profiles)
    return None if found is None else Reading(Outcome.REFUSED, str(found.reason), found.detail)


def make_offer(look: Round, member: Member, outcome: Outcome = Outcome.OFFERED) -> None:
    """Let a device's slot run the package it is for, and remember what it goes back to."""
    package = find_package(look.view.packages, member.device)
    if package is None:
        raise ValueError(f"{member.device.id} is offered what was not built for it")
    target = package.target
    desired, progress = member.desired, member.progress
    is_retry = progress.tries > 0
    previous = member.previous_target
    if not is_retry:
        previous = member.slot.confirmed_target or (desired.target if desired else "")
    is_same = desired is not None and desired.target == target
    retry = (desired.retry if desired is not None and is_same else 0) + is_retry
    if look.rollout.policy.is_again:
        retry = max(retry, AGAIN_STEP * look.rollout.id)
    shadow = choose_shadow(look, member.stage)
    look.offers.append(Offer(device=member.device, target=target, retry=retry, shadow=shadow))
    progress = replace(
        progress,
        outcome=outcome,
        code="",
        detail="",
        offered_at=look.view.now,
        changed_at=look.view.now,
        tries=progress.tries + 1,
    )
    look.set_member(replace(member, progress=progress, previous_target=previous, target=target))


def withdraw_one(look: Round, member: Member) -> None:
    """Let a device run what it ran before; who had nothing else before keeps what it has."""
    previous, progress = member.previous_target, member.progress
    look.withdrawals.append(Withdrawal(device=member.device, target=previous))
    released = replace(member, desired=None)
    if progress.outcome in _STAY:
        look.members[member.device.number] = released
        return
    package = find_offered(look.view.packages, member.device, member.target)
    has_own = package is not None and previous == package.target
    keeps = has_own or (not previous and progress.outcome is Outcome.CONFIRMED)
    if not keeps:
        look.set_outcome(released, Reading(Outcome.WITHDRAWN, progress.code, progress.detail))
        return
    detail = "ran it before" if has_own else "had nothing before, keeps it"
    look.set_outcome(released, Reading(progress.outcome, progress.code, detail))


def see_return(look: Round, member: Member) -> None:
    """Believe a return when the device has accepted it and says what it runs."""
    package = find_offered(look.view.packages, member.device, member.target)
    if package is None or not member.slot.has_newest:
        return
    if member.slot.running_sha256 != package.sha256:
        look.set_outcome(member, Reading(Outcome.RETURNED, member.progress.code))
    elif not member.previous_target:
        detail = "had nothing before, keeps it"
        look.set_outcome(member, Reading(Outcome.RETURNED, member.progress.code, detail))
