"""Decides when to say what truly runs, and says it: at every connect and every change.

Changes that follow each other within a moment go out as one report. A report is said again every
quarter of an hour, because the broker is a cache and may lose one, and sooner when the server says
its assignment again in the middle of a session: then the broker has lost what it held, and a report
that came before the server listened again is lost too.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from edge_agent import __version__
from edge_agent.contract.messages import REPORTED_BYTES_MAX, Reported, SlotReport
from edge_agent.contract.shadow import ShadowReport, ShadowState
from edge_agent.core.agent_state import AgentState
from edge_agent.core.slot import Slot, report_slot
from edge_agent.core.verified import EARLIEST_AT
from edge_agent.errors import Refusal
from edge_agent.ports import Clock, Jitter

GATHER_S = 0.2
"""Changes within this time share a report."""
REPEAT_S = 900.0
"""And up to a fifth more, so that a fleet does not speak at once."""
SHADOW_REPEAT_S = 60.0
"""While a candidate is compared: the server's gate decides on its counts."""
SHADOW_ROWS_MIN = 16
"""From here on counts are news, too, each time the compared rows have doubled."""
SETTLED_S = 2.0
"""What arrives earlier in a session is what the broker had kept."""
DETAIL_CHARS_MAX = 512


class Reporter:
    """Remembers what was last said."""

    def __init__(
        self,
        *,
        boot: int,
        clock: Clock,
        jitter: Jitter,
        count_windows: Callable[[], Mapping[str, int]],
        read_resources: Callable[[], Mapping[str, float]] = dict,
        serving_place: str = "",
    ) -> None:
        """Begin with nothing said.

        Args:
            boot: Id of this start.
            clock: For when a report is due.
            jitter: Spreads repeated reports.
            count_windows: Gives the outbox counts of a report.
            read_resources: Gives what agent and device use; asked once a report.
            serving_place: Where models answer: ``worker`` or ``in_process``; empty: not said.
        """
        self._serving_place = serving_place
        self._read_resources = read_resources
        self._boot, self._clock, self._jitter = boot, clock, jitter
        self._count_windows = count_windows
        self._sequence = 0
        self._said: tuple[object, ...] = ()
        self._heard = b""
        self._connected_at = 0.0
        self.due_at: float | None = None
        self.capabilities: Mapping[str, Any] = {}
        self.certificate: Mapping[str, str] = {}
        self.serving: Mapping[str, Any] = {}
        self.transfers: Mapping[str, Mapping[str, Any]] = {}
        """By slot, how its newest package came (docs/transfer.md)."""

    def note(self, state: AgentState, refusal: Refusal | None) -> None:
        """Look at the present facts; a change makes a report due shortly."""
        facts = self._facts(state, refusal)
        if facts != self._said:
            self._said = facts
            soon = self._clock.monotonic() + GATHER_S
            self.due_at = soon if self.due_at is None else min(soon, self.due_at)

    def connected(self) -> None:
        """Begin a session: a report is due now."""
        self._connected_at = self._clock.monotonic()
        self.hurry()

    def hear_assignment(self, envelope: bytes, *, spread_s: float) -> None:
        """Take note of an assignment; the same again makes a report due within ``spread_s``."""
        now, is_again = self._clock.monotonic(), envelope == self._heard
        self._heard = envelope
        if is_again and now > self._connected_at + SETTLED_S:
            soon = now + GATHER_S + self._jitter() * spread_s
            self.due_at = soon if self.due_at is None else min(soon, self.due_at)

    def hurry(self) -> None:
        """Make a report due now."""
        self.due_at = self._clock.monotonic()

    def take_due(self, state: AgentState, refusal: Refusal | None) -> bytes | None:
        """Return the report if it is due; it counts as said."""
        now = self._clock.monotonic()
        if self.due_at is None or now < self.due_at:
            return None
        is_comparing = any(slot.shadow_live is not None for slot in state.slots.values())
        again_s = SHADOW_REPEAT_S if is_comparing else REPEAT_S
        self.due_at = now + again_s * (1 + self._jitter() / 5)
        self._sequence += 1
        report = Reported(
            boot=self._boot,
            sequence=self._sequence,
            at_ms=int(self._clock.now().timestamp() * 1000),
            agent=__version__,
            slots={name: self._slot(name, slot) for name, slot in state.slots.items()},
            assignment_counter=state.accepted.counter,
            metadata=state.metadata,
            refusal=_refusal_fields(refusal),
            capabilities=self.capabilities,
            outbox=self._count_windows(),
            certificate=self.certificate,
            resources=self._read_resources(),
            extra={**_clock_fields(state.accepted.time_floor_at), **self._serving_fields()},
        )
        encoded = report.encode()
        if len(encoded) > REPORTED_BYTES_MAX:
            encoded = _shortened(report).encode()
        return encoded

    def _slot(self, name: str, slot: Slot) -> SlotReport:
        report, transfer = report_slot(slot), self.transfers.get(name)
        return replace(report, extra={"transfer": dict(transfer)}) if transfer else report

    def _serving_fields(self) -> dict[str, Any]:
        """Say where models answer, and how that does once it had to be started again."""
        place = {"place": self._serving_place} if self._serving_place else {}
        known = {**place, **(self.serving if self.serving.get("restarts") else {})}
        return {"serving": known} if known else {}

    def _facts(self, state: AgentState, refusal: Refusal | None) -> tuple[object, ...]:
        # Rows of a probation or a shadow change with every request; most travel with the next one.
        slots = tuple((name, _without_rows(self._slot(name, s))) for name, s in state.slots.items())
        said = (refusal.code, refusal.detail) if refusal else None
        identity = (self.capabilities, dict(self.certificate), dict(self.serving))
        return slots, state.accepted.counter, dict(state.metadata), said, identity


def _without_rows(report: SlotReport) -> SlotReport:
    shadow = report.shadow
    if shadow is not None and shadow.state is ShadowState.COMPARING:
        rows = 1 << shadow.rows.bit_length() if shadow.rows >= SHADOW_ROWS_MIN else 0
        shadow = ShadowReport(sha256=shadow.sha256, state=shadow.state, rows=rows)
    return replace(report, rows=0, shadow=shadow)


def _clock_fields(floor_at: datetime) -> dict[str, Any]:
    """Say what the clock is held to; ``at_ms`` of the report says what it shows."""
    return {"clock": {"floor": floor_at.isoformat()}} if floor_at > EARLIEST_AT else {}


def _refusal_fields(refusal: Refusal | None) -> dict[str, str] | None:
    if refusal is None:
        return None
    return {"code": str(refusal.code), "detail": refusal.detail[:DETAIL_CHARS_MAX]}


def _shortened(report: Reported) -> Reported:
    slots = {name: replace(slot, detail=slot.detail[:80]) for name, slot in report.slots.items()}
    return replace(report, slots=slots, capabilities={})
