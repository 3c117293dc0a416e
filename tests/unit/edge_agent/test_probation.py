"""The judge of a probation: a table of cases in which each rule decides alone, then laws."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.codes import Code
from edge_agent.core.probation import ProbationStats, ProbationVerdict, judge_probation

WAIT, CONFIRM, FAIL = ProbationVerdict.WAIT, ProbationVerdict.CONFIRM, ProbationVerdict.FAIL
POLICY = ProbationPolicy(
    duration_s=60, rows_min=30, timeout_s=600, error_rate_max=0.1, output_shift_max=0.3
)
LATENCY_MAX = 10.0
GOOD = ProbationStats(requests=100, rows=100, latency_ms_p95=5.0, output_shift=0.1)


@pytest.mark.parametrize(
    ("stats", "age_s", "verdict", "code"),
    [
        pytest.param(GOOD, 60, CONFIRM, None, id="time and rows reached"),
        pytest.param(GOOD, 59.9, WAIT, None, id="a moment too young"),
        pytest.param(replace(GOOD, rows=30), 60, CONFIRM, None, id="rows exactly reached"),
        pytest.param(replace(GOOD, rows=29), 60, WAIT, None, id="one row short"),
        pytest.param(replace(GOOD, rows=29), 600, CONFIRM, None, id="time-out decides on few rows"),
        pytest.param(ProbationStats(), 600, CONFIRM, None, id="time-out decides on no rows"),
        pytest.param(ProbationStats(refused=19), 600, CONFIRM, None, id="few were refused"),
        pytest.param(ProbationStats(refused=20), 599, WAIT, None, id="somebody may yet ask well"),
        pytest.param(
            ProbationStats(refused=20), 600, FAIL, Code.PROBATION_ERRORS, id="all were refused"
        ),
        pytest.param(
            ProbationStats(requests=1, rows=1, refused=99), 600, CONFIRM, None, id="one was not"
        ),
        pytest.param(ProbationStats(), 599, WAIT, None, id="no rows before the time-out"),
        pytest.param(replace(GOOD, errors=10), 60, CONFIRM, None, id="errors at the limit"),
        pytest.param(
            replace(GOOD, errors=11), 0, FAIL, Code.PROBATION_ERRORS, id="errors over, at once"
        ),
        pytest.param(
            ProbationStats(requests=19, errors=19), 0, WAIT, None, id="too few requests for a rate"
        ),
        pytest.param(
            ProbationStats(requests=20, errors=20), 0, FAIL, Code.PROBATION_ERRORS, id="enough"
        ),
        pytest.param(replace(GOOD, latency_ms_p95=10.0), 60, CONFIRM, None, id="at the latency"),
        pytest.param(
            replace(GOOD, latency_ms_p95=10.1), 0, FAIL, Code.PROBATION_LATENCY, id="too slow"
        ),
        pytest.param(
            replace(GOOD, latency_ms_p95=float("nan")), 0, FAIL, Code.PROBATION_LATENCY, id="NaN"
        ),
        pytest.param(
            replace(GOOD, requests=19, latency_ms_p95=99.0), 60, CONFIRM, None, id="few latencies"
        ),
        pytest.param(replace(GOOD, output_shift=0.3), 60, CONFIRM, None, id="shift at the limit"),
        pytest.param(
            replace(GOOD, output_shift=0.31), 0, FAIL, Code.PROBATION_OUTPUT, id="shift over"
        ),
        pytest.param(
            replace(GOOD, rows=49, output_shift=0.9), 60, CONFIRM, None, id="too few rows for shift"
        ),
        pytest.param(
            replace(GOOD, rows=50, output_shift=0.9), 0, FAIL, Code.PROBATION_OUTPUT, id="enough r"
        ),
        pytest.param(
            replace(GOOD, non_finite_rows=1), 60, FAIL, Code.PROBATION_OUTPUT, id="one NaN answer"
        ),
    ],
)
def test_verdict(
    stats: ProbationStats, age_s: float, verdict: ProbationVerdict, code: Code | None
) -> None:
    decision = judge_probation(stats, POLICY, age_s=age_s, latency_ms_p95_max=LATENCY_MAX)
    assert (decision.verdict, decision.code) == (verdict, code)
    assert decision.reason


def test_a_shift_limit_of_one_switches_the_check_off() -> None:
    policy = replace(POLICY, output_shift_max=1.0)
    stats = replace(GOOD, output_shift=1.0)
    decision = judge_probation(stats, policy, age_s=60, latency_ms_p95_max=LATENCY_MAX)
    assert decision.verdict is CONFIRM


stats_values = st.builds(
    ProbationStats,
    requests=st.integers(0, 500),
    rows=st.integers(0, 500),
    errors=st.integers(0, 100),
    latency_ms_p95=st.none() | st.floats(0, 30),
    output_shift=st.none() | st.floats(0, 1),
    non_finite_rows=st.integers(0, 2),
)


@settings(deadline=None)
@given(stats_values, st.floats(0, 1_000), st.floats(0, 1_000))
def test_waiting_longer_never_turns_a_failure_into_anything_else(
    stats: ProbationStats, age_s: float, more_s: float
) -> None:
    was = judge_probation(stats, POLICY, age_s=age_s, latency_ms_p95_max=LATENCY_MAX)
    now = judge_probation(stats, POLICY, age_s=age_s + more_s, latency_ms_p95_max=LATENCY_MAX)
    assert (was.verdict is FAIL) == (now.verdict is FAIL)
    assert (now.code is not None) == (now.verdict is FAIL)


@settings(deadline=None)
@given(stats_values)
def test_every_probation_ends(stats: ProbationStats) -> None:
    decision = judge_probation(stats, POLICY, age_s=600, latency_ms_p95_max=LATENCY_MAX)
    assert decision.verdict is not WAIT
