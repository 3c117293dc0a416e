"""Narrower networks of convolutions: output channels are dropped that the layers behind can spare.

What a layer behind makes of its inputs is fitted by least squares to what it made in the whole
network, over training rows; then one channel after the other goes whose loss raises the error of
that fit least, the weights that stay being fitted anew each time (the optimal brain surgeon's
update, a channel's block of weights at once). So of two copies of a channel one goes first, which a
ranking by size of weights keeps both of. No training, no labels; the same rows give the same
network. Channels that a concatenation, an answer or an unknown operator reads stay.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from converters.channel_cuts import cut_channels, read_constant, write_constant
from converters.channel_groups import Cut, Group, Reader, read_attribute
from converters.channel_walk import find_groups
from converters.graph import fresh_name, parse_model
from converters.layer_samples import SAMPLES_MAX, Moments, sample, split
from converters.normalise import normalise
from converters.runtime import open_watcher
from device_profiles.profile import DeviceProfile

Array = NDArray[Any]
_STEPS = ((16, 8), (8, 4), (0, 2))
"""Channels kept come in eights where there are many: onnxruntime computes others one by one, which
was measured to take up to three times as long as the wider layer did."""
ROWS_MAX = 512
FEATURES_MAX = 2_304
"""A layer with more inputs (256 channels of 3 x 3) keeps its weights and gets a new bias alone."""
_RIDGE = 1e-4
_TINY = 1e-12


class Narrowing:
    """The ways to narrow the convolutions of one graph.

    Args:
        fp32: Normalised bytes.
        rows: Training rows, float32 [N, width]; those with missing values are left out.
        profile: Bounds of the results.

    Attributes:
        is_possible: Whether any channel may go.
        stay: The convolutions that stay, with the reason.
    """

    def __init__(self, fp32: bytes, rows: Array, profile: DeviceProfile) -> None:
        self._whole, self._profile = parse_model(fp32, what="the fp32 graph"), profile
        finite = rows[np.isfinite(rows).all(axis=1)]
        places = np.linspace(0, len(finite) - 1, min(len(finite), ROWS_MAX)).astype(np.int64)
        self._rows = finite[places]
        groups = find_groups(self._whole)
        own = [group for group in groups.values() if group.has_convolution]
        self.stay = [f"{group.channels} channels: {group.pinned}" for group in own if group.pinned]
        self.is_possible = len(finite) > 0 and any(_may_shrink(group) for group in own)
        self._costs: dict[int, Array] | None = None

    def cut(self, share: float) -> bytes:
        """Keep a share of all channels that may go, in each layer those it can spare least.

        Layers lose as many as makes their own error equal: one that spares none keeps all.

        Args:
            share: Above 0 to 1.
        """
        model = ModelProto()
        model.CopyFrom(self._whole)
        groups, counts = find_groups(model), self._share_out(share)
        kept: dict[int, Array] = {}
        for number, group in groups.items():
            count = counts.get(number, group.channels)
            if count >= group.channels:
                continue
            fits = self._fit(model, group, kept)
            kept[number], _ = _eliminate(fits, group.channels, count)
            cut_channels(model, group, kept[number])
            for reader, fit in zip(group.readers, fits, strict=True):
                if reader.makes == number:  # it adds to what it reads, so it lost the same outputs
                    fit.keep_outputs(kept[number])
                _write_layer(model, reader, fit, groups)
        return normalise(model, self._profile)

    def _share_out(self, share: float) -> dict[int, int]:
        """Tell how many channels each group keeps: a whole number of its steps."""
        groups = {n: one for n, one in find_groups(self._whole).items() if _may_shrink(one)}
        if self._costs is None:
            self._costs = {
                number: _eliminate(
                    self._fit(self._whole, group, {}), group.channels, find_step(group.channels)
                )[1]
                for number, group in groups.items()
            }
        counts = {number: group.channels for number, group in groups.items()}
        wanted = share * sum(counts.values())
        steps = []
        for number, costs in self._costs.items():
            size = find_step(counts[number])
            stops = range(counts[number] - 1, size - 1, -1)
            steps += [
                (float(cost), number, left)
                for cost, left in zip(costs, stops, strict=True)
                if left % size == 0
            ]
        for _, number, left in sorted(steps, key=lambda step: (step[0], step[1], -step[2])):
            if sum(counts.values()) <= wanted:
                break
            counts[number] = left
        return counts

    def _fit(self, model: ModelProto, group: Group, kept: dict[int, Array]) -> list["_Fit"]:
        return _fit_readers(self._whole, model, group, kept, self._rows, self._profile)


def find_step(channels: int) -> int:
    """Tell by how many channels a layer is narrowed, and how many it keeps at least.

    >>> find_step(64), find_step(12), find_step(6)
    (8, 4, 2)
    """
    return next(step for least, step in _STEPS if channels >= least)


def _may_shrink(group: Group) -> bool:
    able = group.has_convolution and not group.pinned
    return able and group.channels > find_step(group.channels)


@dataclass(slots=True, kw_only=True)
class _Fit:
    """How one reader does with the channels that are left.

    Attributes:
        block: Inputs of one channel.
        weights: [inputs, outputs].
        mean: Of each input; zeros where the reader takes no bias.
        target: Mean of each output; zeros likewise.
        inverse: Of the inputs' second moments; None where the weights stay as they are.
        loss: What losing each input costs then.
        total: Sum of squares of all outputs, to compare readers.
    """

    block: int
    weights: Array
    mean: Array
    target: Array
    inverse: Array | None
    loss: Array
    total: float

    def cost(self) -> Array:
        """Tell what losing each channel next costs, as a share of what the reader makes."""
        size = self.block
        channels = len(self.weights) // size
        if self.inverse is None:
            alone: Array = self.loss.reshape(channels, size).sum(axis=1) / self.total
            return alone
        at = np.arange(channels)
        blocks = self.inverse.reshape(channels, size, channels, size)[at, :, at]
        weights = self.weights.reshape(channels, size, -1)
        cost: Array = np.einsum("cbo,cbo->c", weights, np.linalg.solve(blocks, weights))
        return cost / self.total

    def drop(self, channel: int) -> None:
        """Lose a channel; the others take over what they can."""
        gone = slice(channel * self.block, (channel + 1) * self.block)
        stay = np.delete(np.arange(len(self.weights)), gone)
        left = self.weights[stay]
        if self.inverse is not None:
            beside = self.inverse[gone][:, stay]
            move = np.linalg.solve(self.inverse[gone, gone], beside).T
            left = left - move @ self.weights[gone]
            self.inverse = self.inverse[np.ix_(stay, stay)] - move @ beside
        else:
            self.loss = self.loss[stay]
        self.weights, self.mean = left, self.mean[stay]

    def keep_outputs(self, kept: Array) -> None:
        """Leave out the other outputs."""
        self.weights, self.target = self.weights[:, kept], self.target[kept]


def _eliminate(fits: list[_Fit], channels: int, count: int) -> tuple[Array, Array]:
    """Drop the cheapest channel until so many are left.

    Returns:
        The numbers of those left, and after each step the share of what the readers make that is
        lost so far, the mean over readers.
    """
    left, lost = list(range(channels)), [0.0]
    while len(left) > count:
        cost = np.mean([fit.cost() for fit in fits], axis=0)
        cheapest = int(np.argmin(cost))
        lost.append(lost[-1] + max(0.0, float(cost[cheapest])))
        for fit in fits:
            fit.drop(cheapest)
        del left[cheapest]
    return np.array(left, np.int64), np.array(lost[1:])


def _fit_readers(
    whole: ModelProto,
    model: ModelProto,
    group: Group,
    kept: dict[int, Array],
    rows: Array,
    profile: DeviceProfile,
) -> list[_Fit]:
    """Fit the layers that read a group, as it now is, to what they make in the whole network."""
    wanted = open_watcher(whole, [reader.output for reader in group.readers], profile)
    got = open_watcher(model, [reader.takes for reader in group.readers], profile)
    sums: list[Moments | None] = [None] * len(group.readers)
    for part in split(rows):
        count = -(-SAMPLES_MAX * len(part) // len(rows))
        for place, (reader, x, y) in enumerate(
            zip(group.readers, got(part), wanted(part), strict=True)
        ):
            node = model.graph.node[reader.place]
            kernel = read_constant(model, node.input[1]).shape[2:]
            axis = 1 if node.op_type == "Conv" else -1
            if reader.makes in kept:
                y = np.take(y, kept[reader.makes], axis=axis)  # noqa: PLW2901 - the same, narrower
            found = Moments.of(*sample(node, kernel, x, y, count), features_max=FEATURES_MAX)
            before = sums[place]
            if before is None:
                sums[place] = found
            else:
                before.add(found)
    return [
        _solve(model, reader, moments, group.channels)
        for reader, moments in zip(group.readers, sums, strict=True)
        if moments is not None
    ]


def _solve(model: ModelProto, reader: Reader, moments: Moments, channels: int) -> _Fit:
    node = model.graph.node[reader.place]
    has_bias, features = node.op_type != "MatMul", len(moments.x)
    if has_bias:
        moments.centre()
    mean, target = moments.x / moments.count, moments.y / moments.count
    fit = _Fit(
        block=features // channels,
        weights=_read_weights(model, node),
        mean=mean if has_bias else np.zeros_like(mean),
        target=target if has_bias else np.zeros_like(target),
        inverse=None,
        loss=np.zeros(features),
        total=max(_TINY, float(moments.yy.sum())),
    )
    if moments.xx.ndim == 1:
        fit.loss = moments.xx * (fit.weights**2).sum(axis=1)
        return fit
    ridge = _RIDGE * max(_TINY, float(np.trace(moments.xx)) / features)
    fit.inverse = np.linalg.inv(moments.xx + ridge * np.eye(features))
    # The ridge pulls towards the weights as they are, not towards zero.
    fit.weights = fit.inverse @ (moments.xy + ridge * fit.weights)
    return fit


def _read_weights(model: ModelProto, node: NodeProto) -> Array:
    """Give the weights of a layer as [inputs, outputs]."""
    weights = read_constant(model, node.input[1]).astype(np.float64)
    is_turned = node.op_type == "Conv" or bool(read_attribute(node, "transB", 0))
    flat: Array = weights.reshape(len(weights), -1)
    return flat.T if is_turned else flat


def _write_layer(model: ModelProto, reader: Reader, fit: _Fit, groups: dict[int, Group]) -> None:
    """Write weights and bias of a layer whose inputs were cut already."""
    node = model.graph.node[reader.place]
    shape = read_constant(model, node.input[1]).shape
    is_turned = node.op_type == "Conv" or bool(read_attribute(node, "transB", 0))
    weights = fit.weights.T if is_turned else fit.weights
    write_constant(model, node.input[1], weights.reshape(shape).astype(np.float32))
    if node.op_type == "MatMul":
        return
    name = fresh_name(model, "bias")
    bias = (fit.target - fit.mean @ fit.weights).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, name))
    old = node.input[2] if len(node.input) > 2 else ""
    del node.input[2:]
    node.input.append(name)
    made = groups[reader.makes]
    made.cuts = [cut for cut in made.cuts if not old or cut.tensor != old]
    made.cuts.append(Cut(tensor=name, axis=0))
