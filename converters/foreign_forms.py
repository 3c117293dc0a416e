"""Bring a foreign graph's inputs and outputs to tensors of float32 and whole numbers.

sklearn-onnx ends classifiers with a ZipMap (a sequence of maps) and gives labels as texts where
they were texts; other tools feed float16 or float64. What such a graph computes stays: the map is
taken off, what is not float32 is cast, and labels that are no class indexes go, since the highest
probability says the same.
"""

from onnx import ModelProto, NodeProto, TensorProto, helper

from converters.graph import (
    ML_DOMAIN,
    find_opset,
    fresh_name,
    list_input_names,
    rename_tensor,
    tensor_type,
)

_FLOATS = (TensorProto.FLOAT16, TensorProto.DOUBLE)
_STRINGS, _INTEGERS = "classlabels_strings", "classlabels_int64s"


def straighten(model: ModelProto) -> tuple[str, ...]:
    """Change a graph in place; give the classes that it names, empty when it names none."""
    _cast_input(model)
    classes = _drop_maps(model)
    for output in list(model.graph.output):
        kind = output.type.tensor_type.elem_type
        if kind == TensorProto.STRING:
            model.graph.output.remove(output)
            classes = classes or _find_texts(model)
        elif kind in _FLOATS:
            _cast_output(model, output.name, TensorProto.FLOAT)
        elif kind == TensorProto.INT32:
            _cast_output(model, output.name, TensorProto.INT64)
    is_indexed = classes == tuple(str(place) for place in range(len(classes)))
    if classes and not is_indexed:
        for output in list(model.graph.output):
            if output.type.tensor_type.elem_type == TensorProto.INT64:
                model.graph.output.remove(output)
    return classes


def _cast_input(model: ModelProto) -> None:
    names = list_input_names(model.graph)
    kind = tensor_type(model.graph, names[0]) if len(names) == 1 else 0
    if kind not in _FLOATS or find_opset(model, "") == 0:
        return
    name = names[0]
    inner = fresh_name(model, f"{name}_as_it_was")
    rename_tensor(model, name, inner)
    cast = helper.make_node("Cast", [name], [inner], to=kind)
    model.graph.node.insert(0, cast)
    for one in model.graph.input:
        if one.name == inner:
            one.name = name
            one.type.tensor_type.elem_type = TensorProto.FLOAT


def _cast_output(model: ModelProto, name: str, kind: int) -> None:
    inner = fresh_name(model, f"{name}_as_it_was")
    rename_tensor(model, name, inner)
    model.graph.node.append(helper.make_node("Cast", [inner], [name], to=kind))
    for one in model.graph.output:
        if one.name == inner:
            one.name = name
            one.type.tensor_type.elem_type = kind


def _drop_maps(model: ModelProto) -> tuple[str, ...]:
    """Answer what each ZipMap reads in its place."""
    classes: tuple[str, ...] = ()
    outputs = {output.name: output for output in model.graph.output}
    for node in list(model.graph.node):
        is_map = node.domain == ML_DOMAIN and node.op_type == "ZipMap"
        if not is_map or node.output[0] not in outputs:
            continue
        classes = _read_classes(node)
        model.graph.output.remove(outputs[node.output[0]])
        model.graph.node.remove(node)
        if node.input[0] not in outputs:
            told = fresh_name(model, "zipmap_probabilities")
            cast = helper.make_node("Cast", [node.input[0]], [told], to=TensorProto.FLOAT)
            model.graph.node.append(cast)
            shape: list[str | int | None] = ["N", len(classes)]
            value = helper.make_tensor_value_info(told, TensorProto.FLOAT, shape)
            model.graph.output.append(value)
    return classes


def _read_classes(node: NodeProto) -> tuple[str, ...]:
    for attribute in node.attribute:
        if attribute.name == _STRINGS and attribute.strings:
            return tuple(one.decode(errors="replace") for one in attribute.strings)
        if attribute.name == _INTEGERS and attribute.ints:
            return tuple(str(one) for one in attribute.ints)
    return ()


def _find_texts(model: ModelProto) -> tuple[str, ...]:
    """Find the texts of labels: of a classifier's attribute, or the only constant of texts."""
    for node in model.graph.node:
        found = _read_classes(node)
        if found:
            return found
    texts = [one for one in model.graph.initializer if one.data_type == TensorProto.STRING]
    if len(texts) != 1:
        return ()
    return tuple(one.decode(errors="replace") for one in texts[0].string_data)
