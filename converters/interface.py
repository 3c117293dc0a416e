"""Give a graph the input and outputs of the package contract.

One float32 input ``features`` [N, width]. A classification answers ``label`` int64 [N], an index
from 0, and ``probabilities`` float32 [N, classes]; a regression answers ``value`` float32 [N], or
[N, targets] where the schema names targets.
Whatever labels the source had are mapped to their index inside the graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from converters.errors import InvalidRequestError
from converters.graph import (
    ML_DOMAIN,
    find_producer,
    free_name,
    fresh_name,
    list_input_names,
    rename_tensor,
    set_opset,
    set_outputs,
    tensor_shape,
    tensor_type,
)
from edge_agent.contract.schema import INPUT_NAME, ModelSchema, Role, Task

LABEL, PROBABILITIES, VALUE = str(Role.LABEL), str(Role.PROBABILITIES), str(Role.VALUE)
_LABEL_ENCODER_OPSET_ML = 2


def check_schema(schema: ModelSchema) -> None:
    """Check that a schema declares exactly the outputs of its task.

    Raises:
        InvalidRequestError: Other outputs, or classes that do not fit the task.
    """
    named = [(output.name, output.role) for output in schema.outputs]
    wanted = [
        (str(role), role)
        for role in (
            (Role.LABEL, Role.PROBABILITIES)
            if schema.task is Task.CLASSIFICATION
            else (Role.VALUE,)
        )
    ]
    if named != wanted:
        names = ", ".join(name for name, _ in wanted)
        raise InvalidRequestError(f"a {schema.task} schema has the outputs {names}, in this order")
    if schema.labels:
        return
    if (schema.task is Task.CLASSIFICATION) != (len(schema.classes) >= 2):
        raise InvalidRequestError(
            f"a {schema.task} schema has {len(schema.classes)} classes:"
            " a classification needs 2 or more, a regression none"
        )


def set_input(model: ModelProto, width: int) -> None:
    """Name the only input ``features`` and declare it float32 [N, width].

    Raises:
        InvalidRequestError: Several inputs, another type or another width.
    """
    names = list_input_names(model.graph)
    if len(names) != 1:
        raise InvalidRequestError(f"the graph has {len(names)} inputs, needs one packed tensor")
    name = names[0]
    element = tensor_type(model.graph, name)
    if element != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(element).lower() if element else "no tensor"
        raise InvalidRequestError(
            f"input {name!r} of the graph is not float32 but {found}; rows travel as float32:"
            " export the model with such an input"
        )
    shape = tensor_shape(model.graph, name)
    if len(shape) != 2 or shape[0] is not None or shape[1] not in (None, width):
        declared = [size if size is not None else "N" for size in shape]
        raise InvalidRequestError(
            f"input {name!r} of the graph has shape {declared}, the schema needs ['N', {width}];"
            " export it for an open number of packed rows, or use --pictures for pixels"
        )
    rename_tensor(model, name, INPUT_NAME)
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", width])
    )


def prepend_cast_to_double(model: ModelProto) -> None:
    """Feed a float64 graph from float32: the widening is exact."""
    name = list_input_names(model.graph)[0]
    rename_tensor(model, name, "features_f64")
    cast = onnx.helper.make_node("Cast", [INPUT_NAME], ["features_f64"], to=TensorProto.DOUBLE)
    nodes = [cast, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", None])
    )


def unpack_rows(model: ModelProto, width: int, shape: tuple[int, ...]) -> None:
    """Feed a graph of [N, *shape] from packed rows [N, width], in place."""
    name = list_input_names(model.graph)[0]
    rename_tensor(model, name, "unpacked_rows")
    sizes = fresh_name(model, "sizes_of_rows")
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([-1, *shape], np.int64), sizes)
    )
    nodes = [
        onnx.helper.make_node("Reshape", [INPUT_NAME, sizes], ["unpacked_rows"]),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", width])
    )


def finish_classifier(
    model: ModelProto, label: str, probabilities: str, classes: Sequence[Any]
) -> None:
    """Name the outputs of a classifier and turn its labels into indexes.

    Args:
        model: Changed in place.
        label: Output that holds the source's labels, [N].
        probabilities: Output that holds a column a class.
        classes: The source's labels in the order of the columns: integers, booleans or texts.
    """
    rename_tensor(model, probabilities, PROBABILITIES)
    _index_label(model, label, classes)
    _declare_classifier(model, len(classes))


def add_label_from_probabilities(model: ModelProto, probabilities: str) -> str:
    """Append the index of the largest probability; returns the new tensor's name."""
    label = fresh_name(model, "argmax_label")
    model.graph.node.append(
        onnx.helper.make_node("ArgMax", [probabilities], [label], axis=1, keepdims=0)
    )
    return label


def _index_label(model: ModelProto, label: str, classes: Sequence[Any]) -> None:
    """Turn the source's labels into their indexes, under the name of the contract."""
    values = np.asarray(classes)
    if values.dtype == np.bool_ or np.issubdtype(values.dtype, np.number):
        keys: list[Any] = [int(value) for value in values]
        key_attribute: dict[str, Any] = {"keys_int64s": keys}
    else:
        keys = [str(value) for value in values]
        key_attribute = {"keys_strings": keys}
    label = _flatten_picked_label(model, label)
    if keys == list(range(len(keys))):
        rename_tensor(model, label, LABEL)
        return
    source = fresh_name(model, "source_label")
    rename_tensor(model, label, source)
    free_name(model, LABEL)
    model.graph.node.append(
        onnx.helper.make_node(
            "LabelEncoder",
            [source],
            [LABEL],
            domain=ML_DOMAIN,
            values_int64s=list(range(len(keys))),
            default_int64=-1,
            **key_attribute,
        )
    )
    set_opset(model, ML_DOMAIN, _LABEL_ENCODER_OPSET_ML)


def _declare_classifier(model: ModelProto, classes: int) -> None:
    set_outputs(
        model,
        [(LABEL, TensorProto.INT64, ["N"]), (PROBABILITIES, TensorProto.FLOAT, ["N", classes])],
    )


def _flatten_picked_label(model: ModelProto, label: str) -> str:
    """Make [N] of the [1, N] that picking labels from a list gives, or of [N, 1]."""
    is_picked = find_producer(model.graph, label) == "ArrayFeatureExtractor"
    if not is_picked and len(tensor_shape(model.graph, label)) < 2:
        return label
    return _flatten(model, label)


def _flatten(model: ModelProto, label: str) -> str:
    flat, shape = fresh_name(model, "flat_label"), fresh_name(model, "label_shape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), shape))
    model.graph.node.append(onnx.helper.make_node("Reshape", [label, shape], [flat]))
    return flat


def finish_regressor(model: ModelProto, value: str, targets: int = 0) -> None:
    """Name the only output of a regressor ``value`` and give it the contract's shape.

    Args:
        model: Changed in place.
        value: The output; of several targets its numbers are row-major, whatever it declares.
        targets: Columns of the schema's value; 0 for one number a row, [N].
    """
    sizes = [-1, targets] if targets else [-1]
    if not targets and tensor_shape(model.graph, value) == (None,):
        rename_tensor(model, value, VALUE)
    else:
        source = fresh_name(model, "source_value")
        rename_tensor(model, value, source)
        free_name(model, VALUE)
        shape = fresh_name(model, "value_shape")
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(sizes, np.int64), shape)
        )
        model.graph.node.append(onnx.helper.make_node("Reshape", [source, shape], [VALUE]))
    set_outputs(model, [(VALUE, TensorProto.FLOAT, ["N", *sizes[1:]])])


def cast_to_float(model: ModelProto, name: str) -> str:
    """Round an output to float32, whatever it is; returns the new tensor's name."""
    rounded = fresh_name(model, f"{name}_f32")
    model.graph.node.append(onnx.helper.make_node("Cast", [name], [rounded], to=TensorProto.FLOAT))
    return rounded


def finish_label_only(model: ModelProto, label: str, classes: Sequence[Any]) -> None:
    """Name the labels of a classifier that has no probabilities and say them as such: 1 and 0."""
    free_name(model, PROBABILITIES)
    _index_label(model, _flatten(model, label), classes)
    known, row = fresh_name(model, "known_classes"), fresh_name(model, "one_column")
    column, hit = fresh_name(model, "label_column"), fresh_name(model, "is_label")
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.arange(len(classes), dtype=np.int64), known),
            onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), row),
        ]
    )
    model.graph.node.extend(
        [
            onnx.helper.make_node("Reshape", [LABEL, row], [column]),
            onnx.helper.make_node("Equal", [column, known], [hit]),
            onnx.helper.make_node("Cast", [hit], [PROBABILITIES], to=TensorProto.FLOAT),
        ]
    )
    _declare_classifier(model, len(classes))


def decide_by_threshold(model: ModelProto, positive: int, threshold: float) -> None:
    """Let a threshold on one class's probability choose the label of two.

    Args:
        model: Finished as a classifier of two classes; changed in place.
        positive: Index of the class the threshold is for.
        threshold: Float64 of the source; the graph compares with the next float32 at or above it,
            which asks float32 probabilities the same question.
    """
    limit = np.float32(threshold)
    if float(limit) < threshold:
        limit = np.nextafter(limit, np.float32(np.inf))
    former = fresh_name(model, "label_by_vote")
    rename_tensor(model, LABEL, former)
    names = [fresh_name(model, f"threshold_{n}") for n in ("place", "limit", "yes", "no")]
    values: list[Any] = [
        np.array(positive, np.int64),
        np.array(limit, np.float32),
        np.array(positive, np.int64),
        np.array(1 - positive, np.int64),
    ]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True)
    )
    one, is_above = fresh_name(model, "positive_probability"), fresh_name(model, "is_above")
    place, bound, yes, no = names
    model.graph.node.extend(
        [
            onnx.helper.make_node("Gather", [PROBABILITIES, place], [one], axis=1),
            onnx.helper.make_node("GreaterOrEqual", [one, bound], [is_above]),
            onnx.helper.make_node("Where", [is_above, yes, no], [LABEL]),
        ]
    )
    _declare_classifier(model, 2)
