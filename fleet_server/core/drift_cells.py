"""The tables' cells: every feature at every level against the training reference, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleet_server.core.drift_attribution import Mask, Scene
from fleet_server.core.drift_compare import ANSWERS, SubjectResults, find_notable
from fleet_server.core.drift_counts import (
    CELL_WIDTH,
    FamilyCounts,
    Sums,
    list_classes,
    name_answers,
    split_answers,
)
from fleet_server.core.drift_finding import (
    LOG_HORIZONS,
    Evidence,
    Finding,
    pick_horizons,
    read_finding,
)
from fleet_server.core.drift_policy import Level
from fleet_server.core.drift_words import say_finding, say_quiet

DEVICE_CELLS_MAX = 20_000
DEVICE_CELLS_EACH = 5
"""Cells kept of single devices, worst first; groups and the fleet keep all."""
AFFECTED_LOG_P = math.log(0.01)

Key = tuple[Level, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCell:
    """Newest judgement of one feature at one level against the training reference.

    Attributes:
        level: Device, group or fleet.
        subject: Device id, group name, or ``all``.
        finding: Numbers.
        is_notable: Beyond chance when all cells of the table are looked at together.
        affected: Devices that show it on their own.
        devices: Devices behind it.
        since_ms: Start of the windows behind it.
        rest_psi: Debiased PSI against the rest of the fleet; None without a rest.
        rest_log_p: Log p-value of that comparison.
        sentence: For people.
    """

    level: Level
    subject: str
    finding: Finding
    is_notable: bool
    affected: int
    devices: int
    since_ms: int
    rest_psi: float | None
    rest_log_p: float | None
    sentence: str


def feature_names(family: FamilyCounts) -> tuple[str, ...]:
    """Name the features in order, the answers last, or each target of them."""
    names = tuple(feature.name for feature in family.features)
    answers = [f"{ANSWERS} {name}".rstrip() for name in name_answers(family.outputs)]
    return (*names, *(f"{name} (output)" if name in names else name for name in answers))


def make_cells(
    scene: Scene, groups: Mapping[str, Mask], names: Sequence[str], everybody: Sequence[Key]
) -> tuple[list[DriftCell], dict[Key, tuple[SubjectResults, int]]]:
    """Make the cells of all levels, and tell where each subject's results stand."""
    count = len(scene.family.device_ids)
    shows = scene.devices.log_p.min(1) + LOG_HORIZONS < AFFECTED_LOG_P
    cells = _make_device_cells(scene, names, shows)
    found = {(Level.DEVICE, d): (scene.devices, s) for s, d in enumerate(scene.family.device_ids)}
    masks_of: dict[Key, Mask] = {key: np.ones(count, bool) for key in everybody}
    masks_of.update({(Level.GROUP, name): mask for name, mask in groups.items()})
    if not masks_of:
        return cells, found
    keys, masks = list(masks_of), np.array(list(masks_of.values()))
    sums = scene.add(masks)
    results = scene.against_reference(sums)
    rest = scene.against(sums, scene.add(~masks, sums.output_of))
    best = results.log_p.min(1) + LOG_HORIZONS
    notable = find_notable(best, scene.policy.notable_rate)
    horizons = pick_horizons(results)
    larger = []
    for s, (level, subject) in enumerate(keys):
        found[level, subject] = (results, s)
        for f, name in enumerate(names):
            affected = int(shows[masks[s], f].sum()), int(masks[s].sum())
            beside = rest if level is Level.GROUP else None
            larger.append(
                _make_cell(
                    scene,
                    sums,
                    results,
                    (s, int(horizons[s, f]), f),
                    (level, subject, name),
                    beside,
                    affected=affected,
                    is_notable=bool(notable[s, f]),
                )
            )
    return [*larger, *cells], found


def _make_device_cells(scene: Scene, names: Sequence[str], shows: Mask) -> list[DriftCell]:
    ids, policy = scene.family.device_ids, scene.policy
    best = scene.devices.log_p.min(1) + LOG_HORIZONS
    horizons = pick_horizons(scene.devices)
    of_device = np.minimum(best.min(1) + math.log(len(names)), 0.0)
    chosen = find_notable(of_device, policy.notable_rate)
    within = find_notable(best, policy.notable_rate * max(1, int(chosen.sum())) / len(ids))
    keep = max(1, min(len(names), DEVICE_CELLS_EACH, DEVICE_CELLS_MAX // len(ids)))
    return [
        _make_cell(
            scene,
            scene.sums,
            scene.devices,
            (d, int(horizons[d, f]), f),
            (Level.DEVICE, device_id, names[f]),
            None,
            affected=(int(shows[d, f]), 1),
            is_notable=bool(chosen[d] and within[d, f]),
        )
        for d, device_id in enumerate(ids)
        for f in np.argsort(best[d], kind="stable")[:keep].tolist()
    ]


def _make_cell(
    scene: Scene,
    sums: Sums,
    results: SubjectResults,
    at: tuple[int, int, int],
    title: tuple[Level, str, str],
    rest: SubjectResults | None,
    *,
    affected: tuple[int, int],
    is_notable: bool,
) -> DriftCell:
    s, h, f = at
    evidence = take_evidence(scene, sums, (s, h, f), title[2])
    finding = read_finding(results, (s, h, f), evidence)
    has_rest = rest is not None and bool(rest.windows[s, h])
    return DriftCell(
        level=title[0],
        subject=title[1],
        finding=finding,
        is_notable=is_notable,
        affected=affected[0],
        devices=affected[1],
        since_ms=int(results.since_ms[s, h]),
        rest_psi=float(rest.psi[s, h, f]) if rest is not None and has_rest else None,
        rest_log_p=float(rest.log_p[s, h, f]) if rest is not None and has_rest else None,
        sentence=say_finding(finding) if is_notable else say_quiet(finding),
    )


def take_evidence(scene: Scene, sums: Sums, at: tuple[int, int, int], name: str) -> Evidence:
    """Copy the counters of one cell and of the training reference."""
    s, h, f = at
    windows = int(sums.windows[s, h])
    if f < len(scene.family.features):
        return Evidence(
            feature=name,
            windows=windows,
            counts=tuple(sums.cells[s, h, f].tolist()),
            baseline=tuple(scene.baseline[f].tolist()),
            classes=scene.family.features[f].labels,
        )
    number = int(sums.output_of[s])
    output = scene.family.outputs[number]
    own = name_answers((output,))
    wanted = name_answers(scene.family.outputs)[f - len(scene.family.features)]
    cells, mixes = split_answers(output, sums.answers[s, h])
    cells_before, mixes_before = split_answers(output, scene.baseline_answers[number])
    if wanted not in own:  # its packages answer others: nothing was counted
        nothing = (0,) * CELL_WIDTH
        return Evidence(
            feature=name, windows=windows, counts=nothing, baseline=nothing, is_answers=True
        )
    place = own.index(wanted)
    return Evidence(
        feature=name,
        windows=windows,
        counts=tuple(cells[place].tolist()),
        baseline=tuple(cells_before[place].tolist()),
        mix=tuple(mixes[place].tolist()) if mixes else (),
        baseline_mix=tuple(mixes_before[place].tolist()) if mixes else (),
        classes=list_classes(output)[place] if mixes else (),
        is_answers=True,
    )
