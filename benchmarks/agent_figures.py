"""Lines of ``bench_agent``: a value, its floor of the same run, and what it is held to."""

import json
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure is held to.

    Attributes:
        limit: Of the ratio to the floor, or of the value.
        is_most: Whether ``limit`` is an upper bound.
        is_ratio: Whether it is of the ratio.
    """

    limit: float
    is_most: bool = True
    is_ratio: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """One line."""

    name: str
    value: float
    floor: float | None = None
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """Value to floor; None without one."""
        return self.value / self.floor if self.floor else None

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached; a figure without one is."""
        if self.goal is None:
            return True
        held = self.ratio if self.goal.is_ratio else self.value
        if held is None:
            return False
        return held <= self.goal.limit if self.goal.is_most else held >= self.goal.limit

    def line(self) -> str:
        """Write it as JSON."""
        return json.dumps(
            {
                "name": self.name,
                "value": round(self.value, 3),
                "floor": None if self.floor is None else round(self.floor, 3),
                "ratio": None if self.ratio is None else round(self.ratio, 3),
                "goal": None if self.goal is None else self.goal.limit,
                "ok": self.is_met,
            }
        )


def say(words: str) -> None:
    """Tell a person, beside the figures."""
    print(words, file=sys.stderr, flush=True)
