"""What labels say of a version in service: accuracy or error, each with its interval.

The interval is that of independent rows. Labels that somebody chose to send are no sample of all
answers: a person who corrects mistakes labels mistakes. That is said, not corrected.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval over ``rows`` labels."""

    value: float
    low: float
    high: float
    rows: int


def estimate_share(hits: int, rows: int) -> Estimate | None:
    """Estimate a share by Wilson's interval; None without rows.

    >>> found = estimate_share(90, 100)
    >>> round(found.low, 3), round(found.high, 3)
    (0.826, 0.945)
    """
    if rows <= 0:
        return None
    share, z2 = hits / rows, Z_95 * Z_95
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z_95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows))
    # At either end the exact bound is the end itself; rounding must not move it.
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == rows else middle + half
    return Estimate(value=share, low=low, high=high, rows=rows)


def estimate_mean(total: float, squares: float, rows: int) -> Estimate | None:
    """Estimate a mean from a sum and a sum of squares; None with fewer than two rows.

    >>> found = estimate_mean(10.0, 30.0, 5)
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (2.0, 0.61, 3.39)
    """
    if rows < 2:
        return None
    mean = total / rows
    variance = max(0.0, (squares - rows * mean * mean) / (rows - 1))
    half = Z_95 * math.sqrt(variance / rows)
    return Estimate(value=mean, low=mean - half, high=mean + half, rows=rows)


def estimate_over(estimates: Sequence[Estimate]) -> Estimate | None:
    """Estimate the mean over targets or labels of what is told of each; None without any.

    The interval is the mean of theirs: that of labels which err together, as those of one row do,
    and so wide enough for all others.

    >>> wide, narrow = (Estimate(value=n, low=n - n / 2, high=n + n / 2, rows=8) for n in (4, 2))
    >>> estimate_over([wide, narrow])
    Estimate(value=3.0, low=1.5, high=4.5, rows=16)
    """
    if not estimates:
        return None
    each = [(found.value, found.low, found.high) for found in estimates]
    value, low, high = (sum(column) / len(estimates) for column in zip(*each, strict=True))
    return Estimate(value=value, low=low, high=high, rows=sum(found.rows for found in estimates))


def recall_by_class(cells: Sequence[tuple[int, int, int]]) -> dict[int, Estimate]:
    """Estimate per true class how often it was found; cells are (predicted, label, rows).

    >>> recall_by_class([(0, 0, 8), (1, 0, 2)])[0].value
    0.8
    """
    hits: dict[int, int] = {}
    rows: dict[int, int] = {}
    for predicted, label, count in cells:
        rows[label] = rows.get(label, 0) + count
        hits[label] = hits.get(label, 0) + (count if predicted == label else 0)
    found = {label: estimate_share(hits[label], rows[label]) for label in sorted(rows)}
    return {label: estimate for label, estimate in found.items() if estimate is not None}
