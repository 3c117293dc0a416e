"""The graph of scikit-learn's ``RegressorChain``, which skl2onnx has no converter for.

Each regressor reads the row and what those before it in the chain answered; the answers are put
back into the order of the targets at the end.
"""

from typing import Any

import numpy as np
from sklearn.multioutput import RegressorChain

_ALIAS = "EdgefleetRegressorChain"
_registered: set[str] = set()


def register_chain() -> None:
    """Make ``RegressorChain`` known to skl2onnx, once."""
    if _ALIAS in _registered:
        return
    from skl2onnx import update_registered_converter

    update_registered_converter(RegressorChain, _ALIAS, _find_shape, _convert)
    _registered.add(_ALIAS)


def _find_shape(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    kind = type(operator.outputs[0].type)
    operator.outputs[0].type = kind([rows, len(operator.raw_operator.estimators_)])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.algebra.onnx_operator import OnnxSubEstimator
    from skl2onnx.algebra.onnx_ops import OnnxCast, OnnxConcat, OnnxGather, OnnxReshapeApi13
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.proto import onnx_proto

    version, chain = container.target_opset, operator.raw_operator
    row: Any = operator.inputs[0]
    is_double = isinstance(row.type, DoubleTensorType)
    element = onnx_proto.TensorProto.DOUBLE if is_double else onnx_proto.TensorProto.FLOAT
    column = np.array([-1, 1], np.int64)
    known, answers = row, []
    for estimator in chain.estimators_:
        answer = OnnxSubEstimator(estimator, known, op_version=version)
        answer = OnnxCast(answer, to=element, op_version=version)
        answers.append(OnnxReshapeApi13(answer, column, op_version=version))
        known = OnnxConcat(row, *answers, axis=1, op_version=version)
    places = np.argsort(np.asarray(chain.order_)).astype(np.int64)
    together = OnnxConcat(*answers, axis=1, op_version=version)
    ordered = OnnxGather(
        together, places, axis=1, op_version=version, output_names=[operator.outputs[0]]
    )
    ordered.add_to(scope=scope, container=container)
