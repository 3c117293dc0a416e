"""Commits what happened, one change after another; effects follow their commit.

Order is the promise: the new state is in one atomic file before any effect of it, so after a power
cut the agent knows at least as much as it had done. A disk that refuses the commit stops the
changes, not the agent: they wait in order, and the first is tried again.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.contract.errors import ContractError, UnsupportedVersionError
from edge_agent.core.agent_state import AgentState, state_from_json, state_to_json
from edge_agent.core.changes import apply_change, is_durably_different
from edge_agent.core.effects import Effect
from edge_agent.core.events import Event
from edge_agent.core.verified import Standing, VerifiedAssignment
from edge_agent.errors import Refusal, SettingsError, StorageError
from edge_agent.ports import Clock, StateStore

COMMIT_RETRY_S = 5.0
CHANGES_MAX = 1_000
"""Of these may wait for a disk that refuses; a flapping link adds none beyond."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One step to commit: events by slot, and the trust that came with them."""

    events: tuple[tuple[str, Event], ...]
    verified: VerifiedAssignment | None = None
    standing: Standing | None = None


class Commits:
    """The agent's state and what waits to change it."""

    def __init__(
        self,
        state: AgentState,
        *,
        store: StateStore,
        clock: Clock,
        carry_out: Callable[[str, Effect], None],
        spread: Callable[[float], None],
    ) -> None:
        """Begin with what was committed last.

        Args:
            state: As restored.
            store: Takes the state durably.
            clock: For when a refused commit is tried again.
            carry_out: Takes an effect of a slot, after its commit.
            spread: Takes how long reconnects spread, when that changed.
        """
        self.state = state
        self._store, self._clock = store, clock
        self._carry_out, self._spread = carry_out, spread
        self._changes: deque[Change] = deque()
        self._error: StorageError | None = None
        self._retry_at = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be committed."""
        return not self._changes

    @property
    def refusal(self) -> Refusal | None:
        """Why the disk takes nothing now; None when it does."""
        return Refusal(self._error.code, self._error.detail) if self._error is not None else None

    def add(self, change: Change) -> None:
        """Queue a change; ``work_off`` commits it."""
        self._changes.append(change)

    def post(self, slot: str, event: Event) -> None:
        """Queue an event of one slot."""
        self._changes.append(Change(((slot, event),)))

    def post_to_all(self, event: Event) -> None:
        """Queue an event of every slot, unless too much waits for the disk."""
        if self.state.slots and len(self._changes) < CHANGES_MAX:
            self._changes.append(Change(tuple((slot, event) for slot in self.state.slots)))

    def work_off(self) -> None:
        """Commit and carry out everything that waits, unless the disk refuses."""
        now = self._clock.monotonic()
        while self._changes and now >= self._retry_at:
            if not self._commit(self._changes[0], now):
                break

    def _commit(self, change: Change, now: float) -> bool:
        try:
            state, effects = apply_change(
                self.state, change.events, change.verified, change.standing
            )
        except LookupError:
            self._changes.popleft()
            raise
        if is_durably_different(self.state, state):
            try:
                self._store.save(state_to_json(state))
            except StorageError as error:
                if self._error is None:
                    _LOG.error("the state cannot be committed, updates wait: %s", error)
                self._error, self._retry_at = error, now + COMMIT_RETRY_S
                return False
        self._changes.popleft()
        self._error = None
        if state.spread_s != self.state.spread_s:
            self._spread(state.spread_s)
        self.state = state
        for slot, effect in effects:
            self._carry_out(slot, effect)
        return True


def restore_state(store: StateStore) -> AgentState:
    """Read what was committed; begin anew when the file says nothing that can be understood.

    Raises:
        SettingsError: A newer agent wrote it.
        StorageError: The disk cannot read it.
    """
    value = store.load()
    if value is None:
        return AgentState()
    try:
        return state_from_json(value)
    except UnsupportedVersionError as error:
        raise SettingsError(f"the agent's state was written by a newer agent: {error}") from error
    except ContractError:
        _LOG.exception("the agent's state cannot be understood; beginning anew")
        return AgentState()
