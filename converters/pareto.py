"""Which rungs nothing beats in every respect at once: the Pareto front. Pure.

The front shows what could be had for what; the choice among it is the ladder's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from converters.ladder import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One rung in the four respects; less is better in each."""

    name: str
    metric_drop: float
    latency: float
    size_bytes: float
    rss_bytes: float


def point_of(rung: Rung) -> Point:
    """Give the place of a built rung."""
    return Point(
        name=rung.name,
        metric_drop=rung.metric_drop,
        latency=rung.latency_ratio.value,
        size_bytes=rung.model_bytes,
        rss_bytes=rung.rss_bytes,
    )


def find_front(points: Sequence[Point]) -> list[Point]:
    """Give the points that no other beats in one respect without losing in another.

    >>> point = lambda name, drop, size: Point(
    ...     name=name, metric_drop=drop, latency=1, size_bytes=size, rss_bytes=0)
    >>> [p.name for p in find_front([point("a", 0, 9), point("b", 0.1, 3), point("c", 0.2, 4)])]
    ['a', 'b']
    """
    return [one for one in points if not any(_dominates(other, one) for other in points)]


def _dominates(one: Point, other: Point) -> bool:
    figures = [
        (getattr(one, name), getattr(other, name))
        for name in ("metric_drop", "latency", "size_bytes", "rss_bytes")
    ]
    return all(a <= b for a, b in figures) and any(a < b for a, b in figures)
