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

    def finish_classifier(self, shares: str, kind: int, classes: Any) -> None:
        """Make probabilities the second output, the label of the highest the first.

        Args:
            shares: Name of the probabilities, [rows, classes].
            kind: Their type, of ``onnx.TensorProto``.
            classes: Labels in the order of the columns.
        """
        from onnx import TensorProto

        label, told = (output.full_name for output in self._operator.outputs[:2])
        if kind != self.kind:
            shares = self.node("Cast", shares, to=self.kind)
        self._container.add_node("Identity", shares, told)
        place = self.node("ArgMax", shares, axis=1, keepdims=0)
        values = np.asarray(classes)
        is_text = values.dtype.kind not in "iufb"
        names = self._scope.get_unique_variable_name("classes")
        element = TensorProto.STRING if is_text else TensorProto.INT64
        cells = [str(one).encode() for one in values] if is_text else values.astype(np.int64)
        self._container.add_initializer(names, element, [len(values)], list(cells))
        self._container.add_node("Gather", [names, place], label, axis=0)
