"""Cut the devices of a rollout into stages. Pure, and the same again when planned again.

Percentages and counts are totals: ``5%,25%,100%`` and ``2,20,rest`` say how many devices have been
offered the version when the stage is done. A stage may also be the name of a group. Devices come
in the order of a hash of release and id, those online at planning first (an offline canary shows
nothing); profiles are mixed in their proportion, each represented as early as the sizes allow.
Every device is in exactly one stage and every stage has at least one device.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil

from fleet_server.core.targeting import Candidate

STAGES_MAX = 20
STAGES_CHARS_MAX = 2_000
COUNT_MAX = 10_000_000
REST = "rest"
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class StageError(ValueError):
    """The stages cannot be read or do not fit the devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage as it was asked for; exactly one of the three is set.

    Attributes:
        text: As written.
        share: Total share of the devices when the stage is done, above 0 to 1.
        count: Total number of devices when the stage is done, 1 or more.
        group: Name of a group.
    """

    text: str
    share: Fraction | None = None
    count: int | None = None
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One stage with the devices it holds, in the order they are offered."""

    name: str
    devices: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Who is in which stage, and sentences on what could not be honoured."""

    stages: tuple[PlannedStage, ...]
    notes: tuple[str, ...]


def parse_stages(text: str) -> tuple[StageSpec, ...]:
    """Read ``5%,25%,100%``, ``2,20,rest`` or group names.

    Raises:
        StageError: Empty, too many, not readable or not growing.

    >>> [str(stage.share) for stage in parse_stages("5%,100%")]
    ['1/20', '1']
    """
    if len(text) > STAGES_CHARS_MAX:
        raise StageError(f"stages have {len(text)} characters; the limit is {STAGES_CHARS_MAX}")
    specs = tuple(_parse_stage(part.strip()) for part in text.split(","))
    if len(specs) > STAGES_MAX:
        raise StageError(f"{len(specs)} stages; the limit is {STAGES_MAX}")
    for kind in ("share", "count"):
        values = [value for spec in specs if (value := getattr(spec, kind)) is not None]
        if any(late <= early for early, late in pairwise(values)):
            raise StageError(f"stages {text!r}: totals must grow from stage to stage")
    return specs


def _parse_stage(part: str) -> StageSpec:
    if part == REST:
        return StageSpec(text=part, share=Fraction(1))
    if match := _SHARE.fullmatch(part):
        share = Fraction(match[1]) / 100
        if not 0 < share <= 1:
            raise StageError(f"stage {part!r}: a percentage is above 0 and at most 100")
        return StageSpec(text=part, share=share)
    if part.isascii() and part.isdigit():
        if len(part) > 8 or not 1 <= int(part) <= COUNT_MAX:
            raise StageError(f"stage {part[:20]!r}: a count is 1 to {COUNT_MAX}")
        return StageSpec(text=part, count=int(part))
    if _NAME.fullmatch(part):
        return StageSpec(text=part, group=part)
    raise StageError(f"stage {part[:80]!r}: write a percentage, a count, a group's name or `rest`")


def plan_stages(
    devices: Sequence[Candidate],
    stages: Sequence[StageSpec],
    *,
    release: str,
    groups: Mapping[str, Callable[[Candidate], bool]],
) -> StagePlan:
    """Put every device into one stage.

    Args:
        devices: Who can be given the version, at least one.
        stages: As read by ``parse_stages``.
        release: ``MODEL/VERSION``; seeds the order, so that not the same devices are always first.
        groups: Tests by name for every group the stages name.

    Raises:
        StageError: No device, an unknown group, or stages that leave devices in none.
    """
    if not devices:
        raise StageError("there is no device to plan for")
    notes: list[str] = []
    wanted = _drop_surplus(stages, len(devices), notes)
    remaining = _order(devices, release)
    planned: list[PlannedStage] = []
    for index, stage in enumerate(wanted):
        later = sum(1 for other in wanted[index + 1 :] if not other.group)
        if stage.group:
            if stage.group not in groups:
                raise StageError(f"stage {stage.text!r}: there is no group of that name")
            taken = [device for device in remaining if groups[stage.group](device)]
        else:
            room = max(1, len(remaining) - later)
            total = _total(stage, len(devices))
            taken = remaining[: min(room, max(1, total - (len(devices) - len(remaining))))]
        if not taken:
            notes.append(f"stage {stage.text} has no device of its own and is left out")
            continue
        chosen = {device.number for device in taken}
        remaining = [device for device in remaining if device.number not in chosen]
        planned.append(PlannedStage(name=stage.text, devices=tuple(taken)))
    if remaining:
        raise StageError(
            f"{len(remaining)} of {len(devices)} devices are in no stage;"
            " let the last stage be 100% or name a smaller group"
        )
    notes += _untried_profiles(planned)
    return StagePlan(stages=tuple(planned), notes=tuple(notes))


def _drop_surplus(stages: Sequence[StageSpec], devices: int, notes: list[str]) -> list[StageSpec]:
    """Leave out middle stages when there are more stages than devices."""
    kept = list(stages)
    while len(kept) > max(devices, 1):
        dropped = kept.pop(max(len(kept) - 2, 0))
        notes.append(
            f"stage {dropped.text} is left out: {len(stages)} stages need {len(stages)} devices,"
            f" there {'is' if devices == 1 else 'are'} {devices}"
        )
    return kept


def _total(stage: StageSpec, devices: int) -> int:
    if stage.share is not None:
        return ceil(stage.share * devices)
    return min(stage.count or 1, devices)


def _order(devices: Iterable[Candidate], release: str) -> list[Candidate]:
    """Mix profiles in proportion: one of each first, then by relative rank within the profile."""
    by_profile: dict[str, list[tuple[bool, str, Candidate]]] = defaultdict(list)
    for device in devices:
        digest = hashlib.sha256(f"{release}\n{device.id}".encode()).hexdigest()
        by_profile[device.profile].append((not device.is_online, digest, device))
    keyed: list[tuple[bool, float, str, Candidate]] = []
    for ranked in by_profile.values():
        ranked.sort(key=lambda entry: entry[:2])
        for rank, (_, digest, device) in enumerate(ranked):
            place = -float(len(ranked)) if rank == 0 else (rank + 0.5) / len(ranked)
            keyed.append((rank > 0, place, digest, device))
    keyed.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in keyed]


def _untried_profiles(planned: Sequence[PlannedStage]) -> list[str]:
    first = {device.profile for device in planned[0].devices}
    notes: list[str] = []
    seen = set(first)
    for number, stage in enumerate(planned[1:], start=2):
        fresh = sorted({device.profile for device in stage.devices} - seen)
        seen.update(fresh)
        notes += [f"profile {profile} is first tried in stage {number}" for profile in fresh]
    return notes
