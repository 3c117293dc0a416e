"""What a start of the agent does with one slot: the confirmed package answers, the work goes on.

A life of the agent that ended inside a self-test, a shadowing or a probation counts against the
package, unless it ended in good order: the package itself may be what stopped it.
"""

from dataclasses import replace

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core.effects import Deactivate, Effect, Fetch, SelfTest, Verify
from edge_agent.core.events import Booted
from edge_agent.core.moves import (
    ACTIVATE_S,
    SELF_TEST_S,
    VERIFY_S,
    Outcome,
    ask_for_candidate,
    ask_for_confirmed,
    fail,
    release_of,
    roll_back,
)
from edge_agent.core.shadowing import drop_shadow, resume_shadow
from edge_agent.core.slot import Slot

BOOTS_MAX = 3
COUNTED_BOOTS = frozenset({Phase.SELF_TESTING, Phase.SHADOWING, Phase.PROBATION})
"""Phases in which the package itself may be what stops the agent."""


def booted(slot: Slot, event: Booted) -> Outcome:
    """Take up a slot after a start; nothing answers yet."""
    boots = slot.boots
    if slot.phase in COUNTED_BOOTS and not slot.is_stopped:
        boots += 1
    slot = replace(
        slot,
        boots=boots,
        is_stopped=False,
        running=None,
        asked=None,
        attempt=slot.attempt + 1,
        tries=0,
        due_at=None,
        reask_at=None,
        since_at=None,
        rows=0,
        shadow_live=None,
    )
    if slot.phase is Phase.PROBATION:
        return _boot_in_probation(slot, event)
    effects: list[Effect] = []
    if slot.banks.confirmed is not None:
        slot, effects = ask_for_confirmed(slot)
    elif slot.code is Code.WITHDRAWN:
        effects = [Deactivate(slot.detail)]
    resume = _resume_shadow if slot.phase is Phase.SHADOWING else _resume
    slot, more = resume(slot, event)
    return slot, [*effects, *more]


def _boot_in_probation(slot: Slot, event: Booted) -> Outcome:
    if slot.boots < BOOTS_MAX:
        return ask_for_candidate(slot, event.now)
    detail = f"the agent stopped {slot.boots} times while it was in probation"
    return roll_back(slot, Code.PROBATION_BOOTS, detail, event.now)


def _resume_shadow(slot: Slot, event: Booted) -> Outcome:
    if slot.boots < BOOTS_MAX:
        return resume_shadow(slot, event.now)
    detail = f"the agent stopped {slot.boots} times while the candidate was in shadow"
    return drop_shadow(slot, Code.SHADOW_CRASH, detail)


def _resume(slot: Slot, event: Booted) -> Outcome:
    """Take up again what the last life left unfinished."""
    match slot.phase:
        case Phase.OFFERED | Phase.FETCHING:
            slot = replace(slot, phase=Phase.OFFERED)
            return slot, [Fetch(slot.attempt, release_of(slot))]
        case Phase.VERIFYING:
            slot = replace(slot, due_at=event.now + VERIFY_S)
            return slot, [Verify(slot.attempt, release_of(slot))]
        case Phase.SELF_TESTING if slot.boots >= BOOTS_MAX:
            detail = f"the agent stopped {slot.boots} times during the self-test"
            return fail(slot, Code.SELFTEST_CRASH, detail)
        case Phase.SELF_TESTING:
            slot = replace(slot, due_at=event.now + SELF_TEST_S)
            return slot, [SelfTest(slot.attempt, release_of(slot))]
        case Phase.ROLLING_BACK:
            slot = replace(slot, due_at=event.now + ACTIVATE_S)
            return slot, [] if slot.banks.confirmed else [Deactivate(slot.detail)]
        case _:
            return slot, []
