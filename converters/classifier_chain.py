"""The graph of scikit-learn's ``ClassifierChain``, which skl2onnx has no converter for.

Each classifier reads the row and what those before it in the chain predicted: the class as a
number, or the probability of the second of two. Its outputs are those of the package contract.
"""

from typing import Any

import numpy as np
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import Pipeline

from converters.errors import UnsupportedEstimatorError
from converters.several_labels import CHAIN_METHODS

_ALIAS = "EdgefleetClassifierChain"
_registered: set[str] = set()


def register_classifier_chain() -> None:
    """Make ``ClassifierChain`` known to skl2onnx, once."""
    if _ALIAS in _registered:
        return
    from skl2onnx import update_registered_converter

    update_registered_converter(ClassifierChain, _ALIAS, _find_shape, _convert, parser=_parse)
    _registered.add(_ALIAS)


def check_chain(chain: Any) -> None:
    """Refuse a chain whose links are fed what the graph does not have.

    Raises:
        UnsupportedEstimatorError: Decision functions or logarithms go from one to the next.
    """
    method = getattr(chain, "chain_method_", "predict")
    if method not in CHAIN_METHODS:
        raise UnsupportedEstimatorError(
            "ClassifierChain",
            f"its classifiers are fed the {method} of those before them",
            'Use chain_method="predict" or "predict_proba".',
        )


def _parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:  # noqa: ARG001 - its signature
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    operator = scope.declare_local_operator(_ALIAS, model)
    operator.inputs = inputs
    for name, kind in (("label", Int64TensorType()), ("probabilities", FloatTensorType())):
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return operator.outputs


def _find_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    rows, chain = operator.inputs[0].get_first_dimension(), operator.raw_operator
    classes = sum(len(one.classes_) for one in chain.estimators_)
    operator.outputs[0].type = Int64TensorType([rows, len(chain.estimators_)])
    operator.outputs[1].type = FloatTensorType([rows, classes])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.algebra.onnx_ops import OnnxConcat
    from skl2onnx.common.data_types import DoubleTensorType

    version, chain = container.target_opset, operator.raw_operator
    row: Any = operator.inputs[0]
    is_double = isinstance(row.type, DoubleTensorType)
    known, told = row, list[Any]()
    links = []
    for estimator in chain.estimators_:
        index, shares, value = _ask(chain, estimator, known, is_double=is_double, version=version)
        links.append((index, shares))
        told.append(value)
        known = OnnxConcat(row, *told, axis=1, op_version=version)
    ordered = [links[place] for place in np.argsort(np.asarray(chain.order_))]
    for number, output in enumerate(operator.outputs):
        parts = [link[number] for link in ordered]
        joined = OnnxConcat(*parts, axis=1, op_version=version, output_names=[output])
        joined.add_to(scope=scope, container=container)


def _ask(
    chain: Any, estimator: Any, known: Any, *, is_double: bool, version: int
) -> tuple[Any, Any, Any]:
    """Give a link's class index [N, 1], its probabilities, and what the next links are fed."""
    from skl2onnx.algebra.onnx_operator import OnnxSubEstimator
    from skl2onnx.algebra.onnx_ops import (
        OnnxCast,
        OnnxEqual,
        OnnxGather,
        OnnxReshapeApi13,
    )
    from skl2onnx.proto import onnx_proto

    kinds = onnx_proto.TensorProto
    wide = kinds.DOUBLE if is_double else kinds.FLOAT
    column = np.array([-1, 1], np.int64)
    classes = np.asarray(estimator.classes_)
    has_shares = hasattr(estimator, "predict_proba")
    if isinstance(estimator, Pipeline):
        known = OnnxSubEstimator(estimator[:-1], known, op_version=version)
        estimator = estimator[-1]
    asked = OnnxSubEstimator(
        estimator, known, op_version=version, options={"zipmap": False} if has_shares else None
    )
    label = OnnxReshapeApi13(asked[0], column, op_version=version)
    value = OnnxCast(label, to=wide, op_version=version)
    index = OnnxCast(label, to=kinds.INT64, op_version=version)
    if classes.tolist() != list(range(len(classes))):
        index = _find_index(index, classes, version)
    if has_shares:
        shares = OnnxCast(asked[1], to=kinds.FLOAT, op_version=version)
    else:
        every = np.arange(len(classes), dtype=np.int64)
        hit = OnnxEqual(index, every, op_version=version)
        shares = OnnxCast(hit, to=kinds.FLOAT, op_version=version)
    if getattr(chain, "chain_method_", "predict") == "predict_proba":
        second = OnnxGather(asked[1], np.array([1], np.int64), axis=1, op_version=version)
        value = OnnxCast(second, to=wide, op_version=version)
    return index, shares, value


def _find_index(label: Any, classes: Any, version: int) -> Any:
    """Turn class numbers into their places: the one of the classes that equals the label."""
    from skl2onnx.algebra.onnx_ops import OnnxArgMax, OnnxCast, OnnxEqual
    from skl2onnx.proto import onnx_proto

    hit = OnnxEqual(label, classes.astype(np.int64), op_version=version)
    shares = OnnxCast(hit, to=onnx_proto.TensorProto.FLOAT, op_version=version)
    return OnnxArgMax(shares, axis=1, keepdims=1, op_version=version)
