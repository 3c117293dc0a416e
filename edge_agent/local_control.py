"""Answers people on the device about the running agent, and takes their rollback.

Everything here runs in the agent's loop: the socket's thread only carries requests and answers.
What it adds to the committed state is what only a running agent knows: what answers, since when,
whether the server is connected.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol

from edge_agent.agent_jobs import SlotEvent
from edge_agent.contract.messages import SlotState
from edge_agent.core.agent_state import AgentState
from edge_agent.core.events import OperatorRollback
from edge_agent.core.operator_rollback import find_rollback_problem
from edge_agent.core.outlook import describe_next
from edge_agent.core.slot import Slot
from edge_agent.errors import Refusal
from edge_agent.ports import Clock, Connected, Disconnected, ServingFound

REASON_CHARS_MAX = 200


class ControlledAgent(Protocol):
    """What is needed of the agent."""

    @property
    def state(self) -> AgentState:
        """What the agent is committed to."""

    @property
    def refusal(self) -> Refusal | None:
        """Why updates stop now; None when nothing stops them."""

    def handle(self, item: object) -> None:
        """Take one input."""


@dataclass(slots=True)
class _Link:
    """The session with the broker."""

    is_connected: bool = False
    since: datetime | None = None
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class LocalControl:
    """Watches one agent's loop and answers requests in it.

    Attributes:
        agent: Of the same loop.
        clock: Of the same process.
        count_windows: Counts of the outbox.
        find_serving: Gives where models answer, and the process that does.
    """

    agent: ControlledAgent
    clock: Clock
    count_windows: Callable[[], Mapping[str, int]]
    find_serving: Callable[[], Mapping[str, Any]] = dict
    _started_at: datetime = field(init=False)
    _link: _Link = field(init=False, default_factory=_Link)
    _serving: Mapping[str, Any] = field(init=False, default_factory=dict)
    _phases: dict[str, tuple[SlotState, datetime]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Begin to watch."""
        self._started_at = self.clock.now()

    def note(self, item: object) -> None:
        """See an input of the agent pass by."""
        match item:
            case Connected():
                self._link = _Link(is_connected=True, since=self.clock.now())
            case Disconnected(reason=reason):
                self._link = _Link(since=self.clock.now(), reason=reason[:REASON_CHARS_MAX])
            case ServingFound():
                self._serving = asdict(item)
            case _:
                pass

    def look(self) -> str:
        """See what a turn of the loop has changed; return one line about it all."""
        for name, slot in self.agent.state.slots.items():
            if name not in self._phases or self._phases[name][0] is not slot.phase:
                self._phases[name] = (slot.phase, self.clock.now())
        word = "connected" if self._link.is_connected else "not connected"
        slots = [f"{name} {slot.phase}" for name, slot in self.agent.state.slots.items()]
        return ", ".join([word, *slots])

    def answer(self, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one request: ``{"do": "status"}`` or ``{"do": "rollback", "slot": NAME}``."""
        match words.get("do"):
            case "status":
                return self._status()
            case "rollback":
                return self._roll_back(words.get("slot"))
            case _:
                return {"error": "this agent knows the requests status and rollback"}

    def _status(self) -> Mapping[str, Any]:
        now, refusal = self.clock.monotonic(), self.agent.refusal
        return {
            "started": self._started_at.isoformat(),
            "link": {
                "connected": self._link.is_connected,
                "since": self._link.since.isoformat() if self._link.since else "",
                "reason": self._link.reason,
            },
            "outbox": dict(self.count_windows()),
            "serving": {**self.find_serving(), **self._serving},
            "refusal": {"code": str(refusal.code), "detail": refusal.detail} if refusal else None,
            "slots": {
                name: self._slot(name, slot, now) for name, slot in self.agent.state.slots.items()
            },
        }

    def _slot(self, name: str, slot: Slot, now: float) -> Mapping[str, Any]:
        running, noted = slot.running, self._phases.get(name)
        return {
            "running": {"target": running.target, "sha256": running.sha256} if running else None,
            "since": noted[1].isoformat() if noted and noted[0] is slot.phase else "",
            "next": describe_next(slot, now=now, is_connected=self._link.is_connected),
        }

    def _roll_back(self, wish: object) -> Mapping[str, Any]:
        slots = self.agent.state.slots
        names = ", ".join(slots) or "none yet"
        if wish is None and len(slots) == 1:
            wish = next(iter(slots))
        if wish is None:
            return {"error": f"say which slot: --slot, one of {names}"}
        if not isinstance(wish, str) or wish not in slots:
            return {"error": f"no slot {str(wish)[:64]!r} on this device; slots are {names}"}
        problem = find_rollback_problem(slots[wish])
        if problem:
            return {"error": f"slot {wish} cannot be rolled back: {problem}"}
        self.agent.handle(SlotEvent(wish, OperatorRollback(self.clock.monotonic())))
        slot = self.agent.state.slots[wish]
        if slot is slots[wish]:
            return {"error": f"slot {wish} was not rolled back now: the disk refuses the change"}
        package = slot.banks.confirmed_package
        return {"slot": wish, "target": package.target if package else "", "detail": slot.detail}
