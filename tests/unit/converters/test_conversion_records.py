"""Rows, evidence and golden arrays: what goes into a package beside the graph."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.evidence import describe_answers, encode_evidence, read_evidence
from converters.golden import encode_arrays, find_tolerance
from converters.interface import check_schema
from converters.request import MeasurementPlan, ProfileLimits
from converters.rows import check_rows
from device_profiles.profile import Precision
from edge_agent.contract.schema import ModelSchema, Output, Role
from tests.support.convert import schema_of

Array = NDArray[Any]
SCHEMA = schema_of(2)
ROWS = np.array([[1.0, 2.0], [3.0, 4.0]])
ONES = np.ones(2)


def test_rows_are_rounded_and_say_whether_that_changed_them() -> None:
    assert check_rows(SCHEMA, ROWS, ROWS, ONES).is_exact
    assert check_rows(SCHEMA, ROWS, np.array([[1.0, np.nan], [0.5, 2.0]]), ONES).is_exact
    rows = check_rows(SCHEMA, ROWS, ROWS + 0.1, ONES)
    assert not rows.is_exact
    assert rows.holdout.dtype == rows.calibration.dtype == np.float32


@pytest.mark.parametrize(
    ("calibration", "holdout", "targets", "words"),
    [
        (ROWS[:, :1], ROWS, ONES, r"calibration has shape \(2, 1\)"),
        (ROWS, ROWS.ravel(), np.ones(4), r"holdout has shape \(4,\)"),
        (ROWS[:0], ROWS, ONES, r"calibration has shape \(0, 2\)"),
        (ROWS, ROWS, ONES[:1], "holdout has 2 rows and targets"),
        (ROWS, ROWS, ROWS, "holdout has 2 rows and targets"),
        (ROWS, np.array([["a", "b"], ["c", "d"]]), ONES, "holdout holds more than numbers"),
        (ROWS * [1, 1e300], ROWS, ONES, "column 'x_1' has a number beyond float32"),
    ],
)
def test_wrong_rows_are_refused_by_table_and_column(
    calibration: Array, holdout: Array, targets: Array, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        check_rows(SCHEMA, calibration, holdout, targets)


@pytest.mark.parametrize(
    "schema",
    [
        ModelSchema(
            model="m",
            task=SCHEMA.task,
            features=SCHEMA.features,
            outputs=(Output(name="price", role=Role.VALUE),),
        ),
        ModelSchema(model="m", task=SCHEMA.task, features=SCHEMA.features, outputs=()),
        schema_of(2, ["only"]),
    ],
)
def test_a_schema_has_the_outputs_and_classes_of_its_task(schema: ModelSchema) -> None:
    with pytest.raises(InvalidRequestError, match="schema has"):
        check_schema(schema)


@pytest.mark.parametrize(
    "limits",
    [
        {"label_flips_max": 1.1},
        {"rows_off_max": -0.1},
        {"package_bytes_max": 0},
        {"latency_ms_p95_max": float("nan")},
    ],
)
def test_limits_that_nothing_can_keep_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(limits))):
        ProfileLimits(**limits)


def test_a_measurement_of_fewer_than_three_rounds_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="3 to 1,000 rounds"):
        MeasurementPlan(rounds=2)


def test_evidence_is_the_same_bytes_in_any_order_and_writes_every_number() -> None:
    first = {"a": np.float32(0.5), "b": [float("inf"), np.int64(3)], "c": (1, None)}
    again = dict(reversed(first.items()))
    assert encode_evidence(first) == encode_evidence(again)
    assert read_evidence(encode_evidence(first)) == {"a": 0.5, "b": ["inf", 3], "c": [1, None]}


def test_a_context_that_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="more than JSON values"):
        encode_evidence({"context": {"model": object()}})


def test_the_confusion_matrix_counts_truth_by_row() -> None:
    answers = {"label": np.array([0, 1, 1, 1])}
    described = describe_answers(schema_of(2, ["a", "b"]), np.array([0, 0, 0, 1]), answers)
    assert described["confusion"]["counts"] == [[1, 2], [0, 1]]


def test_a_regression_records_its_residuals() -> None:
    described = describe_answers(SCHEMA, np.zeros(3), {"value": np.array([-1.0, 0.0, 3.0])})
    assert described["residual_percentiles"]["50"] == 0.0
    assert described["residual_percentiles"]["100"] == 3.0


def test_golden_arrays_are_exact_and_the_same_bytes_every_time() -> None:
    arrays = {"input": np.array([[0.1, 1e-38]], np.float32), "output:label": np.array([3])}
    content = encode_arrays(arrays)
    assert content == encode_arrays(arrays)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["input"], arrays["input"])
        assert stored["input"].dtype == np.float32


@pytest.mark.parametrize(
    ("precision", "operators", "tolerance"),
    [
        (Precision.FP32, ["MatMul", "Softmax"], 1e-4),
        (Precision.FP32, ["ai.onnx.ml:TreeEnsembleClassifier", "ai.onnx.ml:LabelEncoder"], 1e-5),
        (Precision.FP32, ["ai.onnx.ml:SVMRegressor", "Reshape", "ai.onnx.ml:Scaler"], 1e-5),
        (Precision.FP32, ["ai.onnx.ml:TreeEnsembleClassifier", "MatMul"], 1e-4),
        (Precision.INT8_STATIC, ["MatMul", "QuantizeLinear"], 1e-2),
        (Precision.INT8_DYNAMIC, ["MatMulInteger"], 1e-2),
    ],
)
def test_the_tolerance_follows_what_devices_were_seen_to_do(
    precision: Precision, operators: list[str], tolerance: float
) -> None:
    assert find_tolerance(precision, dict.fromkeys(operators, 1)) == tolerance
