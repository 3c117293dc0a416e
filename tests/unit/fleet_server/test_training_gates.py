"""Each limit is kept, inconclusive or missed; the sentence carries the numbers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.training.gates import (
    Comparison,
    Verdict,
    judge_champion,
    judge_shipped,
    judge_source,
    skip_champion,
)
from fleet_server.training.intervals import Estimate
from fleet_server.training.spec import MetricLimit

FLOOR = MetricLimit(name="accuracy", floor=0.94)
CEILING = MetricLimit(name="log_loss", ceiling=0.3)


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, rows=500)


@pytest.mark.parametrize(
    ("limit", "value", "low", "high", "verdict"),
    [
        (FLOOR, 0.97, 0.95, 0.98, Verdict.KEPT),
        (FLOOR, 0.97, 0.94, 0.98, Verdict.KEPT),
        (FLOOR, 0.95, 0.93, 0.98, Verdict.INCONCLUSIVE),
        (FLOOR, 0.94, 0.93, 0.98, Verdict.INCONCLUSIVE),
        (FLOOR, 0.939, 0.93, 0.98, Verdict.MISSED),
        (FLOOR, math.nan, math.nan, math.nan, Verdict.MISSED),
        (CEILING, 0.1, 0.05, 0.3, Verdict.KEPT),
        (CEILING, 0.1, 0.05, 0.31, Verdict.INCONCLUSIVE),
        (CEILING, 0.31, 0.05, 0.5, Verdict.MISSED),
    ],
)
def test_shipped_limits(
    limit: MetricLimit, value: float, low: float, high: float, verdict: Verdict
) -> None:
    (gate,) = judge_shipped([limit], "camera", {limit.name: estimate(value, low, high)})
    assert gate.verdict is verdict
    assert "camera" in gate.sentence


def test_an_inconclusive_limit_says_how_many_rows_would_settle_it() -> None:
    (gate,) = judge_shipped([FLOOR], "camera", {"accuracy": estimate(0.95, 0.93, 0.97)})
    assert gate.sentence == (
        "accuracy 0.95 on camera keeps the floor 0.94, but its 95 % bound 0.93 does not:"
        " inconclusive; about 4,071 more held-out rows would settle it"
    )


def test_a_metric_without_a_limit_is_not_judged() -> None:
    assert judge_shipped([MetricLimit(name="recall")], "camera", {}) == []
    assert judge_source([MetricLimit(name="recall", regression_max=0.1)], {}) == []


def test_the_source_is_judged_by_its_values_and_only_misses_come_back() -> None:
    gates = judge_source([FLOOR, CEILING], {"accuracy": 0.9, "log_loss": 0.2})
    assert [gate.sentence for gate in gates] == ["accuracy 0.9 misses the floor 0.94"]
    assert judge_source([FLOOR], {"accuracy": 0.94}) == []
    assert judge_source([FLOOR], {"accuracy": math.nan}) != []


@pytest.mark.parametrize(
    ("value", "low", "comparison", "verdict"),
    [
        (0.02, 0.001, Comparison.BETTER, Verdict.KEPT),
        (0.02, 0.0, Comparison.NOT_WORSE, Verdict.KEPT),
        (0.0, -0.01, Comparison.NOT_WORSE, Verdict.KEPT),
        (-0.005, -0.01, Comparison.NOT_WORSE, Verdict.KEPT),
        (0.0, -0.011, Comparison.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        (-0.01, -0.03, Comparison.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        (-0.011, -0.03, Comparison.WORSE, Verdict.MISSED),
    ],
)
def test_champion(value: float, low: float, comparison: Comparison, verdict: Verdict) -> None:
    gate = judge_champion(
        metric="accuracy",
        subject="camera",
        champion=2,
        margin=0.01,
        difference=estimate(value, low, 2 * value - low),
    )
    assert (gate.comparison, gate.verdict) == (comparison, verdict)
    assert str(comparison) in gate.sentence
    assert "champion 2" in gate.sentence


def test_a_champion_that_cannot_be_asked_is_never_passed_over() -> None:
    gate = skip_champion(
        metric="mae", subject="camera", champion=2, margin=1.0, reason="it reads column 'x'"
    )
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert gate.sentence == "mae on camera is not compared with champion 2: it reads column 'x'"
    assert gate.to_json()["value"] is None


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_wider_margin_never_makes_the_verdict_worse(
    value: float, below: float, above: float, margin: float, wider: float
) -> None:
    order = [Verdict.MISSED, Verdict.INCONCLUSIVE, Verdict.KEPT]
    first, second = (
        judge_champion(
            metric="accuracy",
            subject="p",
            champion=1,
            margin=m,
            difference=estimate(value, value - below, value + above),
        )
        for m in (margin, margin + wider)
    )
    assert order.index(first.verdict) <= order.index(second.verdict)
