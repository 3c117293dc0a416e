"""Collect every problem of a spec with its line, and read tables without stopping at the first.

A reader that finds a wrong value notes the problem and returns a harmless one, so that the rest
is still checked and the person mends everything at once.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet_server.errors import MisuseError
from fleet_server.training.spec_keys import KNOWN, LATER, say_later
from fleet_server.training.spec_lines import KeyPath, line_of

PROBLEMS_SHOWN_MAX = 50
VALUE_CHARS_SHOWN_MAX = 60


class SpecError(MisuseError):
    """A spec that cannot be used, with every problem found.

    Attributes:
        problems: (line, sentence), by line.
    """

    def __init__(self, source: str, problems: list[tuple[int, str]]) -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        shown = [f"  line {line}: {say}" for line, say in problems[:PROBLEMS_SHOWN_MAX]]
        if len(problems) > PROBLEMS_SHOWN_MAX:
            shown.append(f"  and {len(problems) - PROBLEMS_SHOWN_MAX} more")
        super().__init__("\n".join([f"{source}: {count}", *shown]))
        self.problems = tuple(problems)


@dataclass(slots=True, kw_only=True)
class Problems:
    """What is wrong so far."""

    lines: dict[KeyPath, int]
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, path: KeyPath, say: str) -> None:
        """Note a problem at a key."""
        self.found.append((line_of(path, self.lines), f"{'.'.join(path)}: {say}"))

    def sorted(self) -> list[tuple[int, str]]:
        """Give each problem once, by line."""
        return sorted(set(self.found))


class Section:
    """One table of the spec, read key by key.

    Args:
        problems: Where problems go.
        path: Of the table.
        value: What the file says; anything but a table is a problem.
        kind: Its name in ``spec_keys``; None when the keys are the user's own names.
    """

    def __init__(
        self, problems: Problems, path: KeyPath, value: Any, *, kind: str | None = None
    ) -> None:
        self.problems, self.path = problems, path
        self.values: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        if value is not None and not isinstance(value, Mapping):
            problems.add(path, f"must be a table, got {show(value)}")
        if kind is not None:
            self._check_keys(KNOWN[kind], LATER.get(kind, {}))

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def add(self, key: str, say: str) -> None:
        """Note a problem at one of this table's keys."""
        self.problems.add((*self.path, key), say)

    def section(self, key: str, *, kind: str | None = None) -> "Section":
        """Read a table inside this one; an absent one is empty."""
        return Section(self.problems, (*self.path, key), self.values.get(key), kind=kind)

    def text(self, key: str, *, is_required: bool = False, chars_max: int = 1_000) -> str:
        """Read a text; empty when absent or wrong."""
        value = self._get(key, is_required=is_required)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.add(key, f"must be text, got {show(value)}")
            return ""
        if len(value) > chars_max:
            self.add(key, f"has {len(value)} characters, at most {chars_max}")
            return ""
        if is_required and not value.strip():
            self.add(key, "is empty")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.add(key, f"must be true or false, got {show(value)}")
            return default
        return value

    def integer(self, key: str, default: int, *, low: int, high: int) -> int:
        """Read a whole number in [low, high]."""
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.add(key, f"must be a whole number from {low} to {high}, got {show(value)}")
            return default
        return value

    def number(
        self,
        key: str,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        is_required: bool = False,
        unit: str = "",
    ) -> float | None:
        """Read a finite number in [low, high]; None when absent or wrong."""
        value = self._get(key, is_required=is_required)
        if value is None:
            return None
        if not is_number(value):
            self.add(key, f"must be a number, got {show(value)}")
            return None
        if not low <= value <= high:
            self.add(key, f"{show(value)} must lie {_say_range(low, high)}{unit}")
            return None
        return float(value)

    def items(self, key: str, *, items_max: int) -> list[Any]:
        """Read an array; empty when absent or wrong."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.add(key, f"must be an array, got {show(value)}")
            return []
        if len(value) > items_max:
            self.add(key, f"has {len(value)} items, at most {items_max}")
            return []
        return value

    def _get(self, key: str, *, is_required: bool = False) -> Any:
        if is_required and key not in self.values:
            self.add(key, "missing; it is required")
        return self.values.get(key)

    def _check_keys(self, known: Iterable[str], later: Mapping[str, str]) -> None:
        for key in self.values:
            if key in later:
                self.add(key, say_later(later[key]))
            elif key not in known:
                self.add(key, f"unknown key; {suggest(key, known)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known words, or all of them.

    >>> suggest("paramz", ["params", "seed"])
    'did you mean params?'
    """
    words = list(known)
    near = difflib.get_close_matches(name, words, 1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(words)}"


def is_number(value: Any) -> bool:
    """Tell whether a TOML value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show(value: Any) -> str:
    """Show a value of the file, cut to a bounded length."""
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_SHOWN_MAX else text[:VALUE_CHARS_SHOWN_MAX] + "…"


def _say_range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at or above {low:g}"
    if math.isinf(low):
        return f"at or below {high:g}"
    return f"between {low:g} and {high:g}"
