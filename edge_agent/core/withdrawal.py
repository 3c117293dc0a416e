"""What a slot does when the approvers take a signature back, or give it again.

A package that verified metadata no longer holds must not answer, unless the approvers signed that
it is kept, and then only as the confirmed package: what is still on its way in ends. Nothing that
was not assigned takes its place; the slot waits for an assignment. A withdrawn package is not
remembered as bad: signed and assigned again, it starts anew.

The caller says what is gone; whether metadata was trustworthy is not decided here.
"""

from dataclasses import replace

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core import banks as bank_rules
from edge_agent.core.effects import Activate, CancelFetch, Collect, Deactivate, Effect
from edge_agent.core.events import Reapproved, Withdrawn
from edge_agent.core.moves import (
    ACTIVATE_S,
    Outcome,
    ask_for_confirmed,
    fail,
    release_of,
    roll_back,
)
from edge_agent.core.operator_rollback import is_update_waiting
from edge_agent.core.release import Package, PackageKey
from edge_agent.core.shadowing import drop_shadow, end_shadow
from edge_agent.core.slot import IN_PROGRESS, Slot


def find_held(slot: Slot) -> frozenset[PackageKey]:
    """Return everything a slot holds or works on that a withdrawal would concern."""
    held = {package.key for package in (slot.banks.a, slot.banks.b) if package is not None}
    return frozenset(held | {slot.wanted.key} if slot.wanted else held)


def withdrawn(slot: Slot, event: Withdrawn) -> Outcome:
    """Let go of what was withdrawn; stop it if it answers."""
    gone, before = event.packages, slot.banks
    candidate = before.at(slot.candidate)
    if candidate is not None and candidate.key in gone:
        return _end_candidate(slot, candidate, event)
    banks, stopped = bank_rules.withdraw(before, gone)
    slot = replace(slot, banks=banks)
    effects: list[Effect] = []
    if slot.phase in IN_PROGRESS and release_of(slot).key in gone:
        if slot.phase in (Phase.OFFERED, Phase.FETCHING):
            effects.append(CancelFetch())
        slot, more = fail(slot, Code.WITHDRAWN, _say(release_of(slot).target, "not installed"))
        effects += more
    elif is_update_waiting(slot) and release_of(slot).key in gone:
        detail = _say(release_of(slot).target, "not installed")
        slot = replace(slot, code=Code.WITHDRAWN, detail=detail)
    if stopped is not None:
        slot, more = _stop_confirmed(slot, stopped, event.now)
        return slot, [*effects, *more]
    left = next((package for package in gone if package.sha256 == slot.asked), None)
    if left is not None and banks.confirmed is None:
        # A candidate that was superseded before anything was confirmed has gone on answering.
        effects.append(Deactivate(_say(left.target, "stopped")))
        slot = replace(slot, asked=None)
    if banks.digests != before.digests and Collect() not in effects:
        effects.append(Collect())
    return slot, effects


def reapproved(slot: Slot, event: Reapproved) -> Outcome:
    """Take the mark off what was kept; what was stopped waits for its assignment."""
    return replace(slot, banks=bank_rules.reinstate(slot.banks, event.packages)), []


def _end_candidate(slot: Slot, candidate: Package, event: Withdrawn) -> Outcome:
    # The confirmed package may have gone as well; then nothing answers.
    banks, stopped = bank_rules.withdraw(slot.banks, event.packages - {candidate.key})
    if slot.phase is Phase.SHADOWING:
        detail = _say(candidate.target, "not installed")
        slot, effects = drop_shadow(replace(slot, banks=banks), Code.WITHDRAWN, detail)
        if stopped is None:
            return slot, effects
        slot, more = _stop_confirmed(slot, stopped, event.now)
        return slot, [*effects, *more]
    detail = _say(candidate.target, "stopped")
    return roll_back(replace(slot, banks=banks), Code.WITHDRAWN, detail, event.now)


def _stop_confirmed(slot: Slot, stopped: Package, now: float) -> Outcome:
    detail = _say(stopped.target, "stopped")
    candidate = slot.banks.at(slot.candidate)
    if slot.phase is Phase.SHADOWING:
        slot, effects = end_shadow(slot, "what it was compared with was withdrawn", now)
        return slot, [Deactivate(detail), *effects, Collect()]
    if candidate is not None:
        slot = replace(slot, reask_at=None)
        if slot.running is None or slot.running.sha256 != stopped.sha256:
            return slot, [Collect()]
        # The candidate does not answer yet; until it does, nothing answers.
        return slot, [Deactivate(detail), Activate(candidate), Collect()]
    is_going_on = slot.phase in IN_PROGRESS
    is_news = slot.code is None or (slot.wanted is not None and slot.wanted.key == stopped.key)
    slot = replace(slot, detail=detail)
    slot, effects = ask_for_confirmed(slot)
    if is_going_on:
        return slot, [*effects, Collect()]
    return replace(
        slot,
        phase=Phase.ROLLING_BACK,
        attempt=slot.attempt + 1,
        code=Code.WITHDRAWN if is_news else slot.code,
        due_at=now + ACTIVATE_S,
    ), effects


def _say(target: str, end: str) -> str:
    return f"{target} was withdrawn by the approvers and {end}; assign an approved version"
