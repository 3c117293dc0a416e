from dataclasses import replace

import pytest

from converters.ladder import (
    SAVING_BYTES_MIN,
    LadderLimits,
    Rung,
    choose_rung,
    find_refusals,
    is_better,
)
from device_profiles.profile import Precision

FP32, DYNAMIC, STATIC = Precision.FP32, Precision.INT8_DYNAMIC, Precision.INT8_STATIC
LIMITS = LadderLimits(
    latency_ms_p95_max=5.0,
    package_bytes_max=1_000_000,
    metric_drop_max=0.01,
    label_flips_max=0.02,
    rows_off_max=0.01,
)
BASE = Rung(
    precision=FP32,
    model_bytes=670_000,
    latency_ms_p50=0.05,
    latency_ms_p95=0.09,
    latency_noise=0.05,
)


def int8(
    precision: Precision = DYNAMIC,
    *,
    ratio: float = 1.0,
    noise: float = 0.05,
    size: int = 670_000,
    flips: float = 0.0,
    drop: float = 0.0,
    p95: float = 0.09,
) -> Rung:
    return Rung(
        precision=precision,
        model_bytes=size,
        latency_ms_p50=0.05 * ratio,
        latency_ms_p95=p95,
        latency_ratio=ratio,
        latency_noise=noise,
        flip_share=flips,
        rows_off_share=0.9,
        metric_drop=drop,
    )


@pytest.mark.parametrize(
    ("candidate", "chosen"),
    [
        (int8(ratio=0.66, size=174_000), DYNAMIC),
        (int8(ratio=0.94), DYNAMIC),
        (int8(ratio=0.95), FP32),  # exactly the noise is not beyond it
        (int8(ratio=0.80, noise=0.25), FP32),  # a large difference on a loud machine
        (int8(ratio=1.04, size=174_000), DYNAMIC),  # as fast and smaller
        (int8(ratio=1.06, size=174_000), FP32),  # smaller but slower
        (int8(size=670_000 - SAVING_BYTES_MIN), FP32),  # a chunk saved, not a tenth
        (int8(size=603_000), DYNAMIC),  # a tenth and a chunk
        (int8(ratio=0.66, flips=0.02, drop=0.01), DYNAMIC),  # at the limits
        (int8(ratio=0.66, flips=0.0201), FP32),
        (int8(ratio=0.66, drop=0.0101), FP32),
        (int8(ratio=0.66, p95=5.1), FP32),
    ],
)
def test_a_rung_is_left_only_for_a_measured_gain_within_limits(
    candidate: Rung, chosen: Precision
) -> None:
    assert choose_rung([BASE, candidate], LIMITS).precision is chosen


def test_a_small_network_is_not_left_for_a_few_kilobytes() -> None:
    small = replace(BASE, model_bytes=21_042)
    choice = choose_rung([small, int8(ratio=1.01, size=8_163)], LIMITS)
    assert choice.precision is FP32
    assert "does not help (1.01 x the latency" in choice.sentence


def test_the_faster_of_two_int8_rungs_wins() -> None:
    rungs = [BASE, int8(ratio=0.66, size=174_000), int8(STATIC, ratio=0.82, size=179_000)]
    assert choose_rung(rungs, LIMITS).precision is DYNAMIC


def test_a_rung_that_was_not_built_tells_why_in_the_decision() -> None:
    note = "no quantizable operator among TreeEnsembleClassifier"
    rungs = [BASE, Rung(precision=DYNAMIC, note=note), Rung(precision=STATIC, note=note)]
    choice = choose_rung(rungs, LIMITS)
    assert choice.sentence == f"fp32: {note}"
    assert choice.refusals == {FP32: ()}


def test_int8_is_chosen_when_fp32_alone_is_out() -> None:
    slow = int8(ratio=1.2, size=174_000)
    choice = choose_rung([BASE, slow], replace(LIMITS, package_bytes_max=200_000))
    assert choice.precision is DYNAMIC
    assert "fp32 is out (package 670,000 above 200,000 bytes)" in choice.sentence


def test_the_size_of_the_whole_package_counts_once_it_is_known() -> None:
    limits = replace(LIMITS, package_bytes_max=680_000)
    assert choose_rung([BASE], limits).precision is FP32
    choice = choose_rung([BASE], limits, {FP32: 690_000})
    assert choice.precision is None
    assert "package 690,000 above 680,000 bytes" in choice.sentence


def test_an_unfaithful_fp32_graph_takes_every_rung_down() -> None:
    lost = replace(BASE, rows_off_share=0.026)
    choice = choose_rung([lost, int8(ratio=0.5, size=170_000)], LIMITS)
    assert choice.precision is None
    assert "rows off 0.026 above 0.01 of the rows" in choice.sentence


def test_no_limit_is_kept_by_a_number_that_is_not_one() -> None:
    choice = choose_rung([replace(BASE, metric_drop=float("nan"))], LIMITS)
    assert choice.precision is None


def test_a_number_that_is_not_one_is_a_reason_against() -> None:
    nan = float("nan")
    for rung in (int8(p95=nan), int8(flips=nan), int8(drop=nan)):
        assert len(find_refusals(rung, LIMITS, 0)) == 1


def test_a_profile_of_fp32_alone_says_so() -> None:
    assert choose_rung([BASE], LIMITS).sentence == "fp32: the profile allows nothing else"


@pytest.mark.parametrize("ratio", [0.5, 0.94, 1.0, 1.06, 2.0])
@pytest.mark.parametrize("size", [170_000, 603_000, 670_000, 900_000])
def test_two_rungs_are_never_both_better_than_the_other(ratio: float, size: int) -> None:
    candidate = int8(ratio=ratio, size=size)
    assert not (is_better(candidate, BASE) and is_better(BASE, candidate))
