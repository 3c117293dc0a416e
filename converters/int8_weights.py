"""Weights stored as int8, a scale a channel, and computed in float32: a quarter of the transfer.

The stored numbers become float32 again when the graph is loaded: latency and memory of fp32, and
the same arithmetic on every processor, so that all 8 bits may be used. ``Cast`` and ``Mul`` say it,
not ``DequantizeLinear``: onnxruntime folds the first two when it loads the graph, but keeps the
last for its own int8 kernels and computes it anew for every row.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.graph import fresh_name, parse_model
from converters.half import ELEMENTS_MIN
from converters.normalise import normalise
from converters.quantize import Quantized
from device_profiles.profile import DeviceProfile

Array = NDArray[Any]
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = CONVOLUTIONS | {"Gemm", "MatMul"}
WEIGHT_BITS = 8
_LARGEST = 127


def store_int8(
    graph: bytes, profile: DeviceProfile, *, operators: Collection[str] = PRODUCTS
) -> Quantized:
    """Store the float32 weights of some operators as int8, written back when the graph is loaded.

    Args:
        graph: Normalised bytes.
        profile: Bounds of the result.
        operators: Those whose second input is stored.
    """
    model = parse_model(graph, what="the graph")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.domain or node.op_type not in operators or node.input[1] not in constants:
            continue
        tensor = constants[node.input[1]]
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < ELEMENTS_MIN:
            continue
        weights = numpy_helper.to_array(tensor)
        if weights.ndim > 1 and np.isfinite(weights).all():
            del constants[tensor.name]
            nodes += _store(model, tensor, weights, _find_axis(node, weights.ndim))
    if not nodes:
        kinds = ", ".join(sorted(operators))
        return Quantized(model=None, note=f"no {kinds} with {ELEMENTS_MIN} or more weights")
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Quantized(model=normalise(model, profile))


def _store(model: ModelProto, tensor: TensorProto, weights: Array, axis: int) -> list[NodeProto]:
    """Replace a constant; give the nodes that make it again."""
    others = tuple(place for place in range(weights.ndim) if place != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    numbers = np.clip(np.rint(weights / scale), -_LARGEST, _LARGEST).astype(np.int8)
    name = tensor.name
    stored, step, whole = (fresh_name(model, f"{name}_{kind}") for kind in ("int8", "step", "cast"))
    tensor.CopyFrom(numpy_helper.from_array(numbers, stored))
    model.graph.initializer.append(numpy_helper.from_array(scale, step))
    return [
        helper.make_node("Cast", [stored], [whole], to=TensorProto.FLOAT),
        helper.make_node("Mul", [whole, step], [name]),
    ]


def _find_axis(node: NodeProto, rank: int) -> int:
    """Tell which axis of the weights counts the outputs of a node."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    is_turned = any(one.name == "transB" and one.i for one in node.attribute)
    return 0 if is_turned else rank - 1
