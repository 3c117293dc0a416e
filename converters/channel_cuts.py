"""Drop channels of a network: edit every constant that counts them; without loss where that can be.

Without loss go channels that nobody multiplies with anything but zero, those that are always zero
because all their weights are, and copies of another channel, whose readers get the sum of both
weights. The answers stay the same but for the order in which float32 sums are taken.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from converters.channel_groups import Cut, Group
from converters.channel_walk import find_groups
from converters.graph import fresh_name, parse_model
from converters.normalise import normalise
from converters.runtime import watch_tensors
from device_profiles.profile import DeviceProfile

Array = NDArray[Any]
ROWS_WATCHED = 8
ROUNDS_MAX = 8
"""What is dropped may leave others without a reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """A graph without the channels that no answer needs.

    Attributes:
        model: Normalised bytes; None when every channel is needed.
        unread: Channels multiplied with zeros only.
        silent: Channels that are always zero.
        copies: Channels equal to another.
    """

    model: bytes | None
    unread: int = 0
    silent: int = 0
    copies: int = 0


def compact_channels(fp32: bytes, rows: Array, profile: DeviceProfile) -> Compacted:
    """Drop the channels and hidden units that no answer needs.

    Args:
        fp32: Normalised bytes.
        rows: A few finite rows, float32 [N, width]; none leaves silent channels as they are.
        profile: Bounds of the result.
    """
    model = parse_model(fp32, what="the fp32 graph")
    counts = {"unread": 0, "silent": 0, "copies": 0}
    for _ in range(ROUNDS_MAX):
        found = False
        for group in find_groups(model).values():
            if group.pinned or group.channels < 2:
                continue
            unread = _find_unread(model, group)
            silent = _find_silent(model, group, rows, profile) - unread
            gone = unread | silent
            if len(gone) == group.channels:
                gone.pop()
            copies = _find_copies(model, group, gone)
            for name, which in zip(counts, (unread & gone, silent & gone, copies), strict=True):
                counts[name] += len(which)
            found |= _drop(model, group, gone, copies)
        if not found:
            break
    if not any(counts.values()):
        return Compacted(model=None)
    return Compacted(model=normalise(model, profile), **counts)


def cut_channels(model: ModelProto, group: Group, kept: Array) -> None:
    """Keep some channels of a group, in place.

    Args:
        model: With the group as ``find_groups`` told it.
        group: Not pinned.
        kept: Their numbers, rising.
    """
    for cut in group.cuts:
        numbers = read_constant(model, cut.tensor)
        places = (kept[:, None] * cut.block + np.arange(cut.block)).ravel()
        write_constant(model, cut.tensor, np.take(numbers, places, axis=cut.axis))
    for place in group.depthwise:
        for attribute in model.graph.node[place].attribute:
            if attribute.name == "group":
                attribute.i = len(kept)
    for place in group.reshapes:  # two may share a constant, so each gets its own
        node, name = model.graph.node[place], fresh_name(model, "shape")
        first, second = (int(size) for size in read_constant(model, node.input[1]))
        shape = np.array([first, second * len(kept) // group.channels], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def read_constant(model: ModelProto, name: str) -> Array:
    """Give the numbers of a constant."""
    numbers: Array = numpy_helper.to_array(_find(model, name))
    return numbers


def write_constant(model: ModelProto, name: str, numbers: Array) -> None:
    """Replace the numbers of a constant."""
    _find(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numbers), name))


def _find(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _by_channel(model: ModelProto, cut: Cut, channels: int) -> Array:
    """Give the numbers of a constant as one row a channel."""
    numbers = np.moveaxis(read_constant(model, cut.tensor), cut.axis, 0)
    return numbers.reshape(channels, -1)


def _find_unread(model: ModelProto, group: Group) -> set[int]:
    reads = [_by_channel(model, cut, group.channels) for cut in group.cuts if cut.is_read]
    is_unread = np.all([np.all(numbers == 0, axis=1) for numbers in reads], axis=0)
    return set(np.flatnonzero(is_unread).tolist())


def _find_silent(model: ModelProto, group: Group, rows: Array, profile: DeviceProfile) -> set[int]:
    """Find channels made with zeros only, so the same for every row, that reach readers as zero."""
    made = [_by_channel(model, cut, group.channels) for cut in group.makers]
    is_fixed = np.all([np.all(numbers == 0, axis=1) for numbers in made], axis=0)
    if not is_fixed.any() or len(rows) == 0:
        return set()
    is_zero = is_fixed
    names = [reader.takes for reader in group.readers]
    watched = watch_tensors(model, names, rows[:ROWS_WATCHED], profile)
    for reader, seen in zip(group.readers, watched, strict=True):
        lit = np.moveaxis(seen, 1 if reader.is_map else -1, 0).reshape(group.channels, -1)
        is_zero = is_zero & ~lit.any(axis=1)
    return set(np.flatnonzero(is_zero).tolist())


def _find_copies(model: ModelProto, group: Group, gone: set[int]) -> dict[int, int]:
    """Find channels made as another one is, of those that stay: each with the first such."""
    parts = [_by_channel(model, cut, group.channels) for cut in group.cuts if not cut.is_read]
    first: dict[bytes, int] = {}
    copies = {}
    for channel in sorted(set(range(group.channels)) - gone):
        key = b"".join(part[channel].tobytes() for part in parts)
        same = first.setdefault(key, channel)
        if same != channel:
            copies[channel] = same
    return copies


def _drop(model: ModelProto, group: Group, gone: set[int], copies: dict[int, int]) -> bool:
    """Drop channels, the readers of copies getting the sum of the weights."""
    if not gone and not copies:
        return False
    for cut in (cut for cut in group.cuts if cut.is_read):
        numbers = read_constant(model, cut.tensor).copy()
        moved = np.moveaxis(numbers, cut.axis, 0)
        moved = moved.reshape(group.channels, cut.block, *moved.shape[1:])
        total = moved.astype(np.float64)
        for channel, same in copies.items():
            total[same] += moved[channel]
        summed = total.astype(np.float32).reshape(-1, *moved.shape[2:])
        write_constant(model, cut.tensor, np.moveaxis(summed, 0, cut.axis))
    out = gone | set(copies)
    kept = np.array([c for c in range(group.channels) if c not in out], np.int64)
    cut_channels(model, group, kept)
    return True
