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

from fleet_server.core.rollout_device import (
    find_unfit,
    is_held,
    make_offer,
    see_return,
    withdraw_one,
)
from fleet_server.core.rollout_limits import AUTO_IN_FLIGHT
from fleet_server.core.rollout_machine import DUTIES, Duty, RolloutEvent, RolloutState
from fleet_server.core.rollout_moves import is_closed, move_members
from fleet_server.core.rollout_outcome import IN_FLIGHT, Outcome, Reading, find_retry_at
from fleet_server.core.rollout_round import Round
from fleet_server.core.rollout_shadow import list_held, release_held
from fleet_server.core.rollout_state import Member, Rollout
from fleet_server.core.rollout_tally import Tally
from fleet_server.core.rollout_words import say_devices

OFFLINE_GRACE_S = 30.0
"""A queued device that was heard this recently is waited for, not passed over."""
ROWS_PER_ROUND = 2_000
"""Devices offered or withdrawn in one look: bounds its transaction."""
SETTLED_IN = frozenset({Outcome.CONFIRMED, Outcome.PROBATION})
"""Outcomes of devices that have activated the version."""


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
    room -= move_members(look, room)
    room -= release_held(look, room)
    for member in tuple(look.members.values()):
        is_due = _is_due(look, member)
        if not is_due or member.stage > look.rollout.stage:
            continue
        if (reading := find_unfit(look, member)) is not None:
            look.set_outcome(member, reading)
        elif member.device.is_online:
            if room > 0:
                make_offer(look, member)
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


def _offer_left_out(look: Round) -> None:
    """Let who was passed over catch up: the version has passed every gate."""
    room = ROWS_PER_ROUND - move_members(look, find_room(look.rollout, look.tally))
    if look.view.is_superseded:
        return
    for member in tuple(look.members.values()):
        is_left = member.progress.outcome in (Outcome.SILENT_BEFORE, Outcome.PENDING)
        if not is_left or member.progress.offered_at is not None or room == 0:
            continue
        if (reading := find_unfit(look, member)) is not None:
            look.set_outcome(member, reading)
            continue
        if is_closed(look, member):
            continue
        outcome = Outcome.OFFERED if member.device.is_online else Outcome.SILENT_BEFORE
        make_offer(look, member, outcome)
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
            see_return(look, member)
        elif is_held(look, member) and room and is_meant(member):
            withdraw_one(look, member)
            room -= 1


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
