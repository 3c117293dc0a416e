"""Find which channels of a network may be dropped together, and every constant that counts them.

A group is what one convolution or dense layer makes, followed through whatever keeps channels apart
(activations, pooling, normalisation, depthwise convolutions, constants a channel, flattening) to
the layers that read it. Sums and products of two groups make them one: a residual drops the same
channels on both sides. What is not understood pins the group, with the reason. Pure.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from converters.channel_groups import Cut, Group, Reader, read_attribute
from converters.graph import iterate_graphs

Array = NDArray[Any]
MATRIX = 2
"""Rank of a tensor of rows; convolutions make tensors of rank 3 and more."""
_ALONE = frozenset(
    {
        *("Abs", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Selu", "Sigmoid"),
        *("Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    }
)
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"})
_PAIRS = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub"})
_SHAPERS = _POOLS | {"Flatten", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Squeeze"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """How a tensor carries a group: its rank (0 unknown, channels last) and the block, if known."""

    group: int
    rank: int
    block: int | None = 1

    @property
    def axis_from_end(self) -> int:
        return self.rank - 1 if self.rank > MATRIX else 1


def find_groups(model: ModelProto) -> dict[int, Group]:
    """Give the groups of a graph by number, in the order in which they are made."""
    if len(list(iterate_graphs(model.graph))) > 1:
        return {}
    walk = _Walk(model)
    for place, node in enumerate(model.graph.node):
        walk.visit(place, node)
    for value in model.graph.output:
        walk.pin(value.name, "the graph answers it")
    return walk.merge()


class _Walk:
    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._infer_sizes = lru_cache(maxsize=1)(lambda: _infer_sizes(model))
        self._labels: dict[str, _Label] = {}
        self._groups: list[Group] = []
        self._parents: list[int] = []

    def visit(self, place: int, node: NodeProto) -> None:
        """Follow the channels through one node."""
        known = not node.domain and len(node.output) == 1
        done = known and (
            self._through_layer(place, node)
            or self._through_shape(place, node)
            or self._through_numbers(node)
        )
        if not done:
            for name in node.input:
                self.pin(name, f"{node.op_type} reads it")

    def pin(self, tensor: str, why: str) -> None:
        """Keep what a tensor carries."""
        if tensor in self._labels:
            group = self._groups[self._root(self._labels[tensor].group)]
            group.pinned = group.pinned or why

    def merge(self) -> dict[int, Group]:
        """Give the groups that are left, those summed up with others inside them."""
        found = {}
        for number, group in enumerate(self._groups):
            if self._root(number) == number:
                readers = [replace(one, makes=self._root(one.makes)) for one in group.readers]
                group.readers = sorted(readers, key=lambda one: one.place)
                shared = [c.tensor for c in group.cuts if self._uses[c.tensor] > 1]
                if shared and not group.pinned:
                    group.pinned = "two nodes share a constant of it"
                if not group.readers and not group.pinned:
                    group.pinned = "nothing multiplies it"
                found[number] = group
        return found

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            number = self._parents[number]
        return number

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first == second:
            return
        kept, gone = self._groups[first], self._groups[second]
        self._parents[second] = first
        for name in ("makers", "readers", "cuts", "depthwise", "reshapes"):
            getattr(kept, name).extend(getattr(gone, name))
        kept.has_convolution |= gone.has_convolution
        kept.pinned = kept.pinned or gone.pinned

    def _group_of(self, label: _Label) -> Group:
        return self._groups[self._root(label.group)]

    # Layers

    def _through_layer(self, place: int, node: NodeProto) -> bool:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return False
        weights = self._constants.get(node.input[1])
        if weights is None or weights.dtype != np.float32 or weights.ndim < MATRIX:
            return False
        if node.op_type == "Conv":
            return self._through_convolution(place, node, weights)
        return weights.ndim == MATRIX and self._through_dense(place, node, weights)

    def _through_convolution(self, place: int, node: NodeProto, weights: Array) -> bool:
        groups, label = read_attribute(node, "group", 1), self._labels.get(node.input[0])
        own = [Cut(tensor=name, axis=0) for name in node.input[1:] if name]
        is_odd = label is not None and (
            label.rank != weights.ndim
            or self._group_of(label).channels != weights.shape[1] * groups
        )
        if is_odd or any(cut.tensor not in self._constants for cut in own):
            return False
        if groups == 1:
            number = self._make(node, weights.shape[0], own, rank=weights.ndim)
            self._groups[number].has_convolution = True
            if label is not None:
                self._read(place, node, label, axis=1, block=1, makes=number)
            return True
        if label is None:
            return True  # channels of the input, which nothing here counts
        group = self._group_of(label)
        if weights.shape[1] != 1 or weights.shape[0] != groups:
            return False
        group.cuts += own
        group.depthwise.append(place)
        self._labels[node.output[0]] = label
        return True

    def _through_dense(self, place: int, node: NodeProto, weights: Array) -> bool:
        label, is_gemm = self._labels.get(node.input[0]), node.op_type == "Gemm"
        if is_gemm and (
            read_attribute(node, "transA", 0)
            or read_attribute(node, "alpha", 1.0) != 1
            or read_attribute(node, "beta", 1.0) != 1
        ):
            return False
        taken = 1 if is_gemm and read_attribute(node, "transB", 0) else 0
        units = weights.shape[1 - taken]
        own = [Cut(tensor=node.input[1], axis=1 - taken)]
        if len(node.input) > MATRIX and node.input[2]:
            bias = self._constants.get(node.input[2])
            if bias is None or bias.size not in (1, units):
                return False
            own += [Cut(tensor=node.input[2], axis=bias.ndim - 1)] if bias.size > 1 else []
        if label is not None:
            size, block = weights.shape[taken], label.block
            channels = self._group_of(label).channels
            if label.rank > MATRIX or size % channels or block not in (None, size // channels):
                return False
        rank = MATRIX if is_gemm or (label is not None and label.rank == MATRIX) else 0
        number = self._make(node, units, own, rank=rank)
        if label is not None:
            block = weights.shape[taken] // self._group_of(label).channels
            self._read(place, node, label, axis=taken, block=block, makes=number)
        return True

    def _make(self, node: NodeProto, channels: int, cuts: list[Cut], *, rank: int) -> int:
        number = len(self._groups)
        self._groups.append(Group(channels=channels, makers=cuts[:1], cuts=cuts))
        self._parents.append(number)
        self._labels[node.output[0]] = _Label(group=number, rank=rank)
        return number

    def _read(
        self, place: int, node: NodeProto, label: _Label, *, axis: int, block: int, makes: int
    ) -> None:
        group = self._group_of(label)
        group.cuts.append(Cut(tensor=node.input[1], axis=axis, block=block, is_read=True))
        group.readers.append(
            Reader(
                place=place,
                takes=node.input[0],
                output=node.output[0],
                block=block,
                is_map=label.rank > MATRIX,
                makes=makes,
            )
        )

    # What changes the shape

    def _through_shape(self, place: int, node: NodeProto) -> bool:
        label = self._labels.get(node.input[0])
        if node.op_type not in _SHAPERS:
            return False
        if label is None:
            return all(name not in self._labels for name in node.input)
        if node.op_type == "Reshape":
            return self._reshape(place, node, label)
        if node.op_type == "Flatten":
            is_plain = read_attribute(node, "axis", 1) == 1 and label.rank >= MATRIX
            return is_plain and self._flatten(node, label, block=None)
        return label.rank > MATRIX and self._through_map(node, label)

    def _through_map(self, node: NodeProto, label: _Label) -> bool:
        if node.op_type in _POOLS:
            return self._keep(node)
        if self._find_axes(node, label.rank) != set(range(2, label.rank)):
            return False
        if node.op_type != "Squeeze" and read_attribute(node, "keepdims", 1):
            return self._keep(node)
        return self._flatten(node, label, block=1)

    def _reshape(self, place: int, node: NodeProto, label: _Label) -> bool:
        shape = self._constants.get(node.input[1])
        if shape is None or shape.shape != (MATRIX,):
            return False
        first, second = (int(size) for size in shape)
        if first == 0 and read_attribute(node, "allowzero", 0):
            return False
        if (first, second) != (0, -1):
            sizes = self._infer_sizes().get(node.input[0])
            if sizes is None or first not in (0, -1) or second != int(np.prod(sizes)):
                return False
            self._group_of(label).reshapes.append(place)
        return label.rank >= MATRIX and self._flatten(node, label, block=None)

    def _flatten(self, node: NodeProto, label: _Label, *, block: int | None) -> bool:
        block = label.block if label.rank == MATRIX else block
        self._labels[node.output[0]] = replace(label, rank=MATRIX, block=block)
        return True

    def _find_axes(self, node: NodeProto, rank: int) -> set[int]:
        axes: Any = read_attribute(node, "axes", ())
        if len(node.input) > 1:
            axes = self._constants.get(node.input[1], ())
        return {int(axis) % rank for axis in axes}

    # What computes number by number

    def _through_numbers(self, node: NodeProto) -> bool:
        if node.op_type in _ALONE:
            others = [name for name in node.input[1:] if name in self._labels]
            return not others and self._keep(node)
        if node.op_type == "BatchNormalization":
            label = self._labels.get(node.input[0])
            if label is None:
                return True
            if label.rank < MATRIX or label.block != 1:
                return False
            if any(name not in self._constants for name in node.input[1:]):
                return False
            self._group_of(label).cuts += [Cut(tensor=n, axis=0) for n in node.input[1:]]
            return self._keep(node)
        return node.op_type in _PAIRS and len(node.input) == MATRIX and self._through_pair(node)

    def _through_pair(self, node: NodeProto) -> bool:
        labels = [self._labels.get(name) for name in node.input]
        one, other = labels
        if one is not None and other is not None:
            sizes = {self._group_of(label).channels for label in (one, other)}
            if one.rank != other.rank or one.block != other.block or len(sizes) > 1:
                return False
            self._join(one.group, other.group)
            self._labels[node.output[0]] = one
            return True
        label = one or other
        if label is None:
            return True
        name = node.input[1] if one is not None else node.input[0]
        numbers = self._constants.get(name)
        if numbers is None or (label.rank and numbers.ndim > label.rank):
            return False
        place, group = label.axis_from_end, self._group_of(label)
        size = numbers.shape[-place] if numbers.ndim >= place else 1
        if size > 1:
            if size % group.channels or label.block not in (None, size // group.channels):
                return False
            block = size // group.channels
            group.cuts.append(Cut(tensor=name, axis=numbers.ndim - place, block=block))
        self._labels[node.output[0]] = label
        return True

    def _keep(self, node: NodeProto) -> bool:
        if node.input[0] in self._labels:
            self._labels[node.output[0]] = self._labels[node.input[0]]
        return True


def _infer_sizes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Give the sizes behind the first axis of the tensors of which all of them are known."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # noqa: BLE001 - a graph it cannot follow is only known less well
        return {}
    found = {}
    for value in inferred.graph.value_info:
        sizes = tuple(one.dim_value for one in value.type.tensor_type.shape.dim)[1:]
        if sizes and all(size > 0 for size in sizes):
            found[value.name] = sizes
    return found
