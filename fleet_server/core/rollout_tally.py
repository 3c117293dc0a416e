"""Count the devices of a rollout by what they are to its gate. Pure.

Counts come grouped from the database; what a look has changed since is moved here, so that a
verdict always sees both. Nothing is ever incremented in storage.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from fleet_server.core.member_gate import MemberCounts
from fleet_server.core.rollout_gate import StageCounts
from fleet_server.core.rollout_outcome import EXPOSED, Outcome, Weight, weigh_outcome


class TallyKey(NamedTuple):
    """What devices are counted by; ``member`` is the model they were offered, empty before."""

    stage: int
    outcome: Outcome
    code: str = ""
    tries: int = 0
    member: str = ""


_BEFORE_SHADOW = frozenset({Outcome.PENDING, Outcome.OFFERED, Outcome.FETCHING, Outcome.TESTING})
_AFTER_SHADOW = frozenset(
    {Outcome.PROBATION, Outcome.CONFIRMED, Outcome.FAILED, Outcome.SILENT_AFTER}
)


class ShadowPlaces(NamedTuple):
    """Devices of a stage by where they stand to the shadow; who is left out is in none."""

    before: int
    within: int
    after: int


class Tally:
    """Devices by stage, outcome, code and tries."""

    def __init__(
        self,
        counted: Mapping[TallyKey, int],
        *,
        tries_max: int,
        excluded: frozenset[str] = frozenset(),
        has_place: bool = False,
    ) -> None:
        """Start from what was counted.

        Args:
            counted: Devices by key.
            tries_max: Tells who is still to be tried again.
            excluded: Members that were taken out: what they did is no evidence on the others.
            has_place: Their devices are to take the fallback, and are waited for.
        """
        self._counts = Counter(counted)
        self._tries_max = tries_max
        self._excluded = excluded
        self._has_place = has_place

    def move(self, before: TallyKey | None, after: TallyKey) -> None:
        """Take one device from where it was, None when it is new, to where it is now."""
        if before is not None:
            self._counts[before] -= 1
        self._counts[after] += 1

    def exclude(self, member: str, *, has_place: bool) -> None:
        """Leave a member out of every count from now on."""
        self._excluded |= {member}
        self._has_place = has_place

    def count_stage(self, stage: int) -> StageCounts:
        """Give one stage as the gate sees it."""
        weights: Counter[Weight] = Counter()
        offline = 0
        for key, count in self._counts.items():
            if key.stage == stage:
                weights[self._weigh(key)] += count
                offline += count if key.outcome is Outcome.SILENT_BEFORE else 0
        return StageCounts(
            targeted=weights.total(),
            confirmed=weights[Weight.CONFIRMED],
            failed=weights[Weight.FAILED],
            left_out=weights[Weight.LEFT_OUT],
            in_flight=weights[Weight.IN_FLIGHT],
            offline=offline,
        )

    def count_shadow(self, stage: int) -> ShadowPlaces:
        """Give one stage as the gate on the shadow sees it."""
        before = within = after = 0
        for key, count in self._counts.items():
            if key.stage != stage:
                continue
            if key.member in self._excluded:
                continue
            weight = self._weigh(key)
            is_tried_again = key.outcome is Outcome.FAILED and weight is Weight.WAITING
            if key.outcome is Outcome.SHADOW:
                within += count
            elif key.outcome in _BEFORE_SHADOW or is_tried_again:
                before += count
            elif key.outcome in _AFTER_SHADOW and weight is not Weight.LEFT_OUT:
                after += count
        return ShadowPlaces(before, within, after)

    def count_members(self) -> dict[str, MemberCounts]:
        """Give what each member of a family did in all stages; who was taken out is absent."""
        found: dict[str, Counter[Weight]] = {}
        for key, count in self._counts.items():
            if not key.member or key.member in self._excluded:
                continue
            weight = self._weigh(key)
            if key.outcome is Outcome.FAILED and weight is Weight.WAITING:
                weight = Weight.IN_FLIGHT  # it is tried again
            found.setdefault(key.member, Counter())[weight] += count
        return {
            name: MemberCounts(
                finished=weights[Weight.CONFIRMED] + weights[Weight.FAILED],
                failed=weights[Weight.FAILED],
                in_flight=weights[Weight.IN_FLIGHT],
            )
            for name, weights in found.items()
            if any(weights[one] for one in (Weight.CONFIRMED, Weight.FAILED, Weight.IN_FLIGHT))
        }

    def _weigh(self, key: TallyKey) -> Weight:
        if key.member in self._excluded:
            is_waited_for = self._has_place and key.outcome in EXPOSED
            return Weight.WAITING if is_waited_for else Weight.LEFT_OUT
        return weigh_outcome(key.outcome, key.code, key.tries, self._tries_max)

    def count(self, *outcomes: Outcome) -> int:
        """Give the number of devices with one of these outcomes, all stages together."""
        return sum(count for key, count in self._counts.items() if key.outcome in outcomes)

    def by_outcome(self, stage: int | None = None) -> dict[Outcome, int]:
        """Give devices by outcome, of one stage or of all; outcomes nobody has are absent."""
        found: Counter[Outcome] = Counter()
        for key, count in self._counts.items():
            if stage is None or key.stage == stage:
                found[key.outcome] += count
        return {outcome: found[outcome] for outcome in Outcome if found[outcome]}
