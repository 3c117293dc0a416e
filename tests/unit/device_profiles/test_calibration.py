import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest

from converters.kernel_census import ask_runtime
from device_profiles.calibration import (
    CALL,
    GRAPHS,
    MEMORY,
    Calibration,
    LatencyEstimate,
    Work,
    estimate_latency,
    find_work,
)
from device_profiles.catalog import load_profile
from device_profiles.operator_kernels import CPU
from device_profiles.operators import find_operators
from device_profiles.profile import DeviceProfile
from device_profiles.reference_suite import list_inputs, measure_suite, reference_graphs
from device_profiles.versions import parse_release
from edge_agent.contract.onnx_check import check_onnx

HERE = Calibration(
    onnxruntime="1.31.1",
    threads=1,
    ms={CALL: 0.01, "matmul_fp32": 0.04, "conv_fp32": 0.1, "trees": 0.1, MEMORY: 3.0},
)


def slower(times: float, **changes: float) -> Calibration:
    ms = {name: value * times for name, value in HERE.ms.items()} | changes
    return Calibration(onnxruntime="1.22.0", threads=1, ms=ms)


CONVOLUTION, TREES = Work(kinds=("conv_fp32",)), Work(kinds=("trees", MEMORY))


def products(size: int) -> Work:
    return Work(kinds=("matmul_fp32",), product_bytes=size)


def estimate(measured_ms: float, work: Work, there: Calibration) -> LatencyEstimate:
    found = estimate_latency(measured_ms, work, HERE, there)
    assert found is not None
    return found


@pytest.mark.parametrize("work", [CONVOLUTION, TREES, products(786_432), Work(kinds=())])
def test_a_machine_that_is_slower_everywhere_is_estimated_slower_by_as_much(work: Work) -> None:
    found = estimate(2.0, work, slower(5))
    assert found.ms == pytest.approx(10.0)
    assert [found.low_ms, found.high_ms] == pytest.approx([8.0, 12.5])
    assert str(found) == "~10 ms (8 to 12.5)"


def test_a_call_without_work_scales_by_overhead_and_a_large_graph_by_its_kind() -> None:
    there = slower(10, **{CALL: 0.02})
    assert estimate(0.01, CONVOLUTION, there).ms == pytest.approx(0.02)
    assert estimate(100.0, CONVOLUTION, there).ms == pytest.approx(1_000, rel=0.01)


def test_of_products_the_size_tells_how_much_is_work() -> None:
    there = slower(1, matmul_fp32=4.0)  # products 100 times slower, calls as fast
    tiny, whole = estimate(0.05, products(1_000), there), estimate(0.05, products(786_432), there)
    assert tiny.ms == pytest.approx(0.05, rel=0.2)
    assert whole.ms == pytest.approx(0.02 + 0.03 * 100, rel=0.01)
    assert tiny.high_ms < whole.low_ms
    beyond = estimate(0.05, products(10**9), there)
    assert beyond.ms <= 0.05 * 100


def test_the_range_spans_every_ratio_and_the_noise() -> None:
    there = slower(4, matmul_fp32=0.4)
    work = Work(kinds=("conv_fp32", "matmul_fp32"))
    found = estimate(1.0, work, there)
    assert found.low_ms < 4.0 < found.ms < 10.0 < found.high_ms
    shaky = Calibration(onnxruntime="1", threads=1, ms=there.ms, noise={CALL: 2.0})
    assert estimate(1.0, work, shaky).high_ms > 2 * found.high_ms


@pytest.mark.parametrize("work", [TREES, products(5_000), Work(kinds=("conv_int8",))])
def test_the_same_machine_is_estimated_as_it_was_measured(work: Work) -> None:
    assert estimate(0.7, work, HERE).ms == pytest.approx(0.7)


@pytest.mark.parametrize("measured_ms", [0.0, -1.0, math.nan, math.inf])
def test_what_was_not_measured_is_not_estimated(measured_ms: float) -> None:
    assert estimate_latency(measured_ms, Work(kinds=()), HERE, HERE) is None


@pytest.mark.parametrize(
    ("operators", "size", "work"),
    [
        (["Conv", "Gemm"], 10, Work(kinds=("conv_fp32", "matmul_fp32"))),
        (["QLinearConv", "Gemm"], 10, Work(kinds=("conv_int8", "matmul_int8"))),
        (["MatMulInteger"], 10, Work(kinds=("matmul_int8",), product_bytes=10)),
        (["ai.onnx.ml:TreeEnsembleClassifier"], 2**20, Work(kinds=("trees", "memory"))),
        (["ai.onnx.ml:LinearClassifier"], 10, Work(kinds=("matmul_fp32",), product_bytes=10)),
        (["LSTM", "Gemm"], 10, Work(kinds=("matmul_fp32",))),
        (["Gemm"], 2**24, Work(kinds=("matmul_fp32",), product_bytes=2**24)),
        (["Relu"], 10, Work(kinds=())),
    ],
)
def test_work_follows_from_operators_and_size(operators: list[str], size: int, work: Work) -> None:
    assert find_work(dict.fromkeys(operators, 0), model_bytes=size) == work


@pytest.mark.parametrize(
    "change",
    [
        {"suite": 2},
        {"ms": {"conv_fp32": 1.0}},
        {"ms": {"call": math.inf}},
        {"ms": {"call": math.nan}},
        {"ms": {"call": True}},
        {"ms": []},
        {"threads": 0},
        {"threads": 10**9},
        {"threads": True},
        {"onnxruntime": "x" * 100},
        {"onnxruntime": None},
    ],
)
def test_a_wrong_calibration_counts_as_none(change: dict[str, Any]) -> None:
    assert Calibration.from_report(HERE.to_json()) == HERE
    assert Calibration.from_report(HERE.to_json() | change) is None


def test_what_a_report_adds_is_not_kept() -> None:
    said = HERE.to_json()
    said["ms"] |= {"x" * 5_000: 1.0, "conv_int8": -1}
    assert Calibration.from_report(said) == HERE


def test_a_profile_may_carry_a_calibration_and_gives_it_back() -> None:
    table = load_profile("camera").to_table() | {"calibration": HERE.to_json()}
    profile = DeviceProfile.from_table(table, source="p.toml")
    assert profile.calibration == HERE
    assert DeviceProfile.from_table(profile.to_table(), source="p.toml") == profile


def load(model: bytes, feed: tuple[int, ...]) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = np.array(list_inputs(feed), np.float32).reshape(feed)
    return lambda: session.run(None, {"x": rows})


def ticks() -> Iterator[float]:
    at = 0.0
    while True:
        at += 0.001
        yield at


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != MEMORY])
def test_every_reference_graph_passes_the_check_of_packages_and_runs(name: str) -> None:
    model, feed = reference_graphs()[name]
    check_onnx(model)
    answer = np.array(load(model, feed)())
    assert np.isfinite(answer).all()
    assert np.ptp(answer) > 0


def test_the_suite_measures_every_graph_and_leaves_out_what_does_not_load() -> None:
    clock = ticks()

    def load_some(_model: bytes, feed: tuple[int, ...]) -> Callable[[], object]:
        if feed[-1] == 16 and len(feed) == 2:
            raise RuntimeError("no trees here")
        return lambda: None

    found = measure_suite(load_some, lambda: next(clock), onnxruntime="1.31.1", threads=1)
    assert set(found.ms) == set(GRAPHS) - {"trees"}
    assert found.ms[CALL] == pytest.approx(1.0)


def test_the_fastest_round_counts() -> None:
    steps = itertools.cycle([0.001] * 50 + [0.5] * 50)
    found = measure_suite(
        lambda _model, _feed: lambda: None,
        itertools.accumulate(steps).__next__,
        onnxruntime="1.31.1",
        threads=1,
    )
    assert found.ms[CALL] == pytest.approx(1.0)


def test_the_table_of_operators_is_what_this_runtime_says() -> None:
    said = ask_runtime()
    measured = find_operators(said["onnxruntime"])
    assert measured is not None
    release, table = measured
    for name, versions in table.items():
        assert versions <= set(said["operators"].get(name, ())), name
    if release == said["onnxruntime"]:
        assert {name: set(of) for name, of in table.items()} == {
            name: set(of) for name, of in said["operators"].items()
        }


def test_no_later_release_lost_an_operator() -> None:
    ordered = sorted(CPU, key=parse_release)
    for older, newer in itertools.pairwise(ordered):
        before, after = find_operators(older), find_operators(newer)
        assert before is not None
        assert after is not None
        for name, versions in before[1].items():
            assert versions <= after[1].get(name, frozenset()), f"{name} {older} {newer}"
