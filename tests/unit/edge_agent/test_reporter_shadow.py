"""While a candidate is compared its counts reach the server soon, and not with every request."""

from dataclasses import replace
from datetime import UTC, datetime

from edge_agent.contract.messages import SlotState
from edge_agent.contract.shadow import ShadowReport, ShadowState
from edge_agent.core.agent_state import AgentState
from edge_agent.core.slot import Slot
from edge_agent.reporter import REPEAT_S, SHADOW_REPEAT_S, Reporter
from tests.support.clock import FakeClock


def test_counts_are_said_as_they_double_and_every_minute() -> None:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    reporter = Reporter(boot=1, clock=clock, jitter=lambda: 0.0, count_windows=dict)
    live = ShadowReport(sha256="2" * 64, state=ShadowState.COMPARING)
    said = []
    for rows in range(300):
        slot = Slot(phase=SlotState.SHADOWING, shadow_live=replace(live, rows=rows))
        state = AgentState(slots={"m": slot})
        reporter.note(state, None)
        clock.advance(0.3)
        if reporter.take_due(state, None) is not None:
            said.append(rows)
    assert said == [0, 16, 32, 64, 128, 256]
    due_at = reporter.due_at
    assert due_at is not None
    clock.advance(due_at - clock.monotonic())
    assert reporter.take_due(state, None) is not None
    assert reporter.due_at == clock.monotonic() + SHADOW_REPEAT_S

    state = AgentState(slots={"m": Slot(phase=SlotState.PROBATION)})
    reporter.note(state, None)
    clock.advance(0.3)
    assert reporter.take_due(state, None) is not None
    assert reporter.due_at == clock.monotonic() + REPEAT_S
