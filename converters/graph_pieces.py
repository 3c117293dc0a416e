"""Write nodes into a graph of skl2onnx: constants and operators with names of their own."""

from typing import Any

import numpy as np


class Pieces:
    """Nodes of one converted transformer.

    Attributes:
        rows: Name of the input, [rows, columns].
        kind: Type of its numbers, of ``onnx.TensorProto``.
        dtype: The same for numpy.
    """

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        from onnx import TensorProto
        from skl2onnx.common.data_types import DoubleTensorType
        from skl2onnx.operator_converters.common import concatenate_variables

        self._scope, self._operator, self._container = scope, operator, container
        is_double = isinstance(operator.inputs[0].type, DoubleTensorType)
        self.kind: int = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
        self.dtype: Any = np.float64 if is_double else np.float32
        self.rows: str = concatenate_variables(scope, operator.inputs, container)

    def constant(self, name: str, value: Any) -> str:
        """Add numbers; integers stay integers, all others are of the input's type."""
        from onnx import TensorProto

        array = np.asarray(value)
        is_whole = array.dtype.kind in "iu"
        kind = TensorProto.INT64 if is_whole else self.kind
        cells = array.astype(np.int64 if is_whole else self.dtype)
        return self.add(name=name, kind=kind, value=cells)

    def add(self, *, name: str, kind: int, value: Any) -> str:
        """Add numbers of a type of ``onnx.TensorProto``."""
        array = np.asarray(value)
        full: str = self._scope.get_unique_variable_name(name)
        self._container.add_initializer(full, kind, array.shape, array.ravel().tolist())
        return full

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator of one output; gives its name."""
        output: str = self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(
            kind,
            list(inputs),
            output,
            name=self._scope.get_unique_operator_name(kind),
            **attributes,
        )
        return output

    def finish(self, *names: str) -> None:
        """Make the columns of these the output."""
        joined = names[0] if len(names) == 1 else self.node("Concat", *names, axis=1)
        self._container.add_node("Identity", joined, self._operator.outputs[0].full_name)
