"""Tell whether one rung is better than another beyond the noise of the measurement. Pure.

Accuracy is compared on the same held-out rows: exactly, by the rows that only one of the two gets
right (McNemar), or by the metric over the same resamples of rows. Latency is compared round by
round. Size and memory have a step below which a difference is worth nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SAVING_BYTES_MIN = 65_536
"""One chunk of a transfer; below it a device downloads no less."""
SAVING_SHARE_MIN = 0.10
LATENCY_SHARE_MIN = 0.05
"""No difference below 5 % is believed, however quiet the machine was."""
MEMORY_BYTES_MIN = 2_097_152
"""Resident memory of equal processes differs by up to half a mebibyte."""
CONFIDENCE = 0.95
RESAMPLES = 200
RESAMPLED_ROWS_MAX = 2_000_000
"""Of all resamples together; more rows get fewer of them, 40 at least."""
_SEED = 20_261
_EXACT_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with the bounds it lies in with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What rungs are compared on, draw by draw; the same rounds and rows for every rung.

    Attributes:
        latency_ms: Median of one row's latency in each interleaved round.
        hits: Which held-out rows are answered rightly; None where the metric is not accuracy.
        scores: The metric over each resample of the held-out rows.
        is_higher_better: Direction of the metric.
    """

    latency_ms: Array
    hits: Array | None
    scores: Array
    is_higher_better: bool = field(default=True)


def compare_latency(one: Samples, other: Samples) -> Interval:
    """Give the latency of one as a multiple of the other's, with its interval."""
    return find_median(one.latency_ms / other.latency_ms)


def is_more_accurate(one: Samples, other: Samples) -> bool:
    """Tell whether one is right more often than chance between equals allows."""
    if one.hits is not None and other.hits is not None:
        only_one = int(np.sum(one.hits & ~other.hits))
        only_other = int(np.sum(other.hits & ~one.hits))
        return only_one > only_other and mcnemar(only_one, only_other) < 1 - CONFIDENCE
    sign = 1 if one.is_higher_better else -1
    gains = sign * (one.scores - other.scores)
    return bool(gains.size) and find_spread(gains).low > 0


def is_faster(one: Samples, other: Samples) -> bool:
    """Tell whether one is faster, by 5 % at least and in an interval that excludes equality."""
    ratio = compare_latency(one, other)
    return ratio.value < 1 - LATENCY_SHARE_MIN and ratio.high < 1


def is_smaller(one_bytes: int, other_bytes: int) -> bool:
    """Tell whether a transfer saves a chunk and a tenth.

    >>> is_smaller(200_000, 300_000), is_smaller(10_000, 70_000), is_smaller(930_000, 1_000_000)
    (True, False, False)
    """
    saved = other_bytes - one_bytes
    return saved >= SAVING_BYTES_MIN and saved >= SAVING_SHARE_MIN * other_bytes


def is_leaner(one_bytes: int, other_bytes: int) -> bool:
    """Tell whether a process needs less memory; never where one was not measured (0)."""
    return min(one_bytes, other_bytes) > 0 and other_bytes - one_bytes >= MEMORY_BYTES_MIN


def mcnemar(only_one: int, only_other: int) -> float:
    """Give the exact two-sided chance that two equally good models differ by as much.

    >>> round(mcnemar(6, 0), 4), mcnemar(1, 1)
    (0.0312, 1.0)
    """
    both = only_one + only_other
    if both == 0:
        return 1.0
    few = min(only_one, only_other)
    if both > _EXACT_MAX:
        distance = (abs(only_one - only_other) - 1) / math.sqrt(both)
        return math.erfc(max(0.0, distance) / math.sqrt(2))
    tail = sum(math.comb(both, count) for count in range(few + 1))
    return float(min(1.0, 2 * tail / 2**both))


def find_median(values: Array) -> Interval:
    """Give the median of independent rounds and its distribution-free interval.

    Fewer than six rounds cannot give 95 %: their whole range stands for it.

    >>> find_median(np.arange(9.0))
    Interval(value=4.0, low=1.0, high=7.0)
    """
    ordered = np.sort(values)
    count = len(ordered)
    cut = 0
    while 2 * _binomial_below(count, cut + 2) <= 1 - CONFIDENCE:
        cut += 1
    return Interval(
        value=float(np.median(ordered)),
        low=float(ordered[cut]),
        high=float(ordered[count - 1 - cut]),
    )


def find_spread(draws: Array) -> Interval:
    """Give mean and 95 % percentile interval of resampled figures."""
    half = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [half, 1 - half])
    return Interval(value=float(np.mean(draws)), low=float(low), high=float(high))


@lru_cache(maxsize=1)
def draw_places(rows: int) -> Array:
    """Give the resamples of rows that every rung is scored on [resamples, rows]."""
    random = np.random.default_rng(_SEED)
    count = min(RESAMPLES, max(40, RESAMPLED_ROWS_MAX // max(1, rows)))
    return random.integers(0, rows, (count, rows), dtype=np.int32)


def draw_scores(rows: int, score: Callable[[Array], float]) -> Array:
    """Give a metric over resamples of the rows: the same resamples for every rung.

    Args:
        rows: How many there are.
        score: From the places of drawn rows to the metric; a draw it cannot score is NaN and
            left out by giving it the median of the others.
    """
    scores = np.array([score(places) for places in draw_places(rows)])
    is_finite = np.isfinite(scores)
    if not is_finite.any():
        return np.zeros(0)
    scores[~is_finite] = np.median(scores[is_finite])
    return scores


def draw_shares(hits: Array) -> Array:
    """Give the share of right answers over the same resamples."""
    shares: Array = hits[draw_places(len(hits))].mean(axis=1)
    return shares


def _binomial_below(count: int, places: int) -> float:
    """Chance of fewer than ``places`` heads among ``count`` tosses."""
    return float(sum(math.comb(count, heads) for heads in range(places)) / 2**count)
