"""Whole packages: built from real rows, opened as a device does, refused with their numbers."""

import copy
import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters.build import build_package
from converters.errors import (
    InvalidRequestError,
    NoRungFitsError,
    ProfileMisfitError,
    RuntimeRefusedError,
)
from converters.from_onnx import OnnxSource
from converters.from_sklearn import SklearnSource
from converters.golden import build_golden, check_golden
from converters.graph import find_opset, parse_model
from converters.metrics import find_metric
from converters.normalise import normalise
from converters.quantize import quantize
from converters.request import (
    BuildRequest,
    BuiltPackage,
    MeasurementPlan,
    ProfileLimits,
)
from converters.runtime import GraphRunner
from device_profiles.catalog import load_profile
from device_profiles.compatibility import find_misfits
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.package import EVIDENCE, GOLDEN, MODEL, REFERENCE, unpack_members
from edge_agent.contract.schema import ModelSchema, Task
from edge_agent.statistics.reference import Reference
from tests.support.convert import request_of, schema_of

Array = NDArray[Any]
MEASURED = ("latency_", "load_ms", "rss_bytes", "beaten_by", "is_on_front")
STEADY = MeasurementPlan(rounds=15, round_s=0.004, runs_max=60)


def logistic() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression())


def ridge() -> Any:
    return make_pipeline(StandardScaler(), Ridge())


@pytest.fixture(scope="module")
def wide() -> tuple[BuildRequest, BuiltPackage]:
    """Give a network of 0.7 MB, where int8 pays, and its package."""
    network = MLPClassifier((512, 256), max_iter=6, random_state=0)
    request = request_of(make_pipeline(StandardScaler(), network), "digits", plan=STEADY)
    return request, build_package(request)


@pytest.fixture(scope="module")
def logistic_package() -> BuiltPackage:
    return build_package(request_of(logistic(), "digits"))


def test_a_classification_package_opens_and_answers(logistic_package: BuiltPackage) -> None:
    request = request_of(logistic(), "digits")
    members = unpack_members(logistic_package.blob)
    schema = ModelSchema.decode(members["schema.json"])
    assert schema == request.schema
    assert logistic_package.sha256 == hashlib.sha256(logistic_package.blob).hexdigest()
    rows = request.holdout.astype(np.float32)
    answers = GraphRunner(members[MODEL], request.profile).run(rows)
    assert list(answers) == ["label", "probabilities"]
    assert [answers[name].dtype.name for name in answers] == ["int64", "float32"]
    np.testing.assert_array_equal(answers["label"], request.estimator.predict(rows))
    reference = Reference.decode(members[REFERENCE])
    assert reference.rows == len(request.calibration)
    assert members[REFERENCE] == logistic_package.reference
    assert find_misfits(logistic_package.needs, request.profile) == []


def test_a_regression_package_answers_values() -> None:
    request = request_of(ridge(), "diabetes")
    package = build_package(request)
    rows = request.holdout.astype(np.float32)
    answers = GraphRunner(unpack_members(package.blob)[MODEL], request.profile).run(rows)
    assert list(answers) == ["value"]
    assert answers["value"].shape == (len(rows),)
    np.testing.assert_allclose(answers["value"], request.estimator.predict(rows), rtol=1e-5)
    assert package.label_flips == 0
    assert package.evidence["metric"]["name"] == "mae"
    assert "residual_percentiles" in package.evidence


def test_the_evidence_holds_every_number_that_decided(logistic_package: BuiltPackage) -> None:
    evidence = logistic_package.evidence
    assert evidence["context"] == {"data": "digits"}
    assert evidence["precision"] == "fp32"
    assert evidence["decision"] == logistic_package.decision
    assert "no quantizable operator among LinearClassifier" in evidence["decision"]
    assert [rung["precision"] for rung in evidence["ladder"]] == [
        "fp32",
        "int8_dynamic",
        "int8_static",
    ]
    assert evidence["ladder"][0]["latency_ms_p95"] == logistic_package.latency_ms_p95 > 0
    assert evidence["metric"]["source"] == evidence["metric"]["shipped"] > 0.9
    assert sum(map(sum, evidence["confusion"]["counts"])) == evidence["rows"]["holdout"]
    assert evidence["graph"]["ir"] <= 9
    assert evidence["measured_with"]["versions"]["onnxruntime"]
    assert 0 < len(evidence["parity"]["worst"]) <= 10


@pytest.mark.parametrize(
    ("make", "table"),
    [(logistic, "digits"), (ridge, "diabetes"), (lambda: RandomForestClassifier(5), "wine")],
)
def test_the_same_inputs_give_the_same_members_but_for_measured_times(
    make: Any, table: str
) -> None:
    request = request_of(make(), table)
    first = unpack_members(build_package(request).blob)
    again = unpack_members(build_package(request).blob)
    for name in first:
        if name != EVIDENCE:
            assert first[name] == again[name], name


def test_evidence_differs_in_measured_times_and_memory_alone(
    logistic_package: BuiltPackage,
) -> None:
    again = build_package(request_of(logistic(), "digits")).evidence

    def without_measured(evidence: Any) -> Any:
        kept = copy.deepcopy(dict(evidence))
        del kept["measured_with"]["runs_per_round"]
        assert kept["needs"].pop("rss_bytes") > 0
        for rung in kept["ladder"]:
            for name in [name for name in rung if name.startswith(MEASURED)]:
                del rung[name]
        return kept

    assert without_measured(again) == without_measured(logistic_package.evidence)


def test_the_members_of_domains_are_within_each_profile() -> None:
    for profile_id in ("iot-gateway", "camera", "onprem-server", "raspberry-pi-3"):
        request = request_of(logistic(), "wine", profile=profile_id)
        model = parse_model(unpack_members(build_package(request).blob)[MODEL], what="it")
        domains = [entry.domain for entry in model.opset_import]
        assert len(domains) == len(set(domains))
        assert model.ir_version <= request.profile.ir_max
        assert find_opset(model, "") <= request.profile.opset_max
        assert find_opset(model, "ai.onnx.ml") <= request.profile.opset_ml_max


@pytest.mark.parametrize(("opset", "opset_ml"), [(18, 3), (15, 3), (15, 1), (13, 1)])
def test_an_older_profile_gets_an_older_graph_or_is_told_why_not(opset: int, opset_ml: int) -> None:
    request = request_of(RandomForestClassifier(5, random_state=0), "digits")
    old = replace(request.profile, opset_max=opset, opset_ml_max=opset_ml)
    model = parse_model(
        unpack_members(build_package(replace(request, profile=old)).blob)[MODEL], what="it"
    )
    assert find_opset(model, "") <= opset
    assert find_opset(model, "ai.onnx.ml") <= opset_ml


def test_text_labels_need_an_operator_that_the_oldest_profile_lacks() -> None:
    request = request_of(logistic(), "wine")
    words = "opset_ml_max: needs 2: ai.onnx.ml:LabelEncoder 2 has no older definition"
    with pytest.raises(ProfileMisfitError, match=words):
        build_package(replace(request, profile=replace(request.profile, opset_ml_max=1)))


def test_int8_is_shipped_for_a_wide_network_where_it_is_measured_to_help(
    wide: tuple[BuildRequest, BuiltPackage],
) -> None:
    _, package = wide
    rungs = {rung["name"]: rung for rung in package.evidence["ladder"]}
    assert all(rung["is_built"] for rung in rungs.values())
    chosen = rungs[package.evidence["rung"]]
    assert package.precision in (Precision.INT8_DYNAMIC, Precision.INT8_STATIC)
    assert chosen["model_bytes"] < 0.3 * rungs["fp32"]["model_bytes"]
    assert chosen["flip_share"] <= 0.02
    assert "x the latency of fp32" in package.decision
    assert package.evidence["golden"]["tolerance"] == 1e-2


def test_int8_is_out_when_it_flips_more_labels_than_allowed(
    wide: tuple[BuildRequest, BuiltPackage],
) -> None:
    request, _ = wide
    package = build_package(replace(request, limits=ProfileLimits(label_flips_max=0.0)))
    rungs = {rung["name"]: rung for rung in package.evidence["ladder"] if rung["is_built"]}
    assert rungs[package.evidence["rung"]]["flip_share"] == 0
    if rungs["int8_dynamic"]["flip_share"] > 0:
        assert "label flips" in str(rungs["int8_dynamic"]["reasons_against"])


@pytest.mark.parametrize("precision", [Precision.INT8_DYNAMIC, Precision.INT8_STATIC])
def test_trees_and_linear_models_have_nothing_to_quantize(precision: Precision) -> None:
    request = request_of(RandomForestClassifier(5, random_state=0), "wine")
    package = build_package(request)
    assert package.precision is Precision.FP32
    model = unpack_members(package.blob)[MODEL]
    result = quantize(model, precision, request.calibration, request.profile)
    assert result.model is None
    assert result.note == "no quantizable operator among LabelEncoder, TreeEnsembleClassifier"


@pytest.mark.parametrize("precision", [Precision.INT8_DYNAMIC, Precision.INT8_STATIC])
def test_quantizing_twice_gives_the_same_bytes_and_leaves_the_log_alone(
    wide: tuple[BuildRequest, BuiltPackage],
    precision: Precision,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    request, _ = wide
    source = SklearnSource(request.estimator, request.schema.task)
    fp32 = normalise(source.convert(request.schema, request.profile).model, request.profile)
    first, again = (
        quantize(fp32, precision, request.calibration, request.profile) for _ in range(2)
    )
    assert first.model == again.model
    assert first.model is not None
    assert len(first.model) < 0.3 * len(fp32)
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in parse_model(first.model, what="it").graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert len(weights) == 3
    # 7 bits: products of 8-bit weights saturate on processors without VNNI.
    assert all(weight.min() >= -64 and weight.max() <= 64 for weight in weights)
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_int8_ships_when_it_alone_is_small_enough(
    wide: tuple[BuildRequest, BuiltPackage],
) -> None:
    request, _ = wide
    package = build_package(replace(request, limits=ProfileLimits(package_bytes_max=300_000)))
    assert package.precision is not Precision.FP32
    assert "fp32 is out (package" in package.decision


def test_a_package_that_keeps_no_limit_is_refused_with_every_number() -> None:
    limits = ProfileLimits(latency_ms_p95_max=1e-6, package_bytes_max=200)
    with pytest.raises(NoRungFitsError) as caught:
        build_package(request_of(logistic(), "digits", limits=limits))
    message = str(caught.value)
    assert "no build fits profile camera" in message
    assert "above 1e-06 ms" in message
    assert "above 200 bytes" in message
    assert caught.value.rungs[0]["latency_ms_p95"] > 0


def test_the_whole_package_counts_and_not_the_graph_alone() -> None:
    request = request_of(logistic(), "digits")
    whole = build_package(request)
    graph = whole.evidence["graph"]["bytes"]
    limits = ProfileLimits(package_bytes_max=(graph + len(whole.blob)) // 2)
    with pytest.raises(NoRungFitsError, match=f"package {len(whole.blob):,} above"):
        build_package(replace(request, limits=limits))


def test_the_primary_metric_decides_what_quantization_may_cost() -> None:
    limits = ProfileLimits(metric_drop_max=-1.0)
    with pytest.raises(NoRungFitsError, match="metric drop"):
        build_package(
            request_of(
                logistic(),
                "digits",
                limits=limits,
                metric=find_metric("log_loss", Task.CLASSIFICATION),
            )
        )


def test_rounding_of_the_inputs_is_reported_apart_from_the_conversion() -> None:
    package = build_package(request_of(ridge(), "diabetes"))
    assert package.evidence["input_rounding"]["is_exact"] is False
    assert package.evidence["input_rounding"]["rows_off"] == 0
    exact = build_package(request_of(ridge(), "diabetes", is_float32=True))
    assert exact.evidence["input_rounding"] == {"is_exact": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"holdout_targets": np.zeros(3)}, "targets of shape"),
        ({"holdout_targets": np.full(719, 10)}, r"labels \[10\] were not among the classes"),
        ({"evidence_context": {"when": object()}}, "more than JSON values"),
    ],
)
def test_a_request_that_does_not_fit_together_is_refused(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        build_package(replace(request_of(logistic(), "digits"), **change))


def test_missing_values_that_the_model_cannot_take_are_refused() -> None:
    request = request_of(logistic(), "digits")
    holdout = request.holdout.copy()
    holdout[0, 0] = np.nan
    with pytest.raises(
        InvalidRequestError, match=r"refuses the rows: Input X contains NaN; \d+ of \d+ rows"
    ):
        build_package(replace(request, holdout=holdout))


def test_a_graph_from_elsewhere_becomes_a_package(logistic_package: BuiltPackage) -> None:
    request = request_of(logistic(), "digits")
    foreign = unpack_members(logistic_package.blob)[MODEL]
    source = OnnxSource(foreign, request.schema, request.profile)
    package = build_package(replace(request, estimator=source))
    assert package.evidence["source"] == "onnx"
    assert package.max_abs_error == 0
    assert unpack_members(package.blob)[MODEL] == foreign


# Golden rows


def golden_of(package: BuiltPackage) -> dict[str, Array]:
    content = unpack_members(package.blob)[GOLDEN]
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_golden_rows_are_real_rows_of_every_class(logistic_package: BuiltPackage) -> None:
    request = request_of(logistic(), "digits")
    golden = golden_of(logistic_package)
    assert golden["input"].shape == (32, 64)
    assert golden["input"].dtype == np.float32
    held_out = {row.tobytes() for row in request.holdout.astype(np.float32)}
    assert all(row.tobytes() in held_out for row in golden["input"])
    assert set(golden["output:label"].tolist()) == set(range(10))
    assert float(golden["tolerance:probabilities"]) == 1e-4
    assert "tolerance:label" not in golden


def test_golden_rows_find_another_model(logistic_package: BuiltPackage) -> None:
    request = request_of(logistic(), "digits")
    golden = unpack_members(logistic_package.blob)[GOLDEN]
    right = GraphRunner(unpack_members(logistic_package.blob)[MODEL], request.profile)
    assert check_golden(golden, right, request.schema) == []
    other = build_package(request_of(MLPClassifier((8,), max_iter=5, random_state=0), "digits"))
    wrong = GraphRunner(unpack_members(other.blob)[MODEL], request.profile)
    problems = check_golden(golden, wrong, request.schema)
    assert len(problems) == 2
    assert "labels differ" in problems[0]
    assert "tolerance 0.0001" in problems[1]


def test_golden_rows_of_trees_stand_a_rounding() -> None:
    request = request_of(RandomForestClassifier(20, random_state=0), "cancer")
    members = unpack_members(build_package(request).blob)
    runner = GraphRunner(members[MODEL], request.profile)
    golden, rows = build_golden(runner, request.holdout.astype(np.float32), request.schema, 1e-5)
    assert (golden, rows) == (members[GOLDEN], 32)
    with np.load(io.BytesIO(golden), allow_pickle=False) as stored:
        nudged = stored["input"] * np.float32(1 + 1.2e-7)
        moved = runner.run(nudged)["probabilities"]
        np.testing.assert_allclose(moved, stored["output:probabilities"], atol=1e-5)


def test_golden_rows_whose_label_hangs_on_a_rounding_come_last() -> None:
    weights = np.array([[1e-4, -1e-4], [-1e-4, 1e-4]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "close calls",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    profile = load_profile("camera")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    runner = GraphRunner(normalise(model, profile), profile)
    numbers = np.arange(1, 41, dtype=np.float32)
    ties = np.stack([numbers, numbers], axis=1)
    clear = np.stack([numbers, 2 * numbers], axis=1)
    content, _ = build_golden(runner, np.concatenate([ties, clear]), schema_of(2, ["a", "b"]), 1e-4)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        golden = stored["input"]
    assert len(golden) == 32
    assert np.all(golden[:, 0] != golden[:, 1])


def test_the_source_is_fed_the_type_of_the_rows_it_was_given() -> None:
    request = request_of(MLPRegressor(max_iter=5, random_state=0), "diabetes", is_float32=True)
    answers = request.estimator.predict(request.holdout)
    assert answers.dtype == np.float32
    error = np.mean(np.abs(answers.astype(np.float64) - request.holdout_targets))
    assert build_package(request).evidence["metric"]["source"] == error


def test_golden_rows_answer_alike_in_batches_and_on_more_threads(
    wide: tuple[BuildRequest, BuiltPackage],
) -> None:
    request, package = wide
    members = unpack_members(package.blob)
    busy = GraphRunner(members[MODEL], request.profile, threads=2)
    assert check_golden(members[GOLDEN], busy, request.schema) == []


def test_a_broken_graph_is_refused_by_the_runtime() -> None:
    request = request_of(logistic(), "digits")
    profile: DeviceProfile = request.profile
    with pytest.raises(RuntimeRefusedError, match="does not load"):
        GraphRunner(b"broken", profile)
    model = unpack_members(build_package(request).blob)[MODEL]
    with pytest.raises(RuntimeRefusedError, match="fails on these rows"):
        GraphRunner(model, profile).run(np.zeros((2, 63), np.float32))
    assert normalise(parse_model(model, what="it"), profile) == model
