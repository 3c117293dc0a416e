"""Judge one family of devices: what moved, for whom, since when, how surely.

Pure: counters, groups, policy and the time in; cells for the tables and cases for the alarms out.
Opening and closing alarms is ``drift_alarm.py``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleet_server.core.drift_attribution import (
    Blame,
    Mask,
    Scene,
    find_blames,
    find_groups,
)
from fleet_server.core.drift_case import AlarmCase, make_case
from fleet_server.core.drift_cells import DriftCell, Key, feature_names, make_cells
from fleet_server.core.drift_compare import SubjectResults
from fleet_server.core.drift_counts import FamilyCounts
from fleet_server.core.drift_policy import (
    FLEET_SUBJECT,
    DriftPolicy,
    Level,
    find_log_threshold,
)

CASES_MAX = 200
WHOLE_FLEET: Key = (Level.FLEET, FLEET_SUBJECT)
QUIET_HORIZON = 1
"""Index into HORIZONS of the newest windows that must be quiet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Outcome of judging one family.

    Attributes:
        cells: Fleet, groups, then devices.
        cases: Strongest level first.
        cases_left_out: Further device cases beyond the bound.
        quiet: Of the alarms asked about: True when the shift has gone; absent when not judged.
        folded: Open alarms that an alarm of a larger set explains now: its key.
        log_threshold: What one cell had to fall below.
        newest_ms: End of the newest window.
        window_ms: Median length of a window.
    """

    cells: tuple[DriftCell, ...]
    cases: tuple[AlarmCase, ...]
    cases_left_out: int
    quiet: Mapping[Key, bool]
    folded: Mapping[Key, Key]
    log_threshold: float
    newest_ms: int
    window_ms: int


def judge_family(
    family: FamilyCounts,
    groups: Mapping[str, Mask],
    policy: DriftPolicy,
    *,
    now_ms: int,
    open_alarms: Mapping[Key, tuple[str, ...]] | None = None,
    ignore_before_ms: Mapping[Key, int] | None = None,
    everybody: Sequence[Key] = (WHOLE_FLEET,),
) -> Verdict:
    """Judge every device, group and the fleet.

    Args:
        family: Counters.
        groups: Members by group name, [D] each.
        policy: Limits.
        now_ms: The server's time; devices silent for long are left out of sums.
        open_alarms: Features by key, to learn whether they are quiet now.
        ignore_before_ms: Windows that began earlier never raise an alarm again: what a closed
            alarm has already said.
        everybody: What all devices of the family together are: the fleet, a group that has moved
            to another reference as a whole, both (the first is blamed) or neither.
    """
    groups = find_groups(groups)
    names = feature_names(family)
    threshold = find_log_threshold(
        policy,
        subjects=len(family.device_ids) + 2 * len(groups) + 1,
        features=len(names),
        window_ms=family.window_ms,
    )
    scene = Scene(
        family,
        policy,
        now_ms=now_ms,
        log_threshold=threshold,
        ignore_before_ms=ignore_before_ms or {},
    )
    blames = find_blames(scene, groups, everybody)
    larger = [b for b in blames if b.level is not Level.DEVICE]
    devices = sorted(
        (b for b in blames if b.level is Level.DEVICE),
        key=lambda b: -float(scene.devices.psi[np.flatnonzero(b.members)[0]][b.crossed].max()),
    )
    cells, results = make_cells(scene, groups, names, everybody)
    return Verdict(
        cells=tuple(cells),
        cases=tuple(make_case(scene, b, names) for b in [*larger, *devices[:CASES_MAX]]),
        cases_left_out=max(0, len(devices) - CASES_MAX),
        quiet=_find_quiet(results, names, policy, open_alarms or {}),
        folded=_find_folded(family, larger, names, open_alarms or {}),
        log_threshold=threshold,
        newest_ms=int(family.newest_ms.max()),
        window_ms=family.window_ms,
    )


def _find_quiet(
    results: Mapping[Key, tuple[SubjectResults, int]],
    names: Sequence[str],
    policy: DriftPolicy,
    open_alarms: Mapping[Key, tuple[str, ...]],
) -> dict[Key, bool]:
    """Tell which alarms see nothing more in the newest few windows."""
    quiet = {}
    for key, features in open_alarms.items():
        if key not in results:
            continue
        found, s = results[key]
        numbers = [names.index(f) for f in features if f in names]
        judged = [h for h in range(QUIET_HORIZON + 1) if found.windows[s, h]]
        if not numbers or not judged:
            continue
        psi = found.psi[s, judged[-1], numbers].max()
        log_p = found.log_p[s, judged[-1], numbers].min() + math.log(len(numbers))
        is_chance = log_p > math.log(0.05)
        quiet[key] = bool(psi < policy.psi_quiet and (is_chance or psi < policy.psi_quiet / 2))
    return quiet


def _find_folded(
    family: FamilyCounts,
    blames: Sequence[Blame],
    names: Sequence[str],
    open_alarms: Mapping[Key, tuple[str, ...]],
) -> dict[Key, Key]:
    folded = {}
    for (level, subject), features in open_alarms.items():
        for blame in blames:
            if blame.subject == subject and blame.level is level:
                continue
            explained = {names[f] for f in np.flatnonzero(blame.shared).tolist()}
            is_part = (
                level is Level.DEVICE
                and subject in family.device_ids
                and bool(blame.members[family.device_ids.index(subject)])
            ) or (level is Level.GROUP and blame.level is Level.FLEET)
            if is_part and explained & set(features):
                folded[level, subject] = (blame.level, blame.subject)
    return folded
