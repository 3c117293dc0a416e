"""A ladder as people read it: each reason once, on a line of its own."""

from typing import Any

import pytest

from converters.cli.views import show_bench

FP32 = {
    "name": "fp32",
    "precision": "fp32",
    "is_built": True,
    "model_bytes": 4_735,
    "latency_ms_p50": 0.03,
    "latency_ms_p95": 0.05,
    "latency_ratio": 1.0,
    "metric_drop": 0.0,
    "flip_share": 0.0,
    "reasons_against": [],
}
WEIGHTS = {**FP32, "name": "int8_weights", "precision": "int8_dynamic", "model_bytes": 3_537}
OPTIMISED = {
    "name": "fp32_optimised",
    "precision": "fp32",
    "is_built": False,
    "note": "the optimiser finds nothing",
}
LADDER = [FP32, OPTIMISED, WEIGHTS]


def shown(capsys: pytest.CaptureFixture[str], **result: Any) -> str:
    show_bench({"ladder": LADDER, "ships": None, "none_fits": None, **result})
    return capsys.readouterr().out


def test_reasons_are_lines_and_what_would_have_helped_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    against = "fp32_optimised was not built (the optimiser finds nothing)"
    useless = "int8_weights does not help (1.00 (0.99 to 1.01) x the latency of fp32)"
    lines = shown(capsys, ships=f"fp32: {against}; {useless}").splitlines()
    assert lines[-4:-1] == ["would ship fp32:", f"  {against}", f"  {useless}"]
    assert "65,536 bytes of the graph" in lines[-1]
    assert sum("the optimiser finds nothing" in line for line in lines) == 1
    assert not any("int8_dynamic" in line for line in lines)


def test_a_sentence_that_says_less_leaves_the_reasons_with_their_builds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "int8_weights: 0.5 (0.4 to 0.6) x the latency of fp32, metric drop 0; within every limit"
    lines = shown(capsys, ships=said).splitlines()
    assert lines[-2:] == [
        "fp32_optimised was not built: the optimiser finds nothing",
        f"would ship {said}",
    ]
    assert shown(capsys, none_fits="too slow").endswith("nothing would ship: too slow\n")
