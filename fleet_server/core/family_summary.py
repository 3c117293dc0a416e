"""Sum up a family: how its members do, and how the new ones compare with those in service. Pure.

With thousands of members some look better or worse than their champion by chance alone. So a
member counts as better or worse only where Benjamini-Hochberg over all members says so; the rest is
within the noise of its held-out rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fleet_server.core.drift_compare import find_notable

FALSE_SHARE = 0.1
"""Of the members called better (or worse), at most this share by chance."""
BINS = 10
_Z_BOUND = 1.6448536269514722
"""The bounds are one-sided, 95 %."""


class Standing(StrEnum):
    """How a member's newest version compares with its version in service."""

    BETTER = "better"
    WITHIN_NOISE = "within noise"
    WORSE = "worse"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Candidate minus champion on the same rows, above 0 where the candidate is better.

    Attributes:
        value: In the metric's own unit.
        low: One-sided 95 % bound below.
        high: One-sided 95 % bound above.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One metric over the members.

    Attributes:
        metric: Its name.
        best: Value and member.
        median: Value.
        worst: Value and member.
        counts: Members in each of ``BINS`` bins of equal width.
        edges: Of the bins, ascending; one more than there are bins.
    """

    metric: str
    best: tuple[float, str]
    median: float
    worst: tuple[float, str]
    counts: tuple[int, ...]
    edges: tuple[float, ...]


def spread_metric(metric: str, values: Mapping[str, float], *, is_larger_better: bool) -> Spread:
    """Sum one metric up.

    Args:
        metric: Its name.
        values: By member; one at least.
        is_larger_better: Which end is the best.
    """
    ranked = sorted(values.items(), key=lambda item: (item[1], item[0]), reverse=is_larger_better)
    numbers = np.array([value for value in values.values() if math.isfinite(value)])
    counts, edges = np.histogram(numbers, BINS) if len(numbers) else (np.zeros(0), np.zeros(0))
    return Spread(
        metric=metric,
        best=(ranked[0][1], ranked[0][0]),
        median=ranked[len(ranked) // 2][1],
        worst=(ranked[-1][1], ranked[-1][0]),
        counts=tuple(int(count) for count in counts),
        edges=tuple(float(edge) for edge in edges),
    )


def rank_members(values: Mapping[str, float], *, is_larger_better: bool) -> list[str]:
    """Name members, the worst first.

    >>> rank_members({"a": 0.9, "b": 0.5}, is_larger_better=True)
    ['b', 'a']
    """
    return sorted(values, key=lambda name: (values[name] * (1 if is_larger_better else -1), name))


def compare_members(differences: Mapping[str, Difference | None]) -> dict[str, Standing]:
    """Tell of each member how it compares with its champion.

    Args:
        differences: By member; None where nothing was compared.

    >>> one = Difference(value=0.5, low=0.4, high=0.6)
    >>> compare_members({"a": one, "b": None})["a"].value
    'better'
    """
    named = [(name, found) for name, found in differences.items() if found is not None]
    better = _find_shown([_log_p(found.value, found) for _, found in named])
    worse = _find_shown([_log_p(-found.value, found) for _, found in named])
    found = dict.fromkeys(differences, Standing.NOT_COMPARED)
    for (name, _), is_better, is_worse in zip(named, better, worse, strict=True):
        found[name] = Standing.WITHIN_NOISE
        if is_better:
            found[name] = Standing.BETTER
        elif is_worse:
            found[name] = Standing.WORSE
    return found


def _find_shown(log_p: Sequence[float]) -> list[bool]:
    return [bool(one) for one in find_notable(np.array(log_p), FALSE_SHARE)]


def _log_p(value: float, difference: Difference) -> float:
    """Give the log of the chance of such a value or a larger one where there is no difference."""
    error = (difference.high - difference.low) / (2 * _Z_BOUND)
    if value <= 0:
        return 0.0
    if error <= 0:
        return -math.inf
    p = 0.5 * math.erfc(value / error / math.sqrt(2))
    return math.log(p) if p > 0 else -math.inf
