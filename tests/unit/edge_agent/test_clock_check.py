"""What can be told of a clock from dates that have passed, and what a report says of it."""

from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.contract.messages import Reported
from edge_agent.core.agent_state import AgentState
from edge_agent.core.clock_check import TOLERANCE, find_clock_fault
from edge_agent.core.verified import AcceptedTrust
from edge_agent.reporter import Reporter
from tests.support.clock import FakeClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("now_at", "words"),
    [
        (NOW, ""),
        (NOW - TOLERANCE, ""),
        (NOW - 2 * TOLERANCE, "the approvers signed something on 2026-03-01 12:00; set the clock"),
        (
            datetime(1970, 1, 1, tzinfo=UTC),
            "the clock says 1970-01-01 00:00 UTC, but the approvers",
        ),
        (
            NOW + 90 * DAY,
            "certificate ended on 2026-05-30 12:00; if the clock is right, join again",
        ),
        (NOW + 3_650 * DAY, "the clock says 2036-"),
    ],
)
def test_a_clock_is_held_to_what_was_signed_and_to_the_certificate(
    now_at: datetime, words: str
) -> None:
    fault = find_clock_fault(
        now_at, floor_at=NOW, not_before_at=NOW - DAY, not_after_at=NOW + 90 * DAY
    )
    assert words in fault
    assert bool(fault) == bool(words)


def test_before_the_first_metadata_the_certificate_tells() -> None:
    fault = find_clock_fault(NOW - 2 * DAY, not_before_at=NOW - DAY)
    assert "certificate begins on 2026-02-28 12:00; set the clock" in fault


def test_a_report_says_what_the_clock_shows_and_what_it_is_held_to() -> None:
    clock = FakeClock(datetime(1970, 1, 2, tzinfo=UTC))
    reporter = Reporter(boot=1, clock=clock, jitter=lambda: 0.0, count_windows=dict)
    reporter.hurry()
    encoded = reporter.take_due(AgentState(accepted=AcceptedTrust(time_floor_at=NOW)), None)
    assert encoded is not None
    report = Reported.decode(encoded)
    assert report.at_ms == 86_400_000
    assert report.extra["clock"] == {"floor": NOW.isoformat()}
