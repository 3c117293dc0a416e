"""Narrower dense networks cut out of a graph: hidden units that contribute least are dropped.

A unit's contribution is how much its activation varies over training rows times the size of the
weights it feeds. The next layer then gets the weights that come nearest, by least squares on the
same rows, to what it was fed before: no training, no labels. Convolutions are narrowed by
``smaller_convolutions.py``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.graph import parse_model
from converters.normalise import normalise
from converters.runtime import watch_tensors
from device_profiles.profile import DeviceProfile

Array = NDArray[Any]
ROWS_MAX = 2_048
UNITS_MIN = 8
"""Narrower layers save nothing."""
_ACTIVATIONS = frozenset({"Relu", "Tanh", "Sigmoid", "LeakyRelu", "Elu", "Selu", "Gelu"})
_RIDGE = 1e-6


@dataclass(slots=True, kw_only=True)
class _Dense:
    """A product with a constant, its bias and its activation.

    Attributes:
        weights: [inputs, units], float64.
        bias: [units].
        places: Of its nodes, the product first.
        takes: Tensor multiplied.
        output: Tensor after bias and activation.
        activation: Node of the activation, if there is one.
        is_changed: Whether it must be written again.
    """

    weights: Array
    bias: Array
    places: list[int]
    takes: str
    output: str
    activation: NodeProto | None = None
    is_changed: bool = False


def list_network_cuts(fp32: bytes) -> list[str]:
    """Name the ways to make a dense network narrower; empty when it has no hidden layer."""
    model = parse_model(fp32, what="the fp32 graph")
    return ["narrower_layers"] if _find_hidden(_find_layers(model.graph)) else []


def narrow_network(fp32: bytes, share: float, rows: Array, profile: DeviceProfile) -> bytes:
    """Keep a share of the units of every hidden layer.

    Args:
        fp32: Normalised bytes.
        share: Of each layer, above 0 to 1.
        rows: Training rows, float32 [N, width].
        profile: Bounds of the result.
    """
    model = parse_model(fp32, what="the fp32 graph")
    layers = _find_layers(model.graph)
    asked = rows[:ROWS_MAX]
    pairs = _find_hidden(layers)
    truth = watch_tensors(model, [before.output for before, _ in pairs], asked, profile)
    for (before, after), wide in zip(pairs, truth, strict=True):
        units = before.weights.shape[1]
        kept = _rank_units(wide, after.weights)[: max(UNITS_MIN, round(share * units))]
        if len(kept) == units:
            continue
        kept = np.sort(kept)
        before.weights, before.bias = before.weights[:, kept], before.bias[kept]
        target = wide.astype(np.float64) @ after.weights + after.bias
        before.is_changed = after.is_changed = True
        after.weights = after.weights[kept]
        after.weights, after.bias = _refit(_activate(model, layers, before, asked, profile), target)
    _rewrite(model.graph, layers)
    return normalise(model, profile)


def _rank_units(wide: Array, weights: Array) -> Array:
    contribution = wide.astype(np.float64).std(axis=0) * np.linalg.norm(weights, axis=1)
    order: Array = np.argsort(-contribution, kind="stable")
    return order


def _refit(narrow: Array, target: Array) -> tuple[Array, Array]:
    """Give weights and bias that come nearest to the target."""
    mean, centre = narrow.mean(axis=0), target.mean(axis=0)
    moved = narrow - mean
    gram = moved.T @ moved
    gram[np.diag_indices_from(gram)] += _RIDGE * max(1e-12, float(np.trace(gram)))
    weights = np.linalg.solve(gram, moved.T @ (target - centre))
    return weights, centre - mean @ weights


def _activate(
    model: ModelProto, layers: list[_Dense], layer: _Dense, rows: Array, profile: DeviceProfile
) -> Array:
    """Give the output of a layer in the graph as it now is."""
    changed = ModelProto()
    changed.CopyFrom(model)
    _rewrite(changed.graph, layers)
    narrow: Array = watch_tensors(changed, [layer.output], rows, profile)[0].astype(np.float64)
    return narrow


def _find_layers(graph: GraphProto) -> list[_Dense]:
    """Find products with a constant, in order, whose bias and activation nobody else reads."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    for value in graph.output:
        readers.setdefault(value.name, []).append(-1)
    layers = []
    for place, node in enumerate(graph.node):
        dense = _read_product(node, place, constants)
        if dense is None:
            continue
        while len(readers.get(dense.output, [])) == 1 and readers[dense.output][0] >= 0:
            at = readers[dense.output][0]
            reader = graph.node[at]
            if not _take_in(dense, reader, constants):
                break
            dense.output = reader.output[0]
            dense.places.append(at)
            if dense.activation is not None:
                break
        layers.append(dense)
    return layers


def _read_product(node: NodeProto, place: int, constants: dict[str, TensorProto]) -> _Dense | None:
    if node.domain or node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
        return None
    weights = numpy_helper.to_array(constants[node.input[1]])
    if weights.dtype != np.float32 or weights.ndim != 2:
        return None
    weights = weights.astype(np.float64)
    bias = np.zeros(weights.shape[1])
    if node.op_type == "Gemm":
        found = {
            attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute
        }
        if found.get("transA") or found.get("alpha", 1.0) != 1 or found.get("beta", 1.0) != 1:
            return None
        weights = weights.T if found.get("transB") else weights
        bias = np.zeros(weights.shape[1])
        if len(node.input) > 2:
            if node.input[2] not in constants:
                return None
            bias = bias + numpy_helper.to_array(constants[node.input[2]]).reshape(-1)
    return _Dense(
        weights=weights,
        bias=bias,
        places=[place],
        takes=node.input[0],
        output=node.output[0],
    )


def _take_in(dense: _Dense, node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Let a layer take in the bias or activation that follows it."""
    if node.domain:
        return False
    if node.op_type in _ACTIVATIONS:
        dense.activation = node
        return True
    if node.op_type != "Add":
        return False
    other = next((name for name in node.input if name in constants), "")
    if not other:
        return False
    bias = numpy_helper.to_array(constants[other])
    if bias.dtype != np.float32 or bias.size not in (1, len(dense.bias)) or bias.ndim > 2:
        return False
    dense.bias = dense.bias + bias.reshape(-1)
    return True


def _find_hidden(layers: list[_Dense]) -> list[tuple[_Dense, _Dense]]:
    """Give each hidden layer with the one it alone feeds."""
    by_input = {layer.takes: layer for layer in layers}
    return [
        (layer, by_input[layer.output])
        for layer in layers
        if layer.activation is not None
        and layer.output in by_input
        and layer.weights.shape[1] > UNITS_MIN
    ]


def _rewrite(graph: GraphProto, layers: list[_Dense]) -> None:
    """Write the changed layers as one product, one bias and their activation each."""
    written: dict[int, list[NodeProto]] = {}
    for number, layer in enumerate(layers):
        if not layer.is_changed:
            continue
        weights, bias, product, total = (
            f"{kind}_narrow_{number}" for kind in ("weights", "bias", "product", "sum")
        )
        for name, values in ((weights, layer.weights), (bias, layer.bias)):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        end = layer.output if layer.activation is None else total
        nodes = [
            helper.make_node("MatMul", [layer.takes, weights], [product]),
            helper.make_node("Add", [product, bias], [end]),
        ]
        if layer.activation is not None:
            activation = NodeProto()
            activation.CopyFrom(layer.activation)
            activation.input[0], activation.output[0] = total, layer.output
            nodes.append(activation)
        written |= {place: [] for place in layer.places}
        written[layer.places[-1]] = nodes
    nodes = [node for place, old in enumerate(graph.node) for node in written.get(place, [old])]
    del graph.node[:]
    graph.node.extend(nodes)
