"""Small edits and questions on an ONNX graph, used by every step that changes one.

Names are renamed inside subgraphs too. Nothing here decides anything.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from converters.errors import InvalidRequestError
from edge_agent.contract.errors import ContractError
from edge_agent.contract.onnx_check import check_onnx

ML_DOMAIN = "ai.onnx.ml"


def parse_foreign(content: bytes, *, what: str) -> ModelProto:
    """Read a graph from outside: checked byte by byte before any library makes a model of it.

    Raises:
        InvalidRequestError: Not an ONNX model, or one that no runtime shall be shown.
    """
    try:
        check_onnx(content)
    except ContractError as error:
        reason = str(error).removeprefix("model.onnx: ").replace("model.onnx", "it", 1)
        raise InvalidRequestError(f"{what} is refused: {reason}") from error
    return parse_model(content, what=what)


def parse_model(content: bytes, *, what: str) -> ModelProto:
    """Read a graph from bytes.

    Raises:
        InvalidRequestError: Not an ONNX model.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf raises its own, undeclared classes
        raise InvalidRequestError(f"{what} is not an ONNX model: {error}") from error
    if not model.graph.node:
        raise InvalidRequestError(f"{what} is not an ONNX model: it has no nodes")
    return model


def iterate_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Give a graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from iterate_graphs(attribute.g)
            for inner in attribute.graphs:
                yield from iterate_graphs(inner)


def iterate_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Give every node, those of inner graphs and functions included."""
    for graph in iterate_graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def count_operators(model: ModelProto) -> dict[str, int]:
    """Count nodes by operator, the domain before it where it is not ``ai.onnx``; sorted."""
    counts = Counter(
        f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        for node in iterate_nodes(model)
    )
    return dict(sorted(counts.items()))


def find_opset(model: ModelProto, domain: str) -> int:
    """Tell the imported version of an operator set, 0 when it is not imported."""
    versions = [entry.version for entry in model.opset_import if entry.domain == domain]
    return max(versions, default=0)


def set_opset(model: ModelProto, domain: str, version_min: int) -> None:
    """Import an operator set at ``version_min`` or what is newer already."""
    replace_opset(model, domain, max(version_min, find_opset(model, domain)))


def replace_opset(model: ModelProto, domain: str, version: int) -> None:
    """Import an operator set at this version and no other; 0 imports it no more."""
    kept = [(entry.domain, entry.version) for entry in model.opset_import if entry.domain != domain]
    del model.opset_import[:]
    for name, number in [*kept, *([(domain, version)] if version else [])]:
        model.opset_import.append(onnx.helper.make_opsetid(name, number))


def list_input_names(graph: GraphProto) -> list[str]:
    """Name the inputs that a caller must feed."""
    initialised = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in initialised]


def tensor_type(graph: GraphProto, name: str) -> int:
    """Give the element type of a graph input or output, 0 when it is not a tensor."""
    for value in (*graph.input, *graph.output):
        if value.name == name:
            return value.type.tensor_type.elem_type
    return 0


def tensor_shape(graph: GraphProto, name: str) -> tuple[int | None, ...]:
    """Give the declared shape of a graph input or output; None where it is open."""
    for value in (*graph.input, *graph.output):
        if value.name == name:
            dimensions = value.type.tensor_type.shape.dim
            return tuple(d.dim_value if d.dim_value > 0 else None for d in dimensions)
    return ()


def rename_tensor(model: ModelProto, old: str, new: str) -> None:
    """Rename a tensor everywhere; one that has the new name already makes room."""
    if old == new:
        return
    free_name(model, new)
    _rename(model.graph, old, new)


def free_name(model: ModelProto, name: str) -> None:
    """Move a tensor of this name aside, if there is one."""
    if name in _all_tensor_names(model.graph):
        _rename(model.graph, name, fresh_name(model, f"{name}_inner"))


def fresh_name(model: ModelProto, wanted: str) -> str:
    """Give a tensor name that is not taken: the wanted one, or that with underscores."""
    names = _all_tensor_names(model.graph)
    while wanted in names:
        wanted += "_"
    return wanted


def name_by_place(model: ModelProto) -> None:
    """Name inner tensors and nodes by where they first occur: exporters draw some at random."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    names: dict[str, str] = {name: name for name in kept}
    for number, node in enumerate(iterate_nodes(model)):
        node.name = f"n{number}"
    for graph in iterate_graphs(model.graph):
        for old in _names_in_order(graph):
            if old not in names:
                names[old] = _next_name(names, kept)
    for graph in iterate_graphs(model.graph):
        for value in (*graph.input, *graph.output):
            value.name = names[value.name]
        for tensor in graph.initializer:
            tensor.name = names[tensor.name]
        for node in graph.node:
            for ends in (node.input, node.output):
                for place, old in enumerate(ends):
                    ends[place] = names[old]


def drop_unused_initializers(model: ModelProto) -> None:
    """Remove constants that no node reads."""
    read = {name for node in iterate_nodes(model) for name in node.input}
    for graph in iterate_graphs(model.graph):
        read.update(value.name for value in graph.output)
    for graph in iterate_graphs(model.graph):
        used = [tensor for tensor in graph.initializer if tensor.name in read]
        if len(used) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(used)


def find_producer(graph: GraphProto, tensor: str) -> str:
    """Name the operator that makes a tensor; empty when it is an input or constant."""
    return next((node.op_type for node in graph.node if tensor in node.output), "")


def set_outputs(model: ModelProto, outputs: Sequence[tuple[str, int, Sequence[int | str]]]) -> None:
    """Declare the outputs: name, element type and shape of each."""
    del model.graph.output[:]
    for name, element, shape in outputs:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, element, shape))


def _all_tensor_names(graph: GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in iterate_graphs(graph):
        names.update(value.name for value in (*inner.input, *inner.output, *inner.value_info))
        names.update(tensor.name for tensor in inner.initializer)
        for node in inner.node:
            names.update(node.input)
            names.update(node.output)
    return names


def _names_in_order(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        yield from node.output
    yield from (value.name for value in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)


def _next_name(names: dict[str, str], kept: set[str]) -> str:
    number = len(names) - len(kept)
    while f"t{number}" in kept:
        number += len(names)
    return f"t{number}"


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for inner in iterate_graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info):
            if value.name == old:
                value.name = new
        for tensor in inner.initializer:
            if tensor.name == old:
                tensor.name = new
        for node in inner.node:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == old:
                        names[position] = new
