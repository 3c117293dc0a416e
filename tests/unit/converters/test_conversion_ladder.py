from dataclasses import replace

import numpy as np
import pytest

from converters.criteria import (
    SAVING_BYTES_MIN,
    Interval,
    Samples,
    draw_scores,
    find_median,
    find_spread,
    is_more_accurate,
    mcnemar,
)
from converters.ladder import LadderLimits, Rung, choose_rung, find_refusals, is_better
from converters.pareto import find_front, point_of
from converters.request import Criterion
from device_profiles.profile import Precision

FP32, DYNAMIC, STATIC = "fp32", "int8_dynamic", "int8_static_minmax"
ROWS = 400
LIMITS = LadderLimits(
    latency_ms_p95_max=5.0,
    package_bytes_max=1_000_000,
    rss_bytes_max=100_000_000,
    metric_drop_max=0.01,
    label_flips_max=0.02,
    rows_off_max=0.01,
    error_max=0.5,
)


def samples(ratio: float = 1.0, *, noise: float = 0.0, wrong: int = 0) -> Samples:
    """Give nine rounds whose ratio to fp32 spreads by a noise, and hits with some wrong rows."""
    rounds = 0.05 * (ratio + noise * np.linspace(-1, 1, 9))
    hits = np.arange(ROWS) >= wrong
    return Samples(latency_ms=rounds, hits=hits, scores=np.zeros(0))


BASE = Rung(
    name=FP32,
    precision=Precision.FP32,
    is_same_function=True,
    model_bytes=670_000,
    latency_ms_p50=0.05,
    latency_ms_p95=0.09,
    rss_bytes=60_000_000,
    samples=samples(),
)


def int8(
    name: str = DYNAMIC,
    *,
    ratio: float = 1.0,
    noise: float = 0.01,
    size: int = 670_000,
    flips: float = 0.0,
    drop: float = 0.0,
    p95: float = 0.09,
    rss: int = 60_000_000,
    error: float = 0.0,
    wrong: int = 0,
) -> Rung:
    return Rung(
        name=name,
        precision=Precision.INT8_DYNAMIC if name == DYNAMIC else Precision.INT8_STATIC,
        model_bytes=size,
        latency_ms_p50=0.05 * ratio,
        latency_ms_p95=p95,
        latency_ratio=find_median(samples(ratio, noise=noise).latency_ms / 0.05),
        rss_bytes=rss,
        flip_share=flips,
        rows_off_share=0.9,
        max_abs_error=error,
        metric_drop=drop or wrong / ROWS,
        samples=samples(ratio, noise=noise, wrong=wrong),
    )


@pytest.mark.parametrize(
    ("candidate", "chosen"),
    [
        (int8(ratio=0.66, size=174_000), DYNAMIC),
        (int8(ratio=0.94), DYNAMIC),
        (int8(ratio=0.96), FP32),  # under 5 % is not believed
        (int8(ratio=0.80, noise=0.5), FP32),  # a large difference on a loud machine
        (int8(ratio=1.04, size=174_000), DYNAMIC),  # as fast and smaller
        (int8(ratio=1.08, size=174_000), FP32),  # smaller but slower
        (int8(size=670_000 - SAVING_BYTES_MIN), FP32),  # a chunk saved, not a tenth
        (int8(size=603_000), DYNAMIC),  # a tenth and a chunk
        (int8(ratio=0.66, flips=0.02, drop=0.01), DYNAMIC),  # at the limits
        (int8(ratio=0.66, flips=0.0201), FP32),
        (int8(ratio=0.66, drop=0.0101), FP32),
        (int8(ratio=0.66, p95=5.1), FP32),
        (int8(ratio=0.66, rss=100_000_001), FP32),
        (int8(ratio=0.66, error=0.51), FP32),
        (int8(rss=50_000_000), DYNAMIC),  # nothing else differs
        (int8(rss=59_000_000), FP32),
        (int8(ratio=0.66, wrong=4), DYNAMIC),  # four rows may be chance
        (int8(ratio=0.66, wrong=6, drop=0.009), FP32),  # six to none are not
    ],
)
def test_a_rung_is_left_only_for_a_measured_gain_within_limits(
    candidate: Rung, chosen: str
) -> None:
    assert choose_rung([BASE, candidate], LIMITS).name == chosen


@pytest.mark.parametrize(
    ("order", "chosen"),
    [
        ((Criterion.ACCURACY,), FP32),
        ((Criterion.LATENCY,), STATIC),
        ((Criterion.SIZE,), DYNAMIC),
        ((Criterion.MEMORY,), FP32),
        ((Criterion.MEMORY, Criterion.SIZE), FP32),
    ],
)
def test_what_is_preferred_decides_first(order: tuple[Criterion, ...], chosen: str) -> None:
    rungs = [
        replace(BASE, rss_bytes=40_000_000),
        int8(ratio=0.9, size=100_000, wrong=10, drop=0.009),
        int8(STATIC, ratio=0.5, size=300_000, wrong=10, drop=0.009),
    ]
    choice = choose_rung(rungs, LIMITS, order=order)
    assert choice.name == chosen
    assert len(choice.beaten) == 2


def test_a_small_network_is_not_left_for_a_few_kilobytes() -> None:
    small = replace(BASE, model_bytes=21_042)
    choice = choose_rung([small, int8(ratio=1.01, size=8_163)], LIMITS)
    assert choice.name == FP32
    assert "does not help (1.01 (1.00 to 1.02) x the latency" in choice.sentence


def test_what_ships_tells_its_loss_and_of_labels_only_where_some_differ() -> None:
    better = int8(ratio=0.66, size=174_000)
    assert "metric drop 0; within" in choose_rung([BASE, better], LIMITS).sentence
    flipping = int8(ratio=0.66, size=174_000, flips=0.0123)
    assert ", 1.23% of the labels differ; within" in choose_rung([BASE, flipping], LIMITS).sentence


def test_a_rung_that_loses_says_by_what_and_how_much() -> None:
    choice = choose_rung([BASE, int8(ratio=1.5, size=174_000)], LIMITS)
    words = "int8_dynamic loses by latency: 1.50 (1.49 to 1.51) x the latency of fp32"
    assert choice.sentence == f"fp32: {words}"


def test_the_faster_of_two_int8_rungs_wins() -> None:
    rungs = [BASE, int8(ratio=0.66, size=174_000), int8(STATIC, ratio=0.82, size=179_000)]
    assert choose_rung(rungs, LIMITS).name == DYNAMIC


def test_of_equals_the_first_of_the_ladder_ships() -> None:
    rungs = [BASE, int8(ratio=0.66, size=174_000), int8(STATIC, ratio=0.67, size=173_000)]
    assert choose_rung(rungs, LIMITS).name == DYNAMIC


def test_a_rung_that_was_not_built_tells_why_in_the_decision() -> None:
    note = "no quantizable operator among TreeEnsembleClassifier"
    rungs = [
        BASE,
        Rung(name=DYNAMIC, precision=Precision.INT8_DYNAMIC, note=note),
        Rung(name=STATIC, precision=Precision.INT8_STATIC, note=note),
    ]
    choice = choose_rung(rungs, LIMITS)
    assert choice.sentence == f"fp32: {note}"
    assert choice.refusals == {FP32: ()}


def test_int8_is_chosen_when_fp32_alone_is_out() -> None:
    slow = int8(ratio=1.2, size=174_000)
    choice = choose_rung([BASE, slow], replace(LIMITS, package_bytes_max=200_000))
    assert choice.name == DYNAMIC
    assert "fp32 is out (package 670,000 above 200,000 bytes)" in choice.sentence


def test_the_size_of_the_whole_package_counts_once_it_is_known() -> None:
    limits = replace(LIMITS, package_bytes_max=680_000)
    assert choose_rung([BASE], limits).name == FP32
    choice = choose_rung([BASE], limits, {FP32: 690_000})
    assert choice.name is None
    assert "package 690,000 above 680,000 bytes" in choice.sentence


def test_an_unfaithful_fp32_graph_takes_every_rung_down() -> None:
    lost = replace(BASE, rows_off_share=0.026)
    choice = choose_rung([lost, int8(ratio=0.5, size=170_000)], LIMITS)
    assert choice.name is None
    assert "rows off 0.026 above 0.01 of the rows" in choice.sentence


def test_no_limit_is_kept_by_a_number_that_is_not_one() -> None:
    choice = choose_rung([replace(BASE, metric_drop=float("nan"))], LIMITS)
    assert choice.name is None


def test_a_number_that_is_not_one_is_a_reason_against() -> None:
    nan = float("nan")
    for rung in (int8(p95=nan), int8(flips=nan), int8(drop=nan), int8(error=nan)):
        assert len(find_refusals(rung, LIMITS)) == 1


def test_memory_that_was_not_measured_breaks_no_limit_and_beats_nobody() -> None:
    unknown = int8(rss=0)
    assert find_refusals(unknown, LIMITS) == ()
    assert not is_better(unknown, BASE, Criterion.MEMORY)
    assert not is_better(BASE, unknown, Criterion.MEMORY)


def test_a_profile_of_fp32_alone_says_so() -> None:
    assert choose_rung([BASE], LIMITS).sentence == "fp32: the profile allows nothing else"


@pytest.mark.parametrize("ratio", [0.5, 0.94, 1.0, 1.06, 2.0])
@pytest.mark.parametrize("size", [170_000, 603_000, 670_000, 900_000])
def test_two_rungs_are_never_both_better_than_the_other(ratio: float, size: int) -> None:
    candidate = int8(ratio=ratio, size=size)
    for criterion in Criterion:
        assert not (is_better(candidate, BASE, criterion) and is_better(BASE, candidate, criterion))


# What is noise


@pytest.mark.parametrize(
    ("only_one", "only_other", "chance"),
    [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (8, 2, 0.109375), (3, 3, 1.0)],
)
def test_the_exact_test_counts_rows_that_one_alone_gets_right(
    only_one: int, only_other: int, chance: float
) -> None:
    assert mcnemar(only_one, only_other) == pytest.approx(chance)
    assert mcnemar(only_other, only_one) == pytest.approx(chance)


def test_the_approximation_of_large_counts_meets_the_exact_one() -> None:
    assert mcnemar(540, 461) == pytest.approx(mcnemar(540, 460), abs=0.005)


def test_the_interval_of_nine_rounds_leaves_one_out_at_each_end() -> None:
    rounds = np.array([9.0, 1, 5, 2, 8, 3, 7, 4, 6])
    assert find_median(rounds) == Interval(value=5.0, low=2.0, high=8.0)
    assert find_median(rounds[:3]) == Interval(value=5.0, low=1.0, high=9.0)


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    found = [find_median(random.lognormal(size=9)) for _ in range(2_000)]
    held = np.mean([interval.low <= 1.0 <= interval.high for interval in found])
    assert held >= 0.95


def test_equal_models_differ_by_chance_once_in_twenty_at_most() -> None:
    random = np.random.default_rng(2)
    truth = random.random(ROWS) < 0.9
    alarms = 0
    for _ in range(400):
        one, other = (np.where(random.random(ROWS) < 0.05, ~truth, truth) for _ in range(2))
        alarms += is_more_accurate(
            replace(samples(), hits=one), replace(samples(), hits=other)
        ) or is_more_accurate(replace(samples(), hits=other), replace(samples(), hits=one))
    assert alarms / 400 <= 0.05


def test_a_regression_is_compared_on_the_same_resamples() -> None:
    random = np.random.default_rng(3)
    errors = random.exponential(size=300)
    plain = draw_scores(300, lambda places: float(errors[places].mean()))
    worse = draw_scores(300, lambda places: float(errors[places].mean()) + 0.05)
    one, other = (
        Samples(latency_ms=np.ones(9), hits=None, scores=s, is_higher_better=False)
        for s in (plain, worse)
    )
    assert is_more_accurate(one, other)
    assert not is_more_accurate(other, one)
    assert not is_more_accurate(one, one)
    spread = find_spread(plain)
    assert spread.low < spread.value < spread.high


def test_a_resample_that_cannot_be_scored_is_left_out() -> None:
    scores = draw_scores(10, lambda places: float("nan") if 0 in places else 1.0)
    assert np.all(scores == 1.0)
    assert draw_scores(10, lambda _: float("nan")).size == 0


def test_the_front_holds_what_nothing_beats_in_every_respect() -> None:
    rungs = [
        BASE,
        int8(ratio=0.6, size=174_000, drop=0.002),
        int8(STATIC, ratio=0.7, size=179_000, drop=0.003),
        int8("lossless", ratio=0.9, size=670_000),
    ]
    assert [point.name for point in find_front([point_of(rung) for rung in rungs])] == [
        DYNAMIC,
        "lossless",
    ]
