"""Look at a family as one thing: its members, how they do, and what to approve of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet_server.core.family_summary import (
    Difference,
    Spread,
    Standing,
    compare_members,
    rank_members,
    spread_metric,
)
from fleet_server.errors import NotFoundError
from fleet_server.ports.registry import (
    AGAINST_CHAMPION,
    AGAINST_FALLBACK,
    FamilyMember,
    FamilyRun,
    ModelRegistry,
)
from fleet_server.services.release import APPROVED, REJECTED, Release
from fleet_server.training.metrics import METRICS

INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyView:
    """A family.

    Attributes:
        pattern: Its name, with the columns in braces.
        members: The newest version of each, by name.
        spreads: Every metric over the members, the fallback left out.
        primary: The metric it is named by.
        ranked: Members by that metric, the worst first.
        standings: How the newest versions compare with those in service.
        against_fallback: How they compare with the fallback, on their own held-out rows.
        run: What came of the newest training; None where that was not kept.
        inconclusive: Members with a limit that more rows would settle.
    """

    pattern: str
    members: Mapping[str, FamilyMember]
    spreads: tuple[Spread, ...]
    primary: str
    ranked: tuple[str, ...]
    standings: Mapping[str, Standing]
    against_fallback: Mapping[str, Standing]
    inconclusive: int
    run: FamilyRun | None = None

    @property
    def fallback(self) -> FamilyMember | None:
        """The member for devices that have none."""
        return next((one for one in self.members.values() if one.is_fallback), None)

    @property
    def states(self) -> Mapping[str, int]:
        """How many newest versions there are by state."""
        return dict(Counter(one.state for one in self.members.values()))

    @property
    def ways(self) -> Mapping[str, int]:
        """How many graphs of the newest versions were made in which way."""
        made = Counter(
            way for one in self.members.values() for way in one.run.get("ways", {}).values()
        )
        return dict(made)

    @property
    def in_service(self) -> int:
        """Members that have a version in service."""
        return sum(one.champion > 0 for one in self.members.values())

    def to_approve(self) -> Release:
        """Give the newest versions that nobody rejected; raises RefusedError when there are none.

        Approved ones are in it: what is signed already is not signed again.
        """
        chosen = {n: one.number for n, one in self.members.items() if one.state != REJECTED}
        return Release.of_family(self.pattern, chosen)

    def to_reject(self) -> Release:
        """Give the newest versions that are approved; raises RefusedError when there are none."""
        chosen = {n: one.number for n, one in self.members.items() if one.state == APPROVED}
        return Release.of_family(self.pattern, chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowseFamily:
    """The use case."""

    registry: ModelRegistry

    def view(self, pattern: str) -> FamilyView:
        """Give a family.

        Raises:
            NotFoundError: No such family; names those there are.
        """
        found = {member.model: member for member in self.registry.list_family(pattern)}
        if not found:
            raise self._absent(pattern)
        own = {name: one for name, one in found.items() if not one.is_fallback} or found
        primary = str(next(iter(own.values())).run.get("primary", ""))
        better = {name: metric.is_larger_better for name, metric in METRICS.items()}
        metrics = {
            metric: {n: one.metrics[metric] for n, one in own.items() if metric in one.metrics}
            for metric in next(iter(own.values())).metrics
        }
        ranked = rank_members(metrics.get(primary, {}), is_larger_better=better.get(primary, True))
        return FamilyView(
            pattern=pattern,
            members=found,
            spreads=tuple(
                spread_metric(metric, values, is_larger_better=better.get(metric, True))
                for metric, values in metrics.items()
            ),
            primary=primary,
            ranked=tuple(ranked),
            standings=_compare(found, AGAINST_CHAMPION),
            against_fallback=_compare(found, AGAINST_FALLBACK),
            inconclusive=sum(_is_inconclusive(one.evaluation) for one in found.values()),
            run=self.registry.find_family_run(pattern),
        )

    def _absent(self, pattern: str) -> NotFoundError:
        known = sorted({model.family for model in self.registry.list_models() if model.family})
        listed = f"there are: {', '.join(known[:20])}" if known else "there is none"
        return NotFoundError(f"no family {pattern!r}; {listed}")


def _compare(members: Mapping[str, FamilyMember], key: str) -> dict[str, Standing]:
    return compare_members({name: find_difference(one, key) for name, one in members.items()})


def find_difference(member: FamilyMember, key: str) -> Difference | None:
    """Give how much better a member is than another model on its held-out rows.

    Args:
        member: With its newest version's evaluation.
        key: AGAINST_CHAMPION or AGAINST_FALLBACK.
    """
    found = member.evaluation.get(key)
    if not isinstance(found, dict):
        return None
    return Difference(value=found["value"], low=found["low"], high=found["high"])


def _is_inconclusive(evaluation: Mapping[str, Any]) -> bool:
    return any(gate["verdict"] == INCONCLUSIVE for gate in evaluation.get("gates", ()))
