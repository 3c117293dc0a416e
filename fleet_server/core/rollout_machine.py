"""The states of a rollout: one table, and the only way from one state to the next.

A transition only writes; what happens to devices follows from the state and is done again at every
look until it is true, so that a controller may be killed anywhere. A stage's devices are offered
the version in ``running`` and in no other state. An event that a state does not know is refused
and changes nothing.
"""

from enum import StrEnum


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


class RolloutEvent(StrEnum):
    """What can happen to it: an operator's act or a verdict."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STAGE_PASSED = "stage_passed"
    LAST_STAGE_PASSED = "last_stage_passed"
    HALT = "halt"
    ROLL_BACK = "roll_back"
    ALL_RETURNED = "all_returned"
    ABORT = "abort"


class RolloutEffect(StrEnum):
    """What a transition writes beside the state, in the same transaction."""

    OPEN_STAGE = "open_stage"
    MOVE_CHAMPION = "move_champion"
    RESTORE_CHAMPION = "restore_champion"
    BEGIN_RETURN = "begin_return"
    FINISH = "finish"


class Duty(StrEnum):
    """What the controller does at every look while a state lasts."""

    OFFER = "offer"
    OFFER_LEFT_OUT = "offer_left_out"
    WITHDRAW = "withdraw"
    WITHDRAW_UNFINISHED = "withdraw_unfinished"


ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK})
"""States in which the rollout holds the slot of its devices."""
FINAL = frozenset({RolloutState.COMPLETED, RolloutState.ROLLED_BACK, RolloutState.ABORTED})

DUTIES: dict[RolloutState, Duty] = {
    RolloutState.RUNNING: Duty.OFFER,
    RolloutState.COMPLETED: Duty.OFFER_LEFT_OUT,
    RolloutState.ROLLING_BACK: Duty.WITHDRAW,
    RolloutState.ROLLED_BACK: Duty.WITHDRAW,
    RolloutState.ABORTED: Duty.WITHDRAW_UNFINISHED,
}
"""A state that is absent changes nothing on devices."""

_S, _E, _F = RolloutState, RolloutEvent, RolloutEffect
TABLE: dict[tuple[RolloutState, RolloutEvent], tuple[RolloutState, tuple[RolloutEffect, ...]]] = {
    (_S.DRAFT, _E.START): (_S.RUNNING, (_F.OPEN_STAGE,)),
    (_S.DRAFT, _E.ABORT): (_S.ABORTED, (_F.FINISH,)),
    (_S.RUNNING, _E.PAUSE): (_S.PAUSED, ()),
    (_S.RUNNING, _E.STAGE_PASSED): (_S.RUNNING, (_F.OPEN_STAGE,)),
    (_S.RUNNING, _E.LAST_STAGE_PASSED): (
        _S.COMPLETED,
        (_F.MOVE_CHAMPION, _F.FINISH),
    ),
    (_S.RUNNING, _E.HALT): (_S.HALTED, ()),
    (_S.RUNNING, _E.ROLL_BACK): (_S.ROLLING_BACK, (_F.BEGIN_RETURN,)),
    (_S.RUNNING, _E.ABORT): (_S.ABORTED, (_F.FINISH,)),
    (_S.PAUSED, _E.RESUME): (_S.RUNNING, ()),
    (_S.PAUSED, _E.HALT): (_S.HALTED, ()),
    (_S.PAUSED, _E.ROLL_BACK): (_S.ROLLING_BACK, (_F.BEGIN_RETURN,)),
    (_S.PAUSED, _E.ABORT): (_S.ABORTED, (_F.FINISH,)),
    (_S.HALTED, _E.ROLL_BACK): (_S.ROLLING_BACK, (_F.BEGIN_RETURN,)),
    (_S.HALTED, _E.ABORT): (_S.ABORTED, (_F.FINISH,)),
    (_S.ROLLING_BACK, _E.ALL_RETURNED): (_S.ROLLED_BACK, (_F.FINISH,)),
    (_S.COMPLETED, _E.ROLL_BACK): (_S.ROLLING_BACK, (_F.RESTORE_CHAMPION, _F.BEGIN_RETURN)),
}


class TransitionError(ValueError):
    """The state does not know the event; says what it does know."""


def step(
    state: RolloutState, event: RolloutEvent
) -> tuple[RolloutState, tuple[RolloutEffect, ...]]:
    """Give the next state and its effects.

    Raises:
        TransitionError: The state does not know the event.

    >>> step(RolloutState.RUNNING, RolloutEvent.HALT)[0]
    <RolloutState.HALTED: 'halted'>
    """
    if (state, event) not in TABLE:
        known = ", ".join(
            sorted(known_event for known_state, known_event in TABLE if known_state is state)
        )
        raise TransitionError(
            f"a rollout that is {say_word(state)} cannot {say_word(event)};"
            f" it can: {say_word(known) or 'nothing, it is over'}"
        )
    return TABLE[state, event]


def say_word(text: str) -> str:
    """Write a state or event as people say it.

    >>> say_word(RolloutState.ROLLING_BACK)
    'rolling back'
    """
    return text.replace("_", " ")
