"""Transformers that skl2onnx lacks, writes slowly or for float32 alone, as nodes in float64.

What is affine is asked for its matrix and written as one; the others follow the formulas of
scikit-learn. All of them answer dense columns.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import UnsupportedEstimatorError
from converters.graph_pieces import Pieces
from converters.interpolation import write_interpolation
from converters.named_functions import Numbers, write_expm1, write_log1p
from converters.one_hot import NAME as ONE_HOT
from converters.one_hot import count_columns, is_of_numbers, write_one_hot

Array = NDArray[Any]
AFFINE = (
    *("FastICA", "FactorAnalysis", "FeatureAgglomeration", "SparsePCA", "MiniBatchSparsePCA"),
    "SparseRandomProjection",
)
_SAME_WIDTH = ("QuantileTransformer", "PowerTransformer")
_EPSILON = float(np.finfo(np.float64).eps)
_registered: set[str] = set()


def check_transformer(step: Any) -> None:
    """Check a fitted transformer of this module and make its converter known.

    Raises:
        UnsupportedEstimatorError: An option that no graph holds.
    """
    name = type(step).__name__
    if name == "QuantileTransformer" and step.output_distribution != "uniform":
        raise UnsupportedEstimatorError(
            name,
            f"output_distribution={step.output_distribution!r} is a function no operator has",
            'Use output_distribution="uniform", or PowerTransformer.',
        )
    if name == "MissingIndicator" and not _is_nan(step.missing_values):
        raise UnsupportedEstimatorError(
            name, f"it takes {step.missing_values!r} for missing", "Use NaN for missing values."
        )
    if name == "FeatureAgglomeration" and step.pooling_func is not np.mean:
        raise UnsupportedEstimatorError(name, "its pooling is no mean", "Use pooling_func=np.mean.")
    if name == ONE_HOT and not is_of_numbers(step):
        return  # looked up by code, before a converter is asked
    if name not in _registered:
        from skl2onnx import update_registered_converter

        alias = f"Edgefleet{name}"
        parser = _parse if name == "FeatureAgglomeration" else None
        update_registered_converter(
            type(step), alias, _find_shape, _convert, parser=parser, overwrite=True
        )
        _registered.add(name)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and bool(np.isnan(value))


def _find_shape(operator: Any) -> None:
    step = operator.raw_operator
    width = step.n_features_in_
    if type(step).__name__ == ONE_HOT:
        width = count_columns(step)
    elif type(step).__name__ not in _SAME_WIDTH:
        width = _ask(step, np.zeros((1, width))).shape[1]
    operator.outputs[0].type = type(operator.inputs[0].type)([None, width])


def _parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:  # noqa: ARG001 - its signature
    """Declare one output: skl2onnx would give a grouping two."""
    operator = scope.declare_local_operator(f"Edgefleet{type(model).__name__}", model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("columns", type(inputs[0].type)()))
    return operator.outputs


def _ask(step: Any, rows: Array) -> Array:
    """Transform rows of numbers; dense."""
    answer = step.predict(rows) if type(step).__name__ in PREDICTING else step.transform(rows)
    dense = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer, np.float64)
    return dense.reshape(len(rows), -1)


PREDICTING = ("PLSCanonical", "CCA")
"""Regressors that are affine: what they predict is asked for."""


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto

    pieces, step = Pieces(scope, operator, container), operator.raw_operator
    wide = pieces.node("Cast", pieces.rows, to=TensorProto.DOUBLE)
    write = _WRITERS.get(type(step).__name__, _write_affine)
    pieces.finish(pieces.node("Cast", write(pieces, step, wide), to=pieces.kind))


def _write_affine(pieces: Pieces, step: Any, rows: str) -> str:
    width = step.n_features_in_
    nothing = _ask(step, np.zeros((1, width)))
    # Around the middle of what it was fitted on, where there is one, so that little cancels out.
    middle = np.asarray(getattr(step, "mean_", getattr(step, "_x_mean", np.zeros(width))))
    middle = np.broadcast_to(np.asarray(middle, np.float64), (width,))
    matrix = _ask(step, np.eye(width)) - nothing
    shift = _ask(step, middle[None, :])
    centred = pieces.node("Sub", rows, _numbers(pieces, middle))
    return pieces.node(
        "Add", pieces.node("MatMul", centred, _numbers(pieces, matrix)), _numbers(pieces, shift)
    )


def _write_quantiles(pieces: Pieces, step: Any, rows: str) -> str:
    """Interpolate up and down, which differ where quantiles repeat, and take the middle."""
    node = pieces.node
    knots = np.asarray(step.quantiles_, np.float64).T
    values = np.broadcast_to(np.asarray(step.references_, np.float64), knots.shape)
    up = write_interpolation(pieces, rows, knots, values)
    down = write_interpolation(pieces, node("Neg", rows), -knots[:, ::-1], -values[:, ::-1])
    middle = node("Mul", node("Sub", up, down), _numbers(pieces, 0.5))
    for edge, answer in ((knots[:, -1], 1.0), (knots[:, 0], 0.0)):
        is_edge = node("Equal", rows, _numbers(pieces, edge))
        middle = node("Where", is_edge, _numbers(pieces, answer), middle)
    return node("Where", node("IsNaN", rows), rows, middle)


def _write_power(pieces: Pieces, step: Any, rows: str) -> str:
    node, numbers = pieces.node, Numbers(pieces)
    lambdas = np.asarray(step.lambdas_, np.float64)
    if step.method == "box-cox":
        made = _power_of_log(pieces, node("Log", rows), lambdas)
    else:
        zero = _numbers(pieces, 0.0)
        above = write_log1p(numbers, node("Max", rows, zero))
        below = write_log1p(numbers, node("Max", node("Neg", rows), zero))
        is_negative = node("Less", rows, zero)
        upper = _power_of_log(pieces, above, lambdas)
        lower = node("Neg", _power_of_log(pieces, below, 2 - lambdas))
        made = node("Where", is_negative, lower, upper)
        made = node("Where", node("IsNaN", rows), rows, made)
    if step.standardize:
        scaler = step._scaler  # noqa: SLF001 - what it answers with
        made = node("Sub", made, _numbers(pieces, scaler.mean_))
        made = node("Div", made, _numbers(pieces, scaler.scale_))
    return made


def _power_of_log(pieces: Pieces, logged: str, powers: Array) -> str:
    """Give (x**power - 1) / power of log(x), which is log(x) where the power is 0."""
    is_zero = np.abs(powers) < _EPSILON
    divisor = _numbers(pieces, np.where(is_zero, 1.0, powers))
    grown = write_expm1(
        Numbers(pieces), pieces.node("Mul", logged, _numbers(pieces, np.where(is_zero, 0, powers)))
    )
    grown = pieces.node("Div", grown, divisor)
    if not is_zero.any():
        return grown
    return pieces.node("Where", _flags(pieces, is_zero), logged, grown)


def _write_bins(pieces: Pieces, step: Any, rows: str) -> str:
    """Count the edges that are no larger, then tell each count apart if it is asked for."""
    from onnx import TensorProto

    node, found = pieces.node, []
    for column, edges in enumerate(step.bin_edges_):
        inner = np.asarray(edges[1:-1], np.float64)
        given = node("Gather", rows, pieces.constant("column", [column]), axis=1)
        if len(inner):
            passed = node("LessOrEqual", _numbers(pieces, inner[None, :]), given)
            count = node("Cast", passed, to=TensorProto.DOUBLE)
            count = node("ReduceSum", count, pieces.constant("axis", [1]), keepdims=1)
        else:
            count = node("Mul", given, _numbers(pieces, 0.0))
        if step.encode != "ordinal":
            places = np.arange(int(step.n_bins_[column]), dtype=np.float64)[None, :]
            hit = node("Equal", count, _numbers(pieces, places))
            count = node("Cast", hit, to=TensorProto.DOUBLE)
        found.append(count)
    return found[0] if len(found) == 1 else node("Concat", *found, axis=1)


def _write_cosines(pieces: Pieces, step: Any, rows: str) -> str:
    node = pieces.node
    projected = node("MatMul", rows, _numbers(pieces, step.random_weights_))
    angle = node("Add", projected, _numbers(pieces, step.random_offset_))
    return node("Mul", node("Cos", angle), _numbers(pieces, (2.0 / step.n_components) ** 0.5))


def _write_missing(pieces: Pieces, step: Any, rows: str) -> str:
    from onnx import TensorProto

    chosen = pieces.constant("told", np.asarray(step.features_, np.int64))
    told = pieces.node("IsNaN", pieces.node("Gather", rows, chosen, axis=1))
    return pieces.node("Cast", told, to=TensorProto.DOUBLE)


_WRITERS: Mapping[str, Callable[[Pieces, Any, str], str]] = {
    "QuantileTransformer": _write_quantiles,
    "PowerTransformer": _write_power,
    "KBinsDiscretizer": _write_bins,
    "RBFSampler": _write_cosines,
    "MissingIndicator": _write_missing,
    ONE_HOT: write_one_hot,
}
NAMES = (*_WRITERS, *AFFINE, *PREDICTING)


def _numbers(pieces: Pieces, values: Any) -> str:
    from onnx import TensorProto

    return pieces.add(name="numbers", kind=TensorProto.DOUBLE, value=np.asarray(values, np.float64))


def _flags(pieces: Pieces, values: Array) -> str:
    from onnx import TensorProto

    return pieces.add(name="flags", kind=TensorProto.BOOL, value=values)
