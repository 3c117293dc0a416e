"""Add windows into horizons, and horizons into groups: the counters a judgement is made of.

A *family* is every device whose windows share the bins of the features, whatever profile its
package was built for. Answers are added only among devices whose packages share the whole
reference. Counters add exactly; nothing else here is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import (
    BINS_MAX,
    ClassOutputReference,
    FeatureReference,
    LabelsOutputReference,
    OutputReference,
    Reference,
    TargetsOutputReference,
)

HORIZONS = (1, 4, 16, 64)
"""Newest windows added together; each is judged with its share of the error."""
CELL_WIDTH = BINS_MAX + 2
"""Bins (padded with bins of no rows), missing, outside."""
STALE_WINDOWS = 3
"""A device silent for this many windows beyond a horizon is left out of sums over devices."""
STALE_SLACK_MS = 60_000

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWindows:
    """Newest windows of one device under one reference, newest first.

    Attributes:
        device_id: Whose.
        reference: What fixed the bins of all of them.
        counters: int64 [windows, layout size].
        t0_ms: Starts, by the device's clock.
        t1_ms: Ends.
    """

    device_id: str
    reference: Reference
    counters: Counts
    t0_ms: Counts
    t1_ms: Counts

    def __post_init__(self) -> None:
        if not 1 <= len(self.counters) <= HORIZONS[-1]:
            raise ValueError(
                f"device {self.device_id}: {len(self.counters)} windows, 1 to {HORIZONS[-1]}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCounts:
    """Counters of D devices over 4 horizons.

    Attributes:
        features: The bins all devices share.
        device_ids: Sorted.
        cells: int64 [D, 4, features, 12].
        windows: int64 [D, 4]: windows in each sum; 0 where a longer horizon adds nothing new.
        since_ms: int64 [D, 4]: start of the oldest window in each sum.
        newest_ms: int64 [D]: end of the newest window.
        window_ms: Median length of a window.
        outputs: The different answer references of the devices.
        output_of: int64 [D]: index into ``outputs``.
        answers: int64 [D, 4, widest answer layout].
    """

    features: tuple[FeatureReference, ...]
    device_ids: tuple[str, ...]
    cells: Counts
    windows: Counts
    since_ms: Counts
    newest_ms: Counts
    window_ms: int
    outputs: tuple[OutputReference, ...]
    output_of: Counts
    answers: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Counters of S subjects (devices, groups, the fleet) over 4 horizons.

    Attributes:
        cells: int64 [S, 4, features, 12].
        windows: int64 [S, 4]; 0 means nothing to judge.
        since_ms: int64 [S, 4].
        answers: int64 [S, 4, widest answer layout].
        output_of: int64 [S]: whose answer reference ``answers`` belong to.
    """

    cells: Counts
    windows: Counts
    since_ms: Counts
    answers: Counts
    output_of: Counts


def gather_families(devices: Sequence[DeviceWindows]) -> list[FamilyCounts]:
    """Sort devices into families, the largest first, and add their windows."""
    families: dict[tuple[FeatureReference, ...], list[DeviceWindows]] = {}
    for device in sorted(devices, key=lambda d: d.device_id):
        families.setdefault(device.reference.features, []).append(device)
    ordered = sorted(families.items(), key=lambda item: (-len(item[1]), item[1][0].device_id))
    return [_add_family(features, members) for features, members in ordered]


def reference_cells(features: Sequence[FeatureReference]) -> Counts:
    """Counts of the reference in the layout of a cell, int64 [features, 12]."""
    cells = np.zeros((len(features), CELL_WIDTH), np.int64)
    for k, feature in enumerate(features):
        cells[k, : feature.bins] = feature.counts[: feature.bins]
        cells[k, BINS_MAX:] = feature.counts[feature.bins :]
    return cells


def reference_answers(outputs: Sequence[OutputReference], width: int) -> Counts:
    """Counts of the answer references, padded to one width, int64 [outputs, width]."""
    answers = np.zeros((len(outputs), width), np.int64)
    for k, output in enumerate(outputs):
        answers[k, : len(output.counts)] = output.counts
    return answers


def device_sums(family: FamilyCounts) -> Sums:
    """Give every device as a subject of its own."""
    return Sums(
        cells=family.cells,
        windows=family.windows,
        since_ms=family.since_ms,
        answers=family.answers,
        output_of=family.output_of,
    )


def find_fresh(family: FamilyCounts, now_ms: int) -> NDArray[np.bool_]:
    """Mark [D, 4] whose newest window is recent enough to be added over devices."""
    reach = (np.array(HORIZONS) + STALE_WINDOWS) * family.window_ms + STALE_SLACK_MS
    fresh: NDArray[np.bool_] = family.newest_ms[:, None] >= now_ms - reach
    return fresh


def add_devices(
    family: FamilyCounts,
    masks: NDArray[np.bool_],
    fresh: NDArray[np.bool_],
    output_of: Counts | None = None,
) -> Sums:
    """Add devices into subjects.

    Args:
        family: Counters by device.
        masks: [S, D], the members of each subject.
        fresh: [D, 4], of ``find_fresh``.
        output_of: [S], whose answers to add; by default the reference most members have.
    """
    shape = (len(masks), len(HORIZONS))
    if output_of is None:
        output_of = np.array([_commonest(family.output_of[mask]) for mask in masks], np.int64)
    cells = np.zeros((*shape, *family.cells.shape[2:]), np.int64)
    answers = np.zeros((*shape, family.answers.shape[2]), np.int64)
    windows, since = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    # A device that has no more windows than the shorter horizon still adds what it has.
    filled = np.maximum.accumulate(family.windows, axis=1)
    for s, mask in enumerate(masks):
        for h in range(len(HORIZONS)):
            chosen = np.flatnonzero(mask & fresh[:, h])
            if not len(chosen):
                continue
            cells[s, h] = family.cells[chosen, h].sum(0)
            same = chosen[family.output_of[chosen] == output_of[s]]
            answers[s, h] = family.answers[same, h].sum(0)
            windows[s, h] = filled[chosen, h].sum()
            since[s, h] = int(np.median(family.since_ms[chosen, h]))
            if h and windows[s, h] <= windows[s, :h].max():
                windows[s, h] = 0
    return Sums(cells=cells, windows=windows, since_ms=since, answers=answers, output_of=output_of)


def _commonest(values: Counts) -> int:
    return int(np.bincount(values).argmax()) if len(values) else 0


def _cell_index(features: Sequence[FeatureReference], layout: CounterLayout) -> NDArray[np.intp]:
    """Where each place of a cell stands in the counters; one past the end where it does not."""
    index = np.full((len(features), CELL_WIDTH), layout.size, np.intp)
    for k, (feature, at) in enumerate(zip(features, layout.features, strict=True)):
        index[k, : feature.bins] = np.arange(at.start, at.start + feature.bins)
        index[k, BINS_MAX:] = (at.stop - 2, at.stop - 1)
    return index


def _add_family(
    features: tuple[FeatureReference, ...], members: Sequence[DeviceWindows]
) -> FamilyCounts:
    outputs = tuple(dict.fromkeys(member.reference.output for member in members))
    width = max(len(output.counts) for output in outputs)
    shape = (len(members), len(HORIZONS))
    cells = np.zeros((*shape, len(features), CELL_WIDTH), np.int64)
    answers = np.zeros((*shape, width), np.int64)
    windows, since = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    index, index_size = np.zeros((0, 0), np.intp), -1
    for d, member in enumerate(members):
        layout = CounterLayout.of(member.reference)
        if index_size != layout.size:
            index, index_size = _cell_index(features, layout), layout.size
        ends = np.minimum(HORIZONS, len(member.counters))
        picked = np.cumsum(member.counters, axis=0)[ends - 1]
        padded = np.hstack((picked, np.zeros((len(HORIZONS), 1), np.int64)))
        cells[d] = padded[:, index]
        answers[d, :, : len(member.reference.output.counts)] = picked[:, layout.output]
        windows[d] = np.where(np.diff(ends, prepend=0) > 0, ends, 0)
        since[d] = member.t0_ms[ends - 1]
    lengths = np.concatenate([m.t1_ms - m.t0_ms for m in members])
    return FamilyCounts(
        features=features,
        device_ids=tuple(m.device_id for m in members),
        cells=cells,
        windows=windows,
        since_ms=since,
        newest_ms=np.array([int(m.t1_ms.max()) for m in members], np.int64),
        window_ms=max(1, int(np.median(lengths))),
        outputs=outputs,
        output_of=np.array([outputs.index(m.reference.output) for m in members], np.int64),
        answers=answers,
    )


def split_answers(output: OutputReference, answers: Counts) -> tuple[Counts, tuple[Counts, ...]]:
    """Split answer counters [..., width] into ordered bins and the mixes of classes.

    Returns:
        The confidence (or value, or that of each label or target) as cells [..., answers, 12], and
        for each label the rows a class [..., classes]; none for a regression.
    """
    own = answers[..., : len(output.counts)]
    cells = np.zeros((*own.shape[:-1], len(name_answers((output,))), CELL_WIDTH), np.int64)
    if isinstance(output, ClassOutputReference | LabelsOutputReference):
        places = output.slices if isinstance(output, LabelsOutputReference) else (slice(None),)
        mixes = []
        for number, place in enumerate(places):
            table = own[..., place].reshape(*own.shape[:-1], -1, BINS_MAX)
            cells[..., number, :BINS_MAX] = table.sum(-2)
            mixes.append(table.sum(-1))
        return cells, tuple(mixes)
    places = output.slices if isinstance(output, TargetsOutputReference) else (slice(None),)
    for number, place in enumerate(places):
        bins = own[..., place]
        cells[..., number, : bins.shape[-1]] = bins
    return cells, ()


def list_classes(output: OutputReference) -> tuple[tuple[str, ...], ...]:
    """Give the classes of each mix of ``split_answers``."""
    if isinstance(output, LabelsOutputReference):
        return tuple(label.classes for label in output.labels)
    return (output.classes,) if isinstance(output, ClassOutputReference) else ()


def name_answers(outputs: Sequence[OutputReference]) -> tuple[str, ...]:
    """Name what is judged by itself: every target or label; the only answer of others is empty."""
    names: dict[str, None] = {}
    for output in outputs:
        if isinstance(output, TargetsOutputReference):
            names |= dict.fromkeys(target.name for target in output.targets)
        elif isinstance(output, LabelsOutputReference):
            names |= dict.fromkeys(label.name for label in output.labels)
        else:
            names[""] = None
    return tuple(names)
