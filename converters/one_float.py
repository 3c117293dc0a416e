"""Let a graph that computes in float64 do so throughout: some converters mix in float32.

skl2onnx writes weights and constants of some estimators as float32 whatever the input is, and
onnxruntime refuses operators of two types. What is float32 beside float64 is widened, exactly.
"""

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from converters.graph import fresh_name

_SAME = frozenset(
    [
        *("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min", "Mean", "Concat", "MatMul"),
        *("Gemm", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"),
    ]
)
"""Operators all of whose inputs are of one type."""
_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
_PASSES_MAX = 64


def widen_mixed(model: ModelProto) -> None:
    """Widen every float32 input of an operator that has a float64 one too, in place."""
    for _ in range(_PASSES_MAX):
        kinds = _find_kinds(model)
        place = next(
            (n for n, node in enumerate(model.graph.node) if _list_narrow(node, kinds)), None
        )
        if place is None:
            return
        node = model.graph.node[place]
        for position in reversed(_list_narrow(node, kinds)):
            wide = fresh_name(model, f"{node.input[position]}_f64")
            cast = helper.make_node("Cast", [node.input[position]], [wide], to=_DOUBLE)
            node.input[position] = wide
            model.graph.node.insert(place, cast)
            node = model.graph.node[place + 1]


def _list_narrow(node: NodeProto, kinds: dict[str, int]) -> list[int]:
    if node.domain or node.op_type not in _SAME:
        return []
    found = [kinds.get(name, 0) for name in node.input]
    if _DOUBLE not in found:
        return []
    return [position for position, kind in enumerate(found) if kind == _FLOAT]


def _find_kinds(model: ModelProto) -> dict[str, int]:
    """Give the type of each tensor as far as onnx can tell.

    Types that converters declared are left out: they may be what is wrong.
    """
    asked = ModelProto()
    asked.CopyFrom(model)
    del asked.graph.value_info[:]
    for output in asked.graph.output:
        output.type.tensor_type.elem_type = 0
    try:
        told = onnx.shape_inference.infer_shapes(asked)
    except Exception:  # noqa: BLE001 - then the types stay as they are, and onnxruntime judges
        told = asked
    graph = told.graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type:
            kinds[value.name] = value.type.tensor_type.elem_type
    return kinds
