"""What differs between two states of approved packages; pure."""

from collections.abc import Mapping
from typing import TypeVar

Target = TypeVar("Target")


def find_changes(
    before: Mapping[str, Target], after: Mapping[str, Target]
) -> dict[str, tuple[Target | None, Target | None]]:
    """Give every path that was added, removed or changed, with both sides, by path.

    >>> find_changes({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5})
    {'a': (1, None), 'c': (3, 4), 'd': (None, 5)}
    """
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }
