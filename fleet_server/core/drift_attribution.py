"""Who moved: single devices, a group, or everybody?

A group explains a shift when it differs from the training reference *and* from the rest of the
fleet, and still does after its most deviant members are left out: one broken sensor must not
blame its group. Groups are taken one by one, strongest first, each judged against the devices no
earlier one explains. What then remains is the fleet's, judged the same way; what the fleet does
not explain either is left to single devices.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet_server.core.drift_compare import SubjectResults, compare_subjects
from fleet_server.core.drift_counts import (
    HORIZONS,
    Counts,
    FamilyCounts,
    Sums,
    add_devices,
    device_sums,
    find_fresh,
    reference_answers,
    reference_cells,
)
from fleet_server.core.drift_policy import DriftPolicy, Level

GROUPS_EXPLAINED_MAX = 8
DEVIANT_SHARE = 0.2
"""Of a group's members, left out before it may be blamed."""
SHARED_LOG_P = math.log(1e-3)
"""What the others must still show."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """One subject that moved by itself.

    Attributes:
        level: Device, group or fleet.
        subject: Its name.
        members: Devices it stands for, [D].
        others: Devices it was compared with, [D]; empty where the reference alone decided.
        crossed: [4, features + 1], cells below the threshold with the effect of an alarm.
        shared: [features + 1], what the members visibly have in common; a member's own alarm
            about these says nothing new.
    """

    level: Level
    subject: str
    members: Mask
    others: Mask
    crossed: Mask
    shared: Mask


class Scene:
    """A family's counters with everything needed to compare any set of devices."""

    def __init__(
        self,
        family: FamilyCounts,
        policy: DriftPolicy,
        *,
        now_ms: int,
        log_threshold: float,
        ignore_before_ms: Mapping[tuple[Level, str], int],
    ) -> None:
        self.family, self.policy, self.log_threshold = family, policy, log_threshold
        self.fresh = find_fresh(family, now_ms)
        self.baseline = reference_cells(family.features)
        self.baseline_answers = reference_answers(family.outputs, family.answers.shape[2])
        self.sums = device_sums(family)
        self.devices = self.against_reference(self.sums)
        self._ignore_before_ms = ignore_before_ms

    def add(self, masks: Mask, output_of: Counts | None = None) -> Sums:
        """Add devices into subjects, [S, D]."""
        return add_devices(self.family, masks, self.fresh, output_of)

    def against_reference(self, sums: Sums) -> SubjectResults:
        """Compare with the training reference."""
        return compare_subjects(
            sums,
            self.baseline,
            self.baseline_answers,
            self.family.outputs,
            variation=self.policy.variation,
        )

    def against(self, sums: Sums, others: Sums) -> SubjectResults:
        """Compare subjects with other devices, one to one."""
        return compare_subjects(
            sums,
            others.cells,
            others.answers,
            self.family.outputs,
            variation=self.policy.variation,
            is_reference=False,
        )

    def find_crossed(self, results: SubjectResults, level: Level, names: Sequence[str]) -> Mask:
        """Mark [S, 4, features + 1] what is certain enough and large enough for an alarm."""
        is_new = results.since_ms >= np.array(
            [[self._ignore_before_ms.get((level, name), 0)] for name in names]
        )
        crossed: Mask = (
            (results.log_p < self.log_threshold)
            & (results.psi >= self.policy.psi_watch)
            & (results.rows >= self.policy.rows_min)
            & is_new[:, :, None]
        )
        return crossed

    def find_shared(self, results: SubjectResults) -> Mask:
        """Mark [S, features + 1] what moved visibly, if not enough for an alarm of its own."""
        is_visible = (results.log_p < SHARED_LOG_P) & (results.psi >= self.policy.psi_watch / 2)
        return np.asarray(is_visible.any(1))

    def is_shared(self, members: Mask, others: Mask | None, at: tuple[int, int]) -> bool:
        """Tell whether a cell moves without the most deviant of the members."""
        horizon, feature = at
        numbers = np.flatnonzero(members & self.fresh[:, horizon])
        order = numbers[np.argsort(self.devices.log_p[numbers, :, feature].min(1), kind="stable")]
        kept = order[math.ceil(DEVIANT_SHARE * len(order)) :]
        if not len(kept):
            return False
        mask = np.zeros_like(members)
        mask[kept] = True
        sums = self.add(mask[None])
        if others is None:
            results = self.against_reference(sums)
        else:
            results = self.against(sums, self.add(others[None], sums.output_of))
        return bool(
            results.log_p[0, horizon, feature] < SHARED_LOG_P
            and results.psi[0, horizon, feature] >= self.policy.psi_watch / 2
        )


def find_blames(
    scene: Scene, groups: Mapping[str, Mask], everybody: Sequence[tuple[Level, str]]
) -> list[Blame]:
    """Attribute what moved: groups first, then everybody, then single devices.

    Args:
        scene: The family.
        groups: Proper parts of it, by name.
        everybody: What all its devices together are called, the name to blame first; empty
            when they are nothing.
    """
    remaining = np.ones(len(scene.family.device_ids), bool)
    blames: list[Blame] = []
    open_groups = dict(groups)
    while open_groups and len(blames) < GROUPS_EXPLAINED_MAX:
        found = _find_group(scene, open_groups, remaining)
        if found is None:
            break
        blames.append(found)
        remaining &= ~found.members
        del open_groups[found.subject]
    whole = _find_everybody(scene, remaining, everybody[0]) if everybody else None
    if whole is not None:
        blames.append(whole)
    return [*blames, *find_devices(scene, blames)]


def find_devices(scene: Scene, blames: Sequence[Blame]) -> list[Blame]:
    """Find the devices that moved in a way no blame of a larger set covers."""
    ids = scene.family.device_ids
    crossed = scene.find_crossed(scene.devices, Level.DEVICE, ids)
    for blame in blames:
        crossed[np.ix_(blame.members, np.ones(len(HORIZONS), bool), blame.shared)] = False
    found = []
    for number in np.flatnonzero(crossed.any((1, 2))):
        members = np.zeros(len(ids), bool)
        members[number] = True
        found.append(
            Blame(
                level=Level.DEVICE,
                subject=ids[number],
                members=members,
                others=~members,
                crossed=crossed[number],
                shared=crossed[number].any(0),
            )
        )
    return found


def find_groups(masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """Keep groups that say something: two members or more, not all, and no two the same."""
    kept: dict[str, Mask] = {}
    seen: set[bytes] = set()
    for name, mask in masks.items():
        count = int(mask.sum())
        if 2 <= count < len(mask) and mask.tobytes() not in seen:
            seen.add(mask.tobytes())
            kept[name] = mask
    return kept


def _find_group(scene: Scene, groups: dict[str, Mask], remaining: Mask) -> Blame | None:
    names = [name for name, mask in groups.items() if (mask & remaining).sum() >= 2]
    while names:
        members = np.array([groups[name] & remaining for name in names])
        others = np.array([remaining & ~groups[name] for name in names])
        sums = scene.add(members)
        rest = scene.against(sums, scene.add(others, sums.output_of))
        own = scene.against_reference(sums)
        crossed = scene.find_crossed(rest, Level.GROUP, names)
        crossed &= scene.find_crossed(own, Level.GROUP, names)
        strength = np.where(crossed, rest.log_p, 0.0).reshape(len(names), -1)
        best = int(strength.min(1).argmin())
        if not crossed[best].any():
            return None
        at = np.unravel_index(int(strength[best].argmin()), crossed.shape[1:])
        if scene.is_shared(members[best], others[best], (int(at[0]), int(at[1]))):
            return Blame(
                level=Level.GROUP,
                subject=names[best],
                members=members[best],
                others=others[best],
                crossed=crossed[best],
                shared=scene.find_shared(own)[best],
            )
        del names[best]
    return None


def _find_everybody(scene: Scene, remaining: Mask, everybody: tuple[Level, str]) -> Blame | None:
    if remaining.sum() < 2:
        return None
    results = scene.against_reference(scene.add(remaining[None]))
    crossed = scene.find_crossed(results, everybody[0], [everybody[1]])[0]
    if not crossed.any():
        return None
    at = np.unravel_index(int(np.where(crossed, results.log_p[0], 0.0).argmin()), crossed.shape)
    if not scene.is_shared(remaining, None, (int(at[0]), int(at[1]))):
        return None
    return Blame(
        level=everybody[0],
        subject=everybody[1],
        members=remaining,
        others=np.zeros_like(remaining),
        crossed=crossed,
        shared=scene.find_shared(results)[0],
    )
