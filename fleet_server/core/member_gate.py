"""Find the bad member of a family among good ones, however often one looks. Pure.

The gate of a stage pools all members: one bad member in a thousand is lost in it. So each member is
weighed by itself, by a mixture of likelihood ratios of higher failure rates to *goal*, the rate a
good release keeps. Under a rate of goal or less that weight is a supermartingale that starts at
1, so the chance that it ever reaches ``members / alpha``, looked at after every report, is at
most ``alpha / members`` (Ville 1939). Summed over the members of the rollout: any good member is
taken out in at most a share alpha of rollouts, however devices are spread over members.

A self-test fails in seconds and a probation holds for minutes, so failures come first. A device
that was offered the member counts as holding until it has failed: the weight is then never above
that of the devices in the order of their offers, which no outcome decides, and the bound holds.

Half of the mixture is a member that fails nearly everywhere, as a wrong package does: three
failures of three are enough among a thousand members. Two of two are not: with a goal of 2 % chance
alone brings that about in a family of that size.

What is not judged here: a member that fails a little more often than the goal on few devices, and
shadows, which are judged together.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from fleet_server.core.rollout_words import say_share, say_span

ALPHA_DEFAULT = 0.05
ALPHA_MIN, ALPHA_MAX = 1e-6, 0.5
GOAL_MIN = 0.001
"""Below it a single failure would condemn."""
MIXTURE = ((0.95, 0.5), (0.5, 0.2), (0.2, 0.2), (0.1, 0.1))
"""How far each alternative is from the goal to 1, and its weight; together 1."""
EXCLUDED_SHARE_MAX = 0.1
"""Of the members with devices; more, and more than one, stop the whole rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberTest:
    """Limits of the check of single members.

    Attributes:
        alpha: Share of rollouts in which any member that keeps the goal is taken out, at most.
        members: Members that have devices in the rollout.
    """

    alpha: float = ALPHA_DEFAULT
    members: int = 1

    def __post_init__(self) -> None:
        if not ALPHA_MIN <= self.alpha <= ALPHA_MAX:  # written so that NaN is refused too
            raise ValueError(
                f"the false alarms of members must be {ALPHA_MIN:g} to {ALPHA_MAX:g},"
                f" got {self.alpha}"
            )
        if self.members < 1:
            raise ValueError(f"members must be 1 or more, got {self.members}")

    @property
    def halt_at(self) -> float:
        """Evidence at which a member is taken out."""
        return math.log(self.members / self.alpha)

    @property
    def excluded_max(self) -> int:
        """Members that may be taken out before the whole rollout stops."""
        return max(1, math.floor(EXCLUDED_SHARE_MAX * self.members))

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCounts:
    """Devices of one member, all stages together.

    Attributes:
        finished: Confirmed or failed there.
        failed: Of these.
        in_flight: Offered it and not finished.
    """

    finished: int
    failed: int
    in_flight: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.failed <= self.finished:
            raise ValueError(f"failed {self.failed} of finished {self.finished} is no share")
        if self.in_flight < 0:
            raise ValueError(f"in flight must be 0 or more, got {self.in_flight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedMember:
    """A member that was taken out of a rollout.

    Attributes:
        model: Its model name.
        finished: Devices it was judged by.
        failed: Of these.
        at: When.
        in_flight: Devices that had not finished then.
    """

    model: str
    finished: int
    failed: int
    at: datetime
    in_flight: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ExcludedMember":
        """Read the JSON form that ``to_json`` gave."""
        return cls(**{**value, "at": datetime.fromisoformat(value["at"])})


def weigh_member(counts: MemberCounts, goal: float) -> float:
    """Give the log of the mixture of likelihood ratios; 0 without devices.

    >>> three = weigh_member(MemberCounts(finished=3, failed=3), goal=0.02)
    >>> three > MemberTest(members=1_000).halt_at > weigh_member(
    ...     MemberCounts(finished=2, failed=2), goal=0.02
    ... )
    True
    """
    goal = max(goal, GOAL_MIN)
    parts = []
    for share, weight in MIXTURE:
        rate = goal + (1 - goal) * share
        bad, good = math.log(rate / goal), math.log((1 - rate) / (1 - goal))
        held = counts.finished - counts.failed + counts.in_flight
        parts.append(math.log(weight) + counts.failed * bad + held * good)
    highest = max(parts)
    return highest + math.log(sum(math.exp(part - highest) for part in parts))


def find_bad_members(
    counts: Mapping[str, MemberCounts], test: MemberTest, goal: float
) -> list[str]:
    """Name the members whose own evidence says that they fail too often, the worst first."""
    found = {name: weigh_member(one, goal) for name, one in counts.items() if one.failed}
    bad = [name for name, evidence in found.items() if evidence >= test.halt_at]
    return sorted(bad, key=lambda name: (-found[name], name))


def say_member(model: str, counts: MemberCounts, test: MemberTest, goal: float) -> str:
    """Say why a member is taken out, without what becomes of its devices."""
    return (
        f"{model}: {say_span(counts.failed, counts.finished)} Goal {say_share(goal)}: its own"
        f" evidence says it fails too often (one of {test.members:,} members; good ones are taken"
        f" out in at most {say_share(test.alpha)} of rollouts)."
    )
