"""FunctionTransformer and TransformedTargetRegressor with functions of numpy, for skl2onnx."""

from typing import Any

import numpy as np
from sklearn.preprocessing import FunctionTransformer

from converters.errors import UnsupportedEstimatorError
from converters.graph_pieces import Pieces
from converters.named_functions import find_name, write_function

_registered: set[str] = set()
_LINEAR = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler")


def check_function(step: Any) -> None:
    """Check the function of a FunctionTransformer and make its converter known.

    Raises:
        UnsupportedEstimatorError: A function that no graph holds.
    """
    if find_name(step.func, step.kw_args, type(step).__name__):
        _register(FunctionTransformer, "EdgefleetFunction", _shape_function, _convert_function)


def check_target(regressor: Any) -> None:
    """Check what turns the answers of a TransformedTargetRegressor back.

    Raises:
        UnsupportedEstimatorError: What no graph holds.
    """
    from sklearn.compose import TransformedTargetRegressor

    _find_inverse(regressor)
    _register(TransformedTargetRegressor, "EdgefleetTarget", _shape_target, _convert_target)


def _register(kind: Any, alias: str, shape: Any, convert: Any) -> None:
    if alias in _registered:
        return
    from skl2onnx import update_registered_converter

    update_registered_converter(kind, alias, shape, convert, overwrite=True)
    _registered.add(alias)


def _find_inverse(regressor: Any) -> tuple[str, Any, Any]:
    """Give the function, the factor and the summand that turn answers back."""
    name, step = type(regressor).__name__, regressor.transformer_
    if isinstance(step, FunctionTransformer):
        return find_name(step.inverse_func, step.inv_kw_args, name), None, None
    if type(step).__name__ not in _LINEAR:
        raise UnsupportedEstimatorError(
            name,
            f"{type(step).__name__} turns its answers back, which no graph holds",
            "Use functions of numpy (func=np.log1p, inverse_func=np.expm1) or StandardScaler, or"
            " convert its regressor_ and turn the answers back in the application.",
        )
    width = step.n_features_in_
    summand = step.inverse_transform(np.zeros((1, width)))
    factor = step.inverse_transform(np.ones((1, width))) - summand
    is_clipped = bool(getattr(step, "clip", False))
    if is_clipped:
        raise UnsupportedEstimatorError(
            name, "MinMaxScaler(clip=True) turns its answers back", "Use MinMaxScaler() there."
        )
    return "", factor, summand


def _shape_function(operator: Any) -> None:
    kind, columns = type(operator.inputs[0].type), 0
    for one in operator.inputs:
        columns += one.type.shape[1]
    operator.outputs[0].type = kind([None, columns])


def _convert_function(scope: Any, operator: Any, container: Any) -> None:
    step = operator.raw_operator
    pieces = Pieces(scope, operator, container)
    name = find_name(step.func, step.kw_args, type(step).__name__)
    pieces.finish(write_function(pieces, name, pieces.rows))


def _shape_target(operator: Any) -> None:
    kind = type(operator.outputs[0].type)
    width = getattr(operator.raw_operator.transformer_, "n_features_in_", 1)
    operator.outputs[0].type = kind([None, width])


def _convert_target(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.algebra.onnx_operator import OnnxSubEstimator
    from skl2onnx.algebra.onnx_ops import OnnxCast, OnnxReshapeApi13
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.proto import onnx_proto

    model = operator.raw_operator
    function, factor, summand = _find_inverse(model)
    width = getattr(model.transformer_, "n_features_in_", 1)
    version = container.target_opset
    answer = OnnxSubEstimator(model.regressor_, operator.inputs[0], op_version=version)
    wide = OnnxCast(answer, to=onnx_proto.TensorProto.DOUBLE, op_version=version)
    told = scope.declare_local_variable("told", DoubleTensorType([None, width]))
    shaped = OnnxReshapeApi13(
        wide, np.array([-1, width], np.int64), op_version=version, output_names=[told]
    )
    shaped.add_to(scope=scope, container=container)
    pieces = Pieces(scope, operator, container)
    given = told.full_name
    if factor is not None:
        kind = onnx_proto.TensorProto.DOUBLE
        given = pieces.node("Mul", given, pieces.add(name="factor", kind=kind, value=factor))
        given = pieces.node("Add", given, pieces.add(name="summand", kind=kind, value=summand))
    pieces.finish(write_function(pieces, function, pieces.node("Cast", given, to=pieces.kind)))
