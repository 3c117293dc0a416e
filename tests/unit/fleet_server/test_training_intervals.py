"""Bounds hold as often as they say, and a paired comparison uses the pairing."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.training.intervals import BLOCKS_MAX, Estimate, Resampler
from fleet_server.training.metrics import METRICS, Answers

ACCURACY, MAE, F1 = METRICS["accuracy"], METRICS["mae"], METRICS["f1_macro"]


def labels(values: Any, classes: int = 2) -> Answers:
    chosen = np.asarray(values)
    return Answers.of_classes(chosen, np.eye(classes)[chosen])


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [  # Wilson's formula worked out by hand for z = 1.6449
        (10, 10, 0.7871, 1.0),
        (0, 10, 0.0, 0.2130),
        (540, 566, 0.9373, 0.9665),
    ],
)
def test_accuracy_takes_wilsons_bounds(right: int, rows: int, low: float, high: float) -> None:
    truth = np.zeros(rows, np.int64)
    answers = labels([0] * right + [1] * (rows - right))
    estimate = Resampler(rows).estimate(ACCURACY, truth, answers)
    assert estimate.value == right / rows
    assert estimate.low == pytest.approx(low, abs=1e-4)
    assert estimate.high == pytest.approx(high, abs=1e-4)


def test_the_bootstrap_agrees_with_the_normal_bound_of_a_mean() -> None:
    truth, errors = np.zeros(900), np.abs(np.random.default_rng(0).normal(size=900))
    estimate = Resampler(900).estimate(MAE, truth, Answers.of_values(errors))
    half = 1.645 * errors.std(ddof=1) / 30
    assert estimate.low == pytest.approx(errors.mean() - half, abs=half / 8)
    assert estimate.high == pytest.approx(errors.mean() + half, abs=half / 8)


def test_blocks_of_rows_bound_as_single_rows_do() -> None:
    rows = BLOCKS_MAX * 5 + 17
    errors = np.abs(np.random.default_rng(1).normal(size=rows))
    estimate = Resampler(rows).estimate(MAE, np.zeros(rows), Answers.of_values(errors))
    half = 1.645 * errors.std() / np.sqrt(rows)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.12)


def test_bounds_of_f1_cover_the_truth_about_as_often_as_they_say() -> None:
    draw, rows, below, above = np.random.default_rng(3), 300, 0, 0
    big_truth = draw.integers(0, 2, 400_000)
    flip = np.where(big_truth == 1, 0.3, 0.1)
    true_f1 = F1.of(big_truth, labels(big_truth ^ (draw.random(400_000) < flip)))
    sampler = Resampler(rows)
    for _ in range(100):
        truth = draw.integers(0, 2, rows)
        answers = labels(truth ^ (draw.random(rows) < np.where(truth == 1, 0.3, 0.1)))
        estimate = sampler.estimate(F1, truth, answers)
        below += true_f1 < estimate.low
        above += true_f1 > estimate.high
    assert 1 <= below <= 12, "5 % of 100 is 5"
    assert 1 <= above <= 12


@pytest.mark.parametrize("metric", [ACCURACY, F1, METRICS["log_loss"]], ids=lambda m: m.name)
def test_a_model_is_as_good_as_itself(metric: Any) -> None:
    truth = np.random.default_rng(0).integers(0, 2, 400)
    answers = labels(np.where(np.arange(400) % 10 == 0, 1 - truth, truth))
    same = Resampler(400).compare(metric, truth, answers, answers)
    assert same.value == 0
    assert abs(same.low) < 0.005
    assert same.low == pytest.approx(-same.high)


def test_better_is_above_zero_whatever_the_direction_of_the_metric() -> None:
    truth = np.zeros(200)
    good, bad = Answers.of_values(np.full(200, 0.1)), Answers.of_values(np.full(200, 0.3))
    difference = Resampler(200).compare(MAE, truth, good, bad)
    assert difference.value == pytest.approx(0.2)
    assert difference.low == pytest.approx(0.2)
    assert Resampler(200).compare(MAE, truth, bad, good).high == pytest.approx(-0.2)


def test_pairing_makes_a_common_error_cancel() -> None:
    draw = np.random.default_rng(2)
    hard, truth = draw.normal(size=300) * 10, np.zeros(300)
    one = Answers.of_values(np.abs(hard) + 0.2)
    two = Answers.of_values(np.abs(hard))
    apart = Resampler(300).estimate(MAE, truth, one)
    paired = Resampler(300).compare(MAE, truth, two, one)
    assert paired.high - paired.low < 1e-9 < apart.high - apart.low
    assert paired.value == pytest.approx(0.2)


@settings(deadline=None, max_examples=15)
@given(st.integers(20, 400), st.integers(0, 1_000))
def test_the_same_answers_give_the_same_bounds(rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth, answers = draw.normal(size=rows), Answers.of_values(draw.normal(size=rows))
    first = Resampler(rows).estimate(METRICS["r2"], truth, answers)
    again = Resampler(rows).estimate(METRICS["r2"], truth, answers)
    assert first == again
    assert first.low <= first.value <= first.high


def test_rows_to_settle_follow_the_square_of_the_distance() -> None:
    estimate = Estimate(value=0.95, low=0.93, high=0.97, rows=500)
    near, far = estimate.rows_to_settle(0.01), estimate.rows_to_settle(0.02)
    assert (near + 500) / (far + 500) == pytest.approx(4, rel=0.01)
    assert estimate.rows_to_settle(0.0) == 0
    # Published: about 3,091 rows for a margin of .01 when two models differ on 5 % of rows.
    spread = np.sqrt(0.05 / 500)
    paired = Estimate(value=0.0, low=-1.645 * spread, high=1.645 * spread, rows=500)
    assert paired.rows_to_settle(0.01) + 500 == pytest.approx(3_091, rel=0.01)
