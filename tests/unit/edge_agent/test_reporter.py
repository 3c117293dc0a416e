"""When the agent says again what is so, although nothing changed."""

import json

from edge_agent.contract.messages import Reported
from edge_agent.core.agent_state import AgentState
from edge_agent.reporter import REPEAT_S, SETTLED_S, Reporter
from tests.support.clock import FakeClock

STATE = AgentState()


class Desk:
    def __init__(self, jitter: float = 0.5) -> None:
        self.clock = FakeClock()
        self.reporter = Reporter(
            boot=7,
            clock=self.clock,
            jitter=lambda: jitter,
            count_windows=dict,
            serving_place="worker",
        )
        self.reporter.connected()
        assert self.take() is not None

    def take(self) -> bytes | None:
        return self.reporter.take_due(STATE, None)

    def after(self, seconds: float) -> bytes | None:
        self.clock.advance(seconds)
        return self.take()


def test_a_report_is_said_again_every_quarter_of_an_hour_and_a_little() -> None:
    for jitter in (0.0, 0.99):
        desk = Desk(jitter)
        period_s = REPEAT_S * (1 + jitter / 5)
        for sequence in (2, 3):
            assert desk.after(period_s - 1) is None
            said = desk.after(1)
            assert said is not None
            assert Reported.decode(said).sequence == sequence
    assert REPEAT_S == 900


def test_an_assignment_said_again_in_a_session_makes_a_report_due_within_the_spread() -> None:
    desk = Desk(jitter=0.5)
    desk.reporter.hear_assignment(b"one", spread_s=10)
    desk.clock.advance(SETTLED_S + 1)
    desk.reporter.hear_assignment(b"one", spread_s=10)
    assert desk.after(5) is None
    assert desk.after(0.3) is not None


def test_what_the_broker_had_kept_and_what_is_new_are_no_reason_to_repeat() -> None:
    desk = Desk()
    desk.reporter.hear_assignment(b"one", spread_s=10)
    desk.clock.advance(60)
    desk.reporter.connected()
    assert desk.take() is not None
    desk.reporter.hear_assignment(b"one", spread_s=10)  # kept by the broker, sent at once
    desk.clock.advance(SETTLED_S + 1)
    desk.reporter.hear_assignment(b"two", spread_s=10)  # its effects are reported as they come
    assert desk.after(60) is None


def test_a_report_says_where_models_answer_and_how_that_does_once_it_failed() -> None:
    desk = Desk()
    desk.reporter.hurry()
    said = json.loads(desk.take() or b"")
    assert said["serving"] == {"place": "worker"}
    desk.reporter.serving = {"is_up": True, "restarts": 2, "failures": 1, "fault": "SIGSEGV"}
    desk.reporter.hurry()
    said = json.loads(desk.take() or b"")
    assert said["serving"]["place"] == "worker"
    assert (said["serving"]["restarts"], said["serving"]["fault"]) == (2, "SIGSEGV")
