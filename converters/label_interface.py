"""Give a graph of several labels the outputs of the package contract.

``label`` int64 [N, labels], each an index into the classes of its own label, and ``probabilities``
float32 [N, classes of all labels], label by label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converters.graph import free_name, fresh_name, rename_tensor, set_outputs
from converters.interface import LABEL, PROBABILITIES
from edge_agent.contract.outputs import NamedLabel, slice_labels


@dataclass(frozen=True, slots=True)
class LabelTensors:
    """Tensors of one label: its index int64 [N, 1] and its probabilities float32 [N, classes]."""

    label: str
    probabilities: str


def take_labels(
    model: ModelProto,
    shares: str,
    labels: Sequence[NamedLabel],
    *,
    is_positive: bool,
    is_logits: bool = False,
) -> list[LabelTensors]:
    """Take each label out of one tensor of probabilities; the largest one is the label.

    Args:
        model: Appended to, in place.
        shares: float32 [N, classes of all labels], or [N, labels] of labels of two classes.
        labels: In the order of the columns.
        is_positive: Whether a column is the second class of a label, which has two.
        is_logits: Whether a softmax over the classes of a label makes its probabilities.
    """
    if is_positive:
        one, other = fresh_name(model, "one"), fresh_name(model, "other_shares")
        _add_constant(model, one, np.array(1, np.float32))
        model.graph.node.append(helper.make_node("Sub", [one, shares], [other]))
    taken = []
    for place, columns in enumerate(slice_labels(labels)):
        name = fresh_name(model, f"shares_{place}")
        if is_positive:
            pair = [_pick(model, source, [place], name) for source in (other, shares)]
            model.graph.node.append(helper.make_node("Concat", pair, [name], axis=1))
        else:
            picked = _pick(model, shares, list(range(columns.start, columns.stop)), name)
            if is_logits:
                model.graph.node.append(helper.make_node("Softmax", [picked], [name], axis=1))
            else:
                name = picked
        best = fresh_name(model, f"label_{place}")
        model.graph.node.append(helper.make_node("ArgMax", [name], [best], axis=1, keepdims=1))
        taken.append(LabelTensors(best, name))
    return taken


def join_labels(
    model: ModelProto, taken: Sequence[LabelTensors], labels: Sequence[NamedLabel], own: str = ""
) -> None:
    """Make the outputs of the contract of the tensors of each label.

    Args:
        model: Changed in place.
        taken: In the order of the schema.
        labels: Of the schema.
        own: The graph's own labels, int64 [N, labels], where it has some.
    """
    source = own
    if own in (LABEL, PROBABILITIES):
        source = fresh_name(model, "own_labels")
        rename_tensor(model, own, source)
    shares = [one.probabilities for one in taken]
    for name in (LABEL, PROBABILITIES):
        if name in shares:
            raise ValueError(f"tensor {name!r} is in the way of the output of that name")
        free_name(model, name)
    indexes = [source] if own else [one.label for one in taken]
    model.graph.node.extend(
        [
            helper.make_node("Concat", indexes, [LABEL], axis=1),
            helper.make_node("Concat", shares, [PROBABILITIES], axis=1),
        ]
    )
    declare_labels(model, labels)


def declare_labels(model: ModelProto, labels: Sequence[NamedLabel]) -> None:
    """Declare the two outputs, whose tensors are there."""
    classes = sum(len(label.classes) for label in labels)
    set_outputs(
        model,
        [
            (LABEL, TensorProto.INT64, ["N", len(labels)]),
            (PROBABILITIES, TensorProto.FLOAT, ["N", classes]),
        ],
    )


def make_column(model: ModelProto, name: str) -> str:
    """Make [N, 1] of [N]; returns the new tensor's name."""
    column, sizes = fresh_name(model, f"{name}_column"), fresh_name(model, f"{name}_sizes")
    _add_constant(model, sizes, np.array([-1, 1], np.int64))
    model.graph.node.append(helper.make_node("Reshape", [name, sizes], [column]))
    return column


def _pick(model: ModelProto, source: str, columns: list[int], name: str) -> str:
    """Take columns of a table: gathered, which every operator set can."""
    picked, places = fresh_name(model, f"{name}_picked"), fresh_name(model, f"{name}_places")
    _add_constant(model, places, np.array(columns, np.int64))
    model.graph.node.append(helper.make_node("Gather", [source, places], [picked], axis=1))
    return picked


def _add_constant(model: ModelProto, name: str, value: NDArray[Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
