"""Put graphs that read the same rows side by side in one, what they have in common once.

The graphs of the labels of one model begin alike where they share steps before the last: a
constant or a node of the same operator, attributes and inputs is kept once. Nodes with graphs
inside and those that draw by chance stay as many as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, numpy_helper

from converters.graph import find_opset, list_input_names
from converters.opsets import bring_up

_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_BY_CHANCE = ("Random", "Multinomial", "Bernoulli", "Dropout")


def merge_graphs(models: Sequence[ModelProto]) -> tuple[ModelProto, list[list[str]]]:
    """Merge models of one input of the same name.

    Returns:
        The merged model, without outputs, and for each model the names of its outputs in it.
    """
    newest = max(find_opset(model, "") for model in models)
    raised = [
        model if find_opset(model, "") == newest else bring_up(model, newest) for model in models
    ]
    merged = ModelProto()
    merged.ir_version = max(model.ir_version for model in raised)
    merged.producer_name = raised[0].producer_name
    versions = dict[str, int]()
    for model in raised:
        for opset in model.opset_import:
            versions[opset.domain] = max(opset.version, versions.get(opset.domain, 0))
    merged.opset_import.extend(onnx.helper.make_opsetid(*one) for one in sorted(versions.items()))
    merged.graph.name = "labels"
    merged.graph.input.extend(raised[0].graph.input)
    pool = _Pool(merged.graph)
    outputs = []
    for number, model in enumerate(raised):
        own = onnx.compose.add_prefix(model, f"part{number}_", rename_inputs=False)
        if list_input_names(own.graph) != list_input_names(merged.graph):
            raise ValueError(f"part {number} reads {list_input_names(own.graph)}")
        outputs.append(pool.add(own.graph))
    return merged, outputs


class _Pool:
    """Constants and nodes of one graph, by what they are."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._constants: dict[tuple[object, ...], str] = {}
        self._nodes: dict[tuple[object, ...], list[str]] = {}

    def add(self, graph: GraphProto) -> list[str]:
        """Take a graph's constants and nodes over; gives the names of its outputs."""
        kept: dict[str, str] = {}
        for constant in graph.initializer:
            array = numpy_helper.to_array(constant)
            same = (constant.data_type, array.shape, _content_of(constant, array))
            kept[constant.name] = self._constants.setdefault(same, constant.name)
            if kept[constant.name] == constant.name:
                self._graph.initializer.append(constant)
        for node in graph.node:
            _rename(node, kept)
            key = _key_of(node)
            known = self._nodes.get(key) if key else None
            if known is None:
                self._graph.node.append(node)
                if key:
                    self._nodes[key] = list(node.output)
                continue
            kept |= dict(zip(node.output, known, strict=True))
        return [kept.get(output.name, output.name) for output in graph.output]


def _content_of(constant: onnx.TensorProto, array: NDArray[Any]) -> bytes | tuple[bytes, ...]:
    if constant.data_type == onnx.TensorProto.STRING:
        return tuple(constant.string_data)
    return array.tobytes()


def _rename(node: NodeProto, kept: Mapping[str, str]) -> None:
    for place, name in enumerate(node.input):
        node.input[place] = kept.get(name, name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for one in inner.node:
                _rename(one, kept)


def _key_of(node: NodeProto) -> tuple[object, ...]:
    """Say what a node is; empty for one that is never the same as another."""
    if any(attribute.type in _GRAPHS for attribute in node.attribute):
        return ()
    if node.op_type.startswith(_BY_CHANCE):
        return ()
    attributes = sorted(one.SerializeToString(deterministic=True) for one in node.attribute)
    shape = tuple(bool(name) for name in node.output)
    return (node.domain, node.op_type, tuple(node.input), tuple(attributes), shape)
