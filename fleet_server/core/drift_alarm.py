"""The life of an alarm: pending, open, closing, closed; a table that never flaps.

An alarm opens when several added windows cross together, or single windows do so twice in three
steps; it closes when its features stay quiet for as long as it took to see the shift. A step
needs a new window: judging the same data twice moves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

PENDING_STEPS_MAX = 3
CROSSINGS_TO_OPEN = 2
QUIET_STEPS_MIN = 3
QUIET_WINDOWS = 4
"""Windows that quietness is judged over."""


class AlarmState(StrEnum):
    """Where an alarm stands."""

    PENDING = "pending"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class AlarmEvent(StrEnum):
    """What a step did."""

    NONE = "none"
    OPENED = "opened"
    CLOSED = "closed"
    FOLDED = "folded"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmMemory:
    """What is carried from one look to the next.

    Attributes:
        state: Where it stands.
        stepped_ms: End of the newest window at the last step.
        steps: Steps since it became pending.
        crossings: Steps at which it crossed while pending.
        quiet_steps: Quiet steps in a row.
        quiet_needed: Quiet steps that close it.
        quiet_since_ms: Start of the windows that were quiet first; what began earlier never
            raises this alarm again.
    """

    state: AlarmState
    stepped_ms: int
    steps: int = 0
    crossings: int = 0
    quiet_steps: int = 0
    quiet_needed: int = QUIET_STEPS_MIN
    quiet_since_ms: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AlarmMemory":
        """Read the JSON form."""
        numbers = {name: int(value[name]) for name in cls.__dataclass_fields__ if name != "state"}
        return cls(state=AlarmState(value["state"]), **numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one judgement says about one subject.

    Attributes:
        newest_ms: End of the newest window.
        window_ms: Length of a window.
        case_windows: Windows of the shortest horizon that crossed; 0 without a case.
        is_confirmed: Several windows added crossed, too.
        is_quiet: Nothing left of it in the newest windows; None when that was not judged.
        is_folded: An alarm of a larger set explains it.
    """

    newest_ms: int
    window_ms: int
    case_windows: int = 0
    is_confirmed: bool = False
    is_quiet: bool | None = None
    is_folded: bool = False


def step_alarm(memory: AlarmMemory | None, look: Look) -> tuple[AlarmMemory | None, AlarmEvent]:
    """Move one alarm by one look; no memory means there is none (or a closed one).

    >>> look = Look(newest_ms=60_000, window_ms=60_000, case_windows=1, is_confirmed=True)
    >>> step_alarm(None, look)[1]
    <AlarmEvent.OPENED: 'opened'>
    """
    if memory is None or memory.state is AlarmState.CLOSED:
        if not look.case_windows or look.is_folded:
            return memory, AlarmEvent.NONE
        memory = AlarmMemory(state=AlarmState.PENDING, stepped_ms=look.newest_ms, crossings=1)
        return _step_pending(memory, look)
    is_new = look.newest_ms >= memory.stepped_ms + look.window_ms
    if look.is_folded and not look.case_windows:
        if memory.state is AlarmState.PENDING:
            return None, AlarmEvent.DROPPED
        return replace(memory, state=AlarmState.CLOSED), AlarmEvent.FOLDED
    if memory.state is AlarmState.PENDING:
        if is_new:
            memory = replace(
                memory,
                stepped_ms=look.newest_ms,
                steps=memory.steps + 1,
                crossings=memory.crossings + bool(look.case_windows),
            )
        return _step_pending(memory, look)
    return _step_open(memory, look, is_new=is_new)


def _step_pending(memory: AlarmMemory, look: Look) -> tuple[AlarmMemory | None, AlarmEvent]:
    if look.is_confirmed or memory.crossings >= CROSSINGS_TO_OPEN:
        return _open(memory, look), AlarmEvent.OPENED
    if memory.steps >= PENDING_STEPS_MAX:
        return None, AlarmEvent.DROPPED
    return memory, AlarmEvent.NONE


def _open(memory: AlarmMemory, look: Look) -> AlarmMemory:
    needed = max(QUIET_STEPS_MIN, look.case_windows // QUIET_WINDOWS)
    return replace(
        memory,
        state=AlarmState.OPEN,
        stepped_ms=look.newest_ms,
        quiet_steps=0,
        quiet_needed=needed,
        quiet_since_ms=0,
    )


def _step_open(memory: AlarmMemory, look: Look, *, is_new: bool) -> tuple[AlarmMemory, AlarmEvent]:
    if not is_new or look.is_quiet is None:
        return memory, AlarmEvent.NONE
    memory = replace(memory, stepped_ms=look.newest_ms)
    if not look.is_quiet:
        calm = replace(memory, state=AlarmState.OPEN, quiet_steps=0, quiet_since_ms=0)
        return calm, AlarmEvent.NONE
    since_ms = memory.quiet_since_ms or look.newest_ms - QUIET_WINDOWS * look.window_ms
    memory = replace(
        memory,
        state=AlarmState.CLOSING,
        quiet_steps=memory.quiet_steps + 1,
        quiet_since_ms=since_ms,
    )
    if memory.quiet_steps < memory.quiet_needed:
        return memory, AlarmEvent.NONE
    return replace(memory, state=AlarmState.CLOSED), AlarmEvent.CLOSED
