"""CalibratedClassifierCV and IsotonicRegression as scikit-learn computes them, for skl2onnx.

skl2onnx's own converter takes the nearest knot where scikit-learn interpolates, knows no
temperature, and asks a pipeline inside for probabilities where scikit-learn calibrated its scores.
"""

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression
from sklearn.pipeline import Pipeline

from converters.errors import UnsupportedEstimatorError
from converters.graph_pieces import Pieces
from converters.interpolation import write_interpolation

_registered: set[str] = set()
_LOG_SHIFT = 1e-12
"""What scikit-learn adds to a probability before its logarithm."""
_ABOVE_ONE = 1e-5
"""By how much a probability may exceed 1 to be 1."""


def check_calibrated(model: Any) -> None:
    """Check a CalibratedClassifierCV and make its converter known.

    Raises:
        UnsupportedEstimatorError: A part that saw fewer classes than the whole.
    """
    for one in model.calibrated_classifiers_:
        if len(one.estimator.classes_) != len(one.classes):
            raise UnsupportedEstimatorError(
                type(model).__name__,
                f"one of its folds has rows of {len(one.estimator.classes_)} of"
                f" {len(one.classes)} classes only",
                "Fit it on more rows of each class, or with fewer folds.",
            )
    _register(CalibratedClassifierCV, "EdgefleetCalibrated", _shape_calibrated, _convert_calibrated)


def check_isotonic(model: Any) -> None:
    """Check an IsotonicRegression and make its converter known.

    Raises:
        UnsupportedEstimatorError: One that raises on what it never saw.
    """
    if model.out_of_bounds == "raise":
        raise UnsupportedEstimatorError(
            type(model).__name__,
            "it refuses rows outside those it was fitted on, a graph answers every row",
            'Use out_of_bounds="clip".',
        )
    _register(IsotonicRegression, "EdgefleetIsotonic", _shape_isotonic, _convert_isotonic)


def _register(kind: Any, alias: str, shape: Any, convert: Any) -> None:
    if alias in _registered:
        return
    from skl2onnx import update_registered_converter

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    update_registered_converter(
        kind,
        alias,
        shape,
        convert,
        overwrite=True,
        options=options if kind is CalibratedClassifierCV else None,
    )
    _registered.add(alias)


def _shape_isotonic(operator: Any) -> None:
    operator.outputs[0].type = type(operator.outputs[0].type)([None, 1])


def _convert_isotonic(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto

    pieces = Pieces(scope, operator, container)
    given = pieces.node("Cast", pieces.rows, to=TensorProto.DOUBLE)
    made = _interpolate(pieces, operator.raw_operator, given)
    pieces.finish(pieces.node("Cast", made, to=pieces.kind))


def _interpolate(pieces: Pieces, model: Any, given: str) -> str:
    outside = np.nan if model.out_of_bounds == "nan" and len(model.y_thresholds_) > 1 else None
    knots, values = (
        np.asarray(one, np.float64)[None, :] for one in (model.X_thresholds_, model.y_thresholds_)
    )
    return write_interpolation(pieces, given, knots, values, below=outside, above=outside)


def _shape_calibrated(operator: Any) -> None:
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    calculate_linear_classifier_output_shapes(operator)


def _convert_calibrated(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto

    model = operator.raw_operator
    pieces = Pieces(scope, operator, container)
    parts = [
        _calibrate(pieces, one, _ask_scores(scope, operator, container, one.estimator))
        for one in model.calibrated_classifiers_
    ]
    total = parts[0]
    for part in parts[1:]:
        total = pieces.node("Add", total, part)
    shares = pieces.node("Div", total, _numbers(pieces, len(parts)))
    # Rounded before the label is chosen, so that it is the first of the highest that is answered.
    pieces.finish_classifier(shares, TensorProto.DOUBLE, model.classes_)


def _ask_scores(scope: Any, operator: Any, container: Any, estimator: Any) -> str:
    """Give what is calibrated of a classifier, float64: its scores, else its probabilities.

    [rows, classes], of two classes too.
    """
    from skl2onnx.algebra.onnx_operator import OnnxSubEstimator
    from skl2onnx.algebra.onnx_ops import OnnxCast
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.proto import onnx_proto

    version, known = container.target_opset, operator.inputs[0]
    while isinstance(estimator, Pipeline):
        steps = [one for one in estimator.steps[:-1] if one[1] not in (None, "passthrough")]
        if steps:
            known = OnnxSubEstimator(Pipeline(steps), known, op_version=version)
        estimator = estimator.steps[-1][1]
    options: dict[str, Any] = {"zipmap": False} if hasattr(estimator, "predict_proba") else {}
    if container.has_options(estimator, "raw_scores") and hasattr(estimator, "decision_function"):
        options["raw_scores"] = True
    asked = OnnxSubEstimator(estimator, known, op_version=version, options=options)
    told = scope.declare_local_variable("scores", DoubleTensorType([None, None]))
    cast = OnnxCast(
        asked[1], to=onnx_proto.TensorProto.DOUBLE, op_version=version, output_names=[told]
    )
    cast.add_to(scope=scope, container=container)
    return str(told.full_name)


def _calibrate(pieces: Pieces, one: Any, scores: str) -> str:
    """Give the calibrated probabilities of one member, float64 [rows, classes]."""
    node, count = pieces.node, len(one.classes)
    if one.method == "temperature":
        return _temper(pieces, one, scores)
    columns = [1] if count == 2 else range(count)
    found = []
    for column, calibrator in zip(columns, one.calibrators, strict=True):
        given = node("Gather", scores, pieces.constant("column", [column]), axis=1)
        if one.method == "isotonic":
            found.append(_interpolate(pieces, calibrator, given))
            continue
        line = node("Mul", given, _numbers(pieces, -calibrator.a_))
        found.append(node("Sigmoid", node("Sub", line, _numbers(pieces, calibrator.b_))))
    if count == 2:
        shares = node("Concat", node("Sub", _numbers(pieces, 1.0), found[0]), found[0], axis=1)
    else:
        shares = node("Concat", *found, axis=1)
        total = node("ReduceSum", shares, pieces.constant("axis", [1]), keepdims=1)
        is_none = node("Equal", total, _numbers(pieces, 0.0))
        shares = node("Where", is_none, _numbers(pieces, 1.0 / count), node("Div", shares, total))
    is_near = node("LessOrEqual", shares, _numbers(pieces, 1.0 + _ABOVE_ONE))
    return node("Where", is_near, node("Min", shares, _numbers(pieces, 1.0)), shares)


def _temper(pieces: Pieces, one: Any, scores: str) -> str:
    """Give the probabilities of scores by a temperature."""
    node = pieces.node
    if hasattr(one.estimator, "decision_function"):
        if len(one.classes) == 2:
            second = node("Gather", scores, pieces.constant("column", [1]), axis=1)
            scores = node("Concat", node("Neg", second), second, axis=1)
    else:
        # What sums up to 1 in float32 may end a little below 0.
        shares = node("Max", node("Min", scores, _numbers(pieces, 1.0)), _numbers(pieces, 0.0))
        if len(one.classes) == 2:
            second = node("Gather", shares, pieces.constant("column", [1]), axis=1)
            shares = node("Concat", node("Sub", _numbers(pieces, 1.0), second), second, axis=1)
        scores = node("Log", node("Add", shares, _numbers(pieces, _LOG_SHIFT)))
    beta = float(one.calibrators[0].beta_)
    return node("Softmax", node("Mul", scores, _numbers(pieces, beta)), axis=1)


def _numbers(pieces: Pieces, value: float) -> str:
    from onnx import TensorProto

    return pieces.add(name="number", kind=TensorProto.DOUBLE, value=np.float64(value))
