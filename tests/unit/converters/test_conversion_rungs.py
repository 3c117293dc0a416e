"""One rung at a time: how each is made, when it is not, and what is said of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters.calibration import CALIBRATION_ROWS_MAX, pick_calibration
from converters.errors import ConversionError
from converters.from_sklearn import SklearnSource
from converters.graph import count_operators, parse_model
from converters.half import compute_half, store_half
from converters.int8_weights import CONVOLUTIONS, store_int8
from converters.ladder_drawing import draw_ladder
from converters.measure import measure_latencies
from converters.memory import MemoryProbe
from converters.needs import has_full_range
from converters.normalise import normalise
from converters.onnx_graph import adapt_graph
from converters.optimise import optimise
from converters.outline import read_outline
from converters.plot import plot_ladder
from converters.quantize import Ranges, list_followers, list_quantizable, quantize
from converters.request import BuildRequest, Criterion, Effort, MeasurementPlan, Smaller
from converters.runtime import GraphRunner
from converters.sensitivity import measure_nodes
from device_profiles.profile import Precision
from edge_agent.contract.schema import Task
from fleet_server.training.spec_keys import CRITERIA, EFFORTS, SMALLER
from tests.support.convert import request_of
from tests.support.networks import digits_cnn, request_of_cnn

Array = NDArray[Any]


@pytest.fixture(scope="module")
def network() -> tuple[BuildRequest, bytes]:
    """Give a request and the fp32 graph of a network of 0.2 MB."""
    made = make_pipeline(StandardScaler(), MLPClassifier((256, 128), max_iter=8, random_state=0))
    request = request_of(made, "digits", is_float32=True)
    source = SklearnSource(request.estimator, request.schema.task, is_fed_float32=True)
    model = source.convert(request.schema, request.profile).model
    return request, normalise(model, request.profile)


@pytest.fixture(scope="module")
def cnn() -> tuple[BuildRequest, bytes]:
    """Give a request and the fp32 graph of a convolutional network."""
    request = request_of_cnn()
    model = adapt_graph(parse_model(digits_cnn(), what="it"), request.schema)
    return request, normalise(model, request.profile)


def flips(one: bytes, other: bytes, request: BuildRequest) -> float:
    rows = np.asarray(request.holdout, np.float32)
    labels = [GraphRunner(m, request.profile).run(rows)["label"] for m in (one, other)]
    return float(np.mean(labels[0] != labels[1]))


# Calibration rows


def test_calibration_rows_are_picked_alike_and_evenly() -> None:
    rows = np.arange(2_000, dtype=np.float32)[:, None]
    first, again = pick_calibration(rows), pick_calibration(rows)
    assert len(first.rows) == CALIBRATION_ROWS_MAX
    np.testing.assert_array_equal(first.rows, again.rows)
    assert (first.rows[0, 0], first.rows[-1, 0]) == (0, 1_999)
    assert first.notes == ()


def test_missing_values_and_too_few_rows_are_said() -> None:
    rows = np.ones((12, 3))
    rows[[2, 5], 1] = np.nan
    rows[7, 0] = np.inf
    picked = pick_calibration(rows)
    assert len(picked.rows) == 9
    assert picked.notes[0] == "3 of 12 calibration rows hold missing values and were left out"
    assert picked.notes[1].startswith("only 9 rows to calibrate with")


def test_a_static_rung_without_a_whole_row_is_not_built(
    network: tuple[BuildRequest, bytes],
) -> None:
    request, fp32 = network
    empty = np.empty((0, 64), np.float32)
    made = quantize(fp32, Precision.INT8_STATIC, empty, request.profile)
    assert made.model is None
    assert made.note == "no calibration row is free of missing values"


# Static int8


@pytest.mark.parametrize("ranges", list(Ranges))
def test_each_way_to_find_ranges_answers_nearly_as_fp32(
    network: tuple[BuildRequest, bytes], ranges: Ranges, capfd: pytest.CaptureFixture[str]
) -> None:
    request, fp32 = network
    rows = pick_calibration(request.calibration).rows[:300]  # the last batch is smaller
    made = quantize(fp32, Precision.INT8_STATIC, rows, request.profile, ranges=ranges)
    assert made.model is not None
    assert flips(fp32, made.model, request) < 0.02
    assert capfd.readouterr() == ("", "")


def weights_of(model: bytes) -> list[Array]:
    graph = parse_model(model, what="it").graph
    return [
        numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    ]


@pytest.mark.parametrize("precision", [Precision.INT8_DYNAMIC, Precision.INT8_STATIC])
def test_weights_have_eight_bits_only_where_every_processor_can(
    network: tuple[BuildRequest, bytes], precision: Precision
) -> None:
    request, fp32 = network
    for is_full, bound in ((False, 64), (True, 127)):
        profile = replace(request.profile, int8_full_range=is_full)
        made = quantize(fp32, precision, request.calibration, profile)
        assert made.model is not None
        largest = max(int(np.abs(one.astype(int)).max()) for one in weights_of(made.model))
        assert (bound == 64 and largest <= 64) or (bound == 127 and largest > 100)


def test_what_follows_a_convolution_stays_in_int8(cnn: tuple[BuildRequest, bytes]) -> None:
    _, fp32 = cnn
    source = parse_model(fp32, what="it")
    products = [node.name for node in list_quantizable(source, Precision.INT8_STATIC)]
    kinds = {node.name: node.op_type for node in source.graph.node}
    found = [kinds[name] for name in list_followers(source, products)]
    assert found == ["Relu", "Relu", "MaxPool", "Relu"]
    assert list_followers(source, []) == []


def test_sensitivity_finds_the_node_that_was_spoiled(network: tuple[BuildRequest, bytes]) -> None:
    request, fp32 = network
    model = parse_model(fp32, what="it")
    rows = pick_calibration(request.calibration).rows
    victim = list_quantizable(model, Precision.INT8_STATIC)[1]
    for tensor in model.graph.initializer:
        if tensor.name == victim.input[1]:
            weights = numpy_helper.to_array(tensor).copy()
            weights[0, :] *= 3_000  # one row sets the scale; the others become zeros
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    spoiled = normalise(model, request.profile)
    costs = measure_nodes(spoiled, Task.CLASSIFICATION, rows, request.profile, ranges=Ranges.MINMAX)
    assert len(costs) == 3
    assert costs[0].node == victim.name
    assert costs[0].mean_abs_error > 2 * costs[1].mean_abs_error


# Weights stored as int8


def test_stored_weights_are_a_quarter_of_the_bytes_and_run_on_every_processor(
    cnn: tuple[BuildRequest, bytes],
) -> None:
    request, fp32 = cnn
    made = store_int8(fp32, request.profile)
    assert made.model is not None
    assert len(made.model) < 0.26 * len(fp32)
    assert flips(fp32, made.model, request) <= 0.002
    graph = parse_model(made.model, what="it")
    assert not has_full_range(graph)  # stored with 8 bits, multiplied in float32
    assert not read_outline(made.model, what="it").is_full_range
    assert max(int(np.abs(one.astype(int)).max()) for one in weights_of(made.model)) == 127


def test_what_onnxruntime_computes_of_stored_weights_is_done_when_it_loads(
    cnn: tuple[BuildRequest, bytes], tmp_path: Path
) -> None:
    request, fp32 = cnn
    made = store_int8(fp32, request.profile)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(made.model, options, providers=["CPUExecutionProvider"])
    loaded = parse_model((tmp_path / "loaded.onnx").read_bytes(), what="it")
    assert "Cast" not in count_operators(loaded)
    assert not any(tensor.data_type == TensorProto.INT8 for tensor in loaded.graph.initializer)


@pytest.mark.parametrize(
    ("operator", "shape", "axis", "attributes"),
    [
        ("Conv", (40, 3, 3, 3), 0, {}),
        ("ConvTranspose", (3, 40, 3, 3), 1, {}),
        ("Gemm", (9, 40), 1, {}),
        ("Gemm", (40, 9), 0, {"transB": 1}),
        ("MatMul", (2, 9, 40), 2, {}),
    ],
)
def test_every_output_of_a_product_has_a_scale_of_its_own(
    operator: str, shape: tuple[int, ...], axis: int, attributes: dict[str, Any]
) -> None:
    profile, open_sides = request_of_cnn().profile, list("abcd"[: len(shape)])
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sizes = np.logspace(-6, 3, shape[axis], dtype=np.float32)
    weights *= sizes.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    graph = helper.make_graph(
        [helper.make_node(operator, ["features", "w"], ["value"], **attributes)],
        "one",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, open_sides)],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, open_sides)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = store_int8(normalise(model, profile), profile)
    assert made.model is not None, made.note
    constants = {
        tensor.data_type: numpy_helper.to_array(tensor)
        for tensor in parse_model(made.model, what="it").graph.initializer
    }
    again = constants[TensorProto.INT8] * constants[TensorProto.FLOAT]
    largest = np.abs(weights).max(axis=tuple(n for n in range(len(shape)) if n != axis))
    off = np.abs(again - weights).max(axis=tuple(n for n in range(len(shape)) if n != axis))
    assert (off <= largest / 253).all()


def test_what_a_dynamic_rung_leaves_in_float32_is_stored_as_int8(
    cnn: tuple[BuildRequest, bytes],
) -> None:
    request, fp32 = cnn
    dynamic = quantize(fp32, Precision.INT8_DYNAMIC, request.calibration, request.profile)
    assert dynamic.model is not None
    stored = store_int8(dynamic.model, request.profile, operators=CONVOLUTIONS).model
    assert stored is not None
    assert count_operators(parse_model(stored, what="it"))["MatMulInteger"] == 2
    assert len(stored) < 0.93 * len(dynamic.model)
    again = store_int8(stored, request.profile, operators=CONVOLUTIONS)
    assert again.note == "no Conv, ConvTranspose with 256 or more weights"


# Rewritten by onnxruntime, and fp16


def test_what_the_optimiser_fuses_into_its_own_operators_is_not_taken(
    cnn: tuple[BuildRequest, bytes],
) -> None:
    request, fp32 = cnn
    found = optimise(fp32, request.profile)
    assert found.foreign == ("com.microsoft:FusedConv", "com.microsoft:FusedGemm")
    if found.model is not None:
        assert found.level == "basic"
        assert not any(":" in name for name in count_operators(parse_model(found.model, what="")))
    else:
        assert "not portable" in found.note


def test_what_the_optimiser_cannot_better_is_said() -> None:
    request = request_of(RandomForestClassifier(3, random_state=0), "wine", is_float32=True)
    source = SklearnSource(request.estimator, request.schema.task, is_fed_float32=True)
    fp32 = normalise(source.convert(request.schema, request.profile).model, request.profile)
    assert optimise(fp32, request.profile).note == "the optimiser finds nothing"
    assert optimise(b"broken", request.profile).note.startswith("onnxruntime's optimiser fails")


def test_stored_halves_are_half_the_bytes_and_nearly_the_answers(
    network: tuple[BuildRequest, bytes],
) -> None:
    request, fp32 = network
    made = store_half(fp32, request.profile)
    assert made.model is not None
    assert len(made.model) < 0.52 * len(fp32)
    assert flips(fp32, made.model, request) <= 0.002
    rows = np.asarray(request.holdout, np.float32)
    outputs = GraphRunner(made.model, request.profile).run(rows)
    assert outputs["probabilities"].dtype == np.float32


def test_a_number_beyond_fp16_keeps_its_constant_whole(
    network: tuple[BuildRequest, bytes],
) -> None:
    request, fp32 = network
    model = parse_model(fp32, what="it")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest).copy()
    values[0, 0] = 1e6
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    made = store_half(normalise(model, request.profile), request.profile)
    assert made.model is not None
    kept = [t for t in parse_model(made.model, what="").graph.initializer if t.data_type == 1]
    assert max(numpy_helper.to_array(tensor).max() for tensor in kept) == np.float32(1e6)


def test_a_whole_graph_in_fp16_keeps_its_ends(network: tuple[BuildRequest, bytes]) -> None:
    request, fp32 = network
    made = compute_half(fp32, request.profile)
    assert made.model is not None, made.note
    rows = np.asarray(request.holdout, np.float32)
    outputs = GraphRunner(made.model, request.profile).run(rows)
    assert outputs["probabilities"].dtype == np.float32
    assert flips(fp32, made.model, request) < 0.01


def test_a_model_without_products_has_no_fp16_form() -> None:
    request = request_of(LogisticRegression(), "wine", is_float32=True)
    source = SklearnSource(request.estimator, request.schema.task, is_fed_float32=True)
    fp32 = normalise(source.convert(request.schema, request.profile).model, request.profile)
    assert compute_half(fp32, request.profile).note == "no matrix product to compute in fp16"
    assert store_half(fp32, request.profile).note == "no float32 constant of 256 or more numbers"


# Memory


def test_memory_is_measured_in_a_process_of_its_own(network: tuple[BuildRequest, bytes]) -> None:
    request, fp32 = network
    rows = np.asarray(request.holdout, np.float32)
    probe = MemoryProbe()
    try:
        first, again = (probe.measure(fp32, rows, request.profile) for _ in range(2))
        assert first.note == ""
        assert first.load_ms > 0
        assert 30e6 < first.rss_bytes < 150e6
        assert abs(first.rss_bytes - again.rss_bytes) < 2e6
        broken = probe.measure(b"broken", rows, request.profile)
        assert broken.rss_bytes == 0
        assert "memory was not measured" in broken.note
        assert probe.measure(fp32, rows, request.profile).rss_bytes > 0
    finally:
        probe.stop()


def test_a_helper_that_ended_is_started_again(network: tuple[BuildRequest, bytes]) -> None:
    request, fp32 = network
    rows = np.asarray(request.holdout, np.float32)
    probe = MemoryProbe()
    try:
        probe.start()
        probe.stop()
        assert probe.measure(fp32, rows, request.profile).rss_bytes > 0
    finally:
        probe.stop()


# Words and drawings


def test_the_spec_knows_the_words_of_the_converters() -> None:
    assert set(EFFORTS) <= set(Effort)
    assert tuple(Smaller) == SMALLER
    assert tuple(Criterion) == CRITERIA


def rung(name: str, **figures: Any) -> dict[str, Any]:
    return {
        "name": name,
        "is_built": True,
        "metric_drop": 0.0,
        "metric_drop_interval": [-0.01, 0.01],
        "latency_ratio": 1.0,
        "latency_ratio_interval": [0.9, 1.1],
        "model_bytes": 100_000,
        "reasons_against": [],
        "is_on_front": True,
        **figures,
    }


def test_a_drawing_shows_every_built_rung_and_what_ships() -> None:
    rungs = [
        rung("fp32"),
        rung("int8 <static>", latency_ratio=0.6, model_bytes=30_000, metric_drop="inf"),
        rung("out", reasons_against=["label flips"], is_on_front=False),
        {"name": "fp16", "is_built": False, "note": "why"},
    ]
    drawing = plot_ladder(rungs, "int8 <static>", "tried & drawn")
    root = ElementTree.fromstring(drawing)  # noqa: S314 - our own drawing
    words = [element.text for element in root.iter() if element.text]
    assert words.count("int8 <static>") == 2
    assert "tried & drawn" in words
    assert "fp16" not in words
    assert drawing.count('r="8"') == 2
    assert drawing == plot_ladder(rungs, "int8 <static>", "tried & drawn")


def test_a_drawing_has_no_name_over_another_and_no_size_below_nothing() -> None:
    names = ["fp32", "fp32_optimised", "int8_weights", "int8_dynamic", "int8_static_minmax"]
    rungs = [rung(name, model_bytes=100_000 - 24_500 * n) for n, name in enumerate(names)]
    root = ElementTree.fromstring(plot_ladder(rungs, "fp32", "m"))  # noqa: S314 - our own drawing
    texts = [element for element in root.iter() if element.text]
    assert not [element.text for element in texts if (element.text or "").startswith("-9")]
    for name in names:
        assert sum(element.text == name for element in texts) == 2
    left = [element for element in texts if element.text in names][: len(names)]
    assert len({element.get("y") for element in left}) == len(names)  # of one latency, all of them


def test_evidence_of_an_older_release_has_no_drawing(tmp_path: Any) -> None:
    with pytest.raises(ConversionError, match="no ladder to draw"):
        draw_ladder(tmp_path / "ladder.svg", {"model": "m", "profile": "p", "ladder": []})
    assert list(tmp_path.iterdir()) == []


# Pictures


def test_a_slow_front_makes_rungs_alike_in_time(network: tuple[BuildRequest, bytes]) -> None:
    request, fp32 = network
    rows = np.asarray(request.holdout, np.float32)[:4]
    runners = {name: GraphRunner(fp32, request.profile) for name in ("one", "other")}
    plan = MeasurementPlan(rounds=3, round_s=0.001, runs_max=5)
    slow = replace(plan, front_ms_p50=1e6, front_ms_p95=2e6)
    for latency in measure_latencies(runners, rows, slow).values():
        assert latency.ratio.value == pytest.approx(1, abs=1e-3)
        assert latency.p50_ms > 1e6
        assert latency.p95_ms > 2e6
        assert min(latency.rounds_ms) > 1e6
    with pytest.raises(ConversionError, match="its p95 no less than its p50"):
        replace(plan, front_ms_p50=2.0, front_ms_p95=1.0)
