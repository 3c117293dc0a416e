"""What a state of a rollout does to devices at every look. Pure.

``running`` offers the version to who is queued in an open stage; ``completed`` to whom the rollout
passed over because they were offline; ``rolling back`` and ``rolled back`` tell devices to return
to what they ran before; ``aborted`` does so for those that have not activated it. Only a slot that
is still held by this rollout is touched: what another rollout or a person has asked for since is
left alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from fleet_server.core.label_query import device_facts
from fleet_server.core.rollout_limits import AUTO_IN_FLIGHT
from fleet_server.core.rollout_machine import DUTIES, Duty, RolloutEvent, RolloutState
from fleet_server.core.rollout_outcome import IN_FLIGHT, Outcome, Reading, find_retry_at
from fleet_server.core.rollout_round import Offer, Round, Withdrawal
from fleet_server.core.rollout_shadow import choose_shadow, list_held, release_held
from fleet_server.core.rollout_state import Member, Rollout
from fleet_server.core.rollout_tally import Tally
from fleet_server.core.rollout_words import say_devices
from fleet_server.core.targeting import find_package, find_unfitness

OFFLINE_GRACE_S = 30.0
"""A queued device that was heard this recently is waited for, not passed over."""
ROWS_PER_ROUND = 2_000
"""Devices offered or withdrawn in one look: bounds its transaction."""
LEFT_GROUP = "left-group"
SETTLED_IN = frozenset({Outcome.CONFIRMED, Outcome.PROBATION})
"""Outcomes of devices that have activated the version."""
_STAY = frozenset({Outcome.FAILED, Outcome.REFUSED, Outcome.SILENT_AFTER})
"""Outcomes that a withdrawal does not change: they say what happened."""


def do_duty(look: Round) -> None:
    """Do what the state the rollout is in asks for."""
    duty = DUTIES.get(look.rollout.state)
    if duty is not None:
        _DUTIES[duty](look)


def find_room(rollout: Rollout, tally: Tally, held: int = 0) -> int:
    """Say how many more devices may be offered the version now; who is held hurts nobody."""
    limit = rollout.policy.in_flight_max or _find_auto_limit(rollout, tally)
    return max(0, min(limit - (tally.count(*IN_FLIGHT) - held), ROWS_PER_ROUND))


def _find_auto_limit(rollout: Rollout, tally: Tally) -> int:
    """Grow with what is proven: the stages before, and the open one once it has passed its test."""
    has_passed = rollout.stages[rollout.stage].settled is not None
    proven = range(rollout.stage + has_passed)
    return max(AUTO_IN_FLIGHT, sum(tally.count_stage(stage).confirmed for stage in proven))


def _offer(look: Round) -> None:
    """Offer to the queue in its order, as far as there is room; pass over who is offline."""
    room = find_room(look.rollout, look.tally, len(list_held(look)))
    room -= release_held(look, room)
    for member in tuple(look.members.values()):
        is_due = _is_due(look, member)
        if not is_due or member.stage > look.rollout.stage:
            continue
        if (reading := _find_unfit(look, member)) is not None:
            look.set_outcome(member, reading)
        elif member.device.is_online:
            if room > 0:
                _make_offer(look, member)
                room -= 1
        elif member.progress.outcome is Outcome.PENDING and _is_long_gone(look, member):
            look.set_outcome(member, Reading(Outcome.SILENT_BEFORE))


def _is_due(look: Round, member: Member) -> bool:
    if member.progress.outcome is Outcome.PENDING:
        return True
    retry_at = find_retry_at(member.progress, look.rollout.policy)
    return retry_at is not None and look.view.now >= retry_at


def _is_long_gone(look: Round, member: Member) -> bool:
    heard_at = member.last_seen_at
    grace = timedelta(seconds=OFFLINE_GRACE_S)
    listening_since = look.view.listening_since
    if listening_since is not None and look.view.now < listening_since + grace:
        return False
    return heard_at is None or look.view.now >= heard_at + grace


def _find_unfit(look: Round, member: Member) -> Reading | None:
    """Say why a device can no longer be offered the version; None when it can."""
    view, device = look.view, member.device
    if view.query is not None:
        facts = device_facts(device.id, device.profile, device.labels)
        if not view.query.is_match(facts):
            return Reading(Outcome.REFUSED, LEFT_GROUP, f"no longer in {view.rollout.group}")
    found = find_unfitness(device, view.packages, view.profiles)
    return None if found is None else Reading(Outcome.REFUSED, str(found.reason), found.detail)


def _make_offer(look: Round, member: Member, outcome: Outcome = Outcome.OFFERED) -> None:
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
    look.set_member(replace(member, progress=progress, previous_target=previous))


def _offer_left_out(look: Round) -> None:
    """Let who was passed over catch up: the version has passed every gate."""
    if look.view.is_superseded:
        return
    room = ROWS_PER_ROUND
    for member in tuple(look.members.values()):
        is_left = member.progress.outcome in (Outcome.SILENT_BEFORE, Outcome.PENDING)
        if not is_left or member.progress.offered_at is not None or room == 0:
            continue
        if (reading := _find_unfit(look, member)) is not None:
            look.set_outcome(member, reading)
            continue
        outcome = Outcome.OFFERED if member.device.is_online else Outcome.SILENT_BEFORE
        _make_offer(look, member, outcome)
        room -= 1


def _withdraw(look: Round) -> None:
    """Tell everyone in scope to return, see who has, and end when nobody is left to wait for."""
    scope = look.rollout.returning_stage
    _withdraw_from(look, lambda member: scope is None or member.stage == scope)
    if look.rollout.state is RolloutState.ROLLING_BACK:
        _judge_return(look)


def _withdraw_unfinished(look: Round) -> None:
    """Take back what has not been activated; who has activated it keeps it."""
    _withdraw_from(look, lambda member: member.progress.outcome not in SETTLED_IN)


def _withdraw_from(look: Round, is_meant: Callable[[Member], bool]) -> None:
    room = ROWS_PER_ROUND
    for member in tuple(look.members.values()):
        if member.progress.outcome is Outcome.WITHDRAWN:
            _see_return(look, member)
        elif _is_held(look, member) and room and is_meant(member):
            _withdraw_one(look, member)
            room -= 1


def _is_held(look: Round, member: Member) -> bool:
    return member.desired is not None and member.desired.rollout == look.rollout.id


def _withdraw_one(look: Round, member: Member) -> None:
    previous, progress = member.previous_target, member.progress
    look.withdrawals.append(Withdrawal(device=member.device, target=previous))
    released = replace(member, desired=None)
    if progress.outcome in _STAY:
        look.members[member.device.number] = released
        return
    package = find_package(look.view.packages, member.device)
    has_own = package is not None and previous == package.target
    keeps = has_own or (not previous and progress.outcome is Outcome.CONFIRMED)
    if not keeps:
        look.set_outcome(released, Reading(Outcome.WITHDRAWN, progress.code, progress.detail))
        return
    detail = "ran it before" if has_own else "had nothing before, keeps it"
    look.set_outcome(released, Reading(progress.outcome, progress.code, detail))


def _see_return(look: Round, member: Member) -> None:
    """Believe a return when the device has accepted it and says what it runs."""
    package = find_package(look.view.packages, member.device)
    if package is None or not member.slot.has_newest:
        return
    if member.slot.running_sha256 != package.sha256:
        look.set_outcome(member, Reading(Outcome.RETURNED, member.progress.code))
    elif not member.previous_target:
        detail = "had nothing before, keeps it"
        look.set_outcome(member, Reading(Outcome.RETURNED, member.progress.code, detail))


def _judge_return(look: Round) -> None:
    """End the return when nobody online is still to return, or when its deadline has passed."""
    rollout, now = look.rollout, look.view.now
    awaited = [m for m in look.members.values() if m.progress.outcome is Outcome.WITHDRAWN]
    is_awaited = any(m.device.is_online for m in awaited) or bool(look.withdrawals)
    began_at = rollout.returning_at or now
    is_late = now >= began_at + timedelta(seconds=rollout.policy.deadline_s)
    if is_awaited and not is_late:
        look.rollout = replace(rollout, sentence=_say_return(look, len(awaited)))
        return
    look.rollout = replace(rollout, sentence=_say_return(look, len(awaited)))
    look.apply(RolloutEvent.ALL_RETURNED)


def _say_return(look: Round, awaited: int) -> str:
    """Say why the rollout stopped and how far the return is."""
    parts = []
    if returned := look.tally.count(Outcome.RETURNED):
        parts.append(f"{say_devices(returned)} returned")
    if awaited:
        parts.append(f"{awaited:,} still to return")
    said = f"{', '.join(parts)}." if parts else ""
    return f"{look.rollout.stop_reason} {said}".strip()


_DUTIES: Mapping[Duty, Callable[[Round], None]] = {
    Duty.OFFER: _offer,
    Duty.OFFER_LEFT_OUT: _offer_left_out,
    Duty.WITHDRAW: _withdraw,
    Duty.WITHDRAW_UNFINISHED: _withdraw_unfinished,
}
