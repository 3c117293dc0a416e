"""Take out of a graph what no answer depends on: dead nodes, identities, repeated small constants.

Only changes that keep every bit of every output: a node is bypassed when it hands its input on as
it is (``Identity``, ``Dropout`` outside training, a second equal ``Cast``), dropped when nothing
reads it, a constant written as a node becomes an initializer. Floating-point constants are never
merged: a quantizer gives each reader its own scale.
"""

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from converters.graph import drop_unused_initializers, iterate_graphs, iterate_nodes

_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


def simplify(model: ModelProto) -> None:
    """Simplify in place until nothing changes."""
    _lift_constants(model.graph)
    _bypass(model)
    while _drop_dead(model):
        pass
    _merge_equal_integers(model)
    drop_unused_initializers(model)


def _lift_constants(graph: GraphProto) -> None:
    """Turn ``Constant`` nodes that hold a tensor into initializers."""
    kept = []
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        tensor = _constant_of(node)
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        lifted = TensorProto()
        lifted.CopyFrom(tensor)
        lifted.name = node.output[0]
        graph.initializer.append(lifted)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _constant_of(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    is_tensor = attribute.name == "value" and attribute.type == AttributeProto.TENSOR
    return attribute.t if is_tensor else None


def _bypass(model: ModelProto) -> None:
    """Bypass every node of the main graph that hands its input on."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    read = _read_names(model)
    producers: dict[str, NodeProto] = {}
    instead: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
        if node.output and node.output[0] not in outputs and _hands_on(node, producers, read):
            instead[node.output[0]] = node.input[0]
            continue
        producers.update((name, node) for name in node.output)
        kept.append(node)
    for node in [node for node in kept if node.op_type == "Identity" and not node.domain]:
        before, after = instead.get(node.input[0], node.input[0]), node.output[0]
        made = producers.get(before)
        if made is None or made is node or before in outputs:
            continue
        made.output[list(made.output).index(before)] = after
        producers[after] = made
        instead[before] = after
        kept.remove(node)
    if instead:
        del graph.node[:]
        graph.node.extend(kept)
        _read_instead(model, instead)


def _hands_on(node: NodeProto, producers: dict[str, NodeProto], read: set[str]) -> bool:
    if node.domain:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        mask_is_read = len(node.output) > 1 and node.output[1] in read
        return len(node.input) < 3 and not mask_is_read
    if node.op_type == "Cast":
        before = producers.get(node.input[0])
        return before is not None and before.op_type == "Cast" and _target(before) == _target(node)
    return False


def _target(cast: NodeProto) -> list[tuple[str, int]]:
    return sorted((attribute.name, attribute.i) for attribute in cast.attribute)


def _read_names(model: ModelProto) -> set[str]:
    read = {name for node in iterate_nodes(model) for name in node.input}
    for graph in iterate_graphs(model.graph):
        read.update(value.name for value in graph.output)
    return read


def _read_instead(model: ModelProto, instead: dict[str, str]) -> None:
    """Let readers of some tensors read others; inner graphs see the names of outer ones."""

    def follow(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    for node in iterate_nodes(model):
        for place, name in enumerate(node.input):
            node.input[place] = follow(name)
    for graph in iterate_graphs(model.graph):
        if graph is not model.graph:
            for value in graph.output:
                value.name = follow(value.name)


def _drop_dead(model: ModelProto) -> bool:
    """Drop nodes that nobody reads; tell whether there was one."""
    read = _read_names(model)
    found = False
    for graph in iterate_graphs(model.graph):
        alive = [node for node in graph.node if any(name in read for name in node.output if name)]
        if len(alive) < len(graph.node):
            found = True
            del graph.node[:]
            graph.node.extend(alive)
    return found


def _merge_equal_integers(model: ModelProto) -> None:
    """Keep one of several equal integer constants: shapes, axes and the like."""
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    for tensor in list(model.graph.initializer):
        if tensor.data_type not in _INTEGERS or tensor.data_location == TensorProto.EXTERNAL:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        key = repr((tensor.data_type, array.shape)).encode() + array.tobytes()
        same = first.setdefault(key, tensor.name)
        if same != tensor.name:
            instead[tensor.name] = same
    _read_instead(model, instead)
