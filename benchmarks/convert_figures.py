"""One measured figure of the conversion benchmark and its goal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure; without a goal it is told for its own sake.

    Attributes:
        name: Dotted.
        value: Mostly a ratio within this run.
        at_least: Smallest value that meets the goal.
        at_most: Largest value that meets the goal.
        skipped: Why it was not measured.
        more: What it was made of.
    """

    name: str
    value: float = 0.0
    at_least: float | None = None
    at_most: float | None = None
    skipped: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether no goal is missed."""
        if self.skipped:
            return True
        return not (
            (self.at_least is not None and self.value < self.at_least)
            or (self.at_most is not None and self.value > self.at_most)
        )

    def to_json(self) -> dict[str, Any]:
        """Give the line that is printed."""
        line: dict[str, Any] = {"name": self.name}
        if self.skipped:
            return {**line, "skipped": self.skipped}
        line["value"] = round(self.value, 4)
        if self.at_least is not None:
            line["at_least"] = self.at_least
        if self.at_most is not None:
            line["at_most"] = self.at_most
        return {**line, "ok": self.is_met, **self.more}
