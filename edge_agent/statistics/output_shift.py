"""How far the mix of answers is from the reference's: the probation's sanity check."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def total_variation(counts: NDArray[Any], reference_counts: NDArray[Any]) -> float:
    """Half the sum of the absolute differences of shares, 0 (same mix) to 1 (nothing shared).

    Either side without rows gives 0: no evidence is not a shift. Compare with ``expected_shift``
    before believing a small one: few rows over many classes differ by chance.

    Raises:
        ValueError: The two have different lengths.

    >>> total_variation(np.array([10, 0]), np.array([50, 50]))
    0.5
    """
    counts, reference_counts = np.asarray(counts), np.asarray(reference_counts)
    if counts.shape != reference_counts.shape:
        raise ValueError(f"{counts.shape} answers against {reference_counts.shape} of reference")
    rows, reference_rows = counts.sum(), reference_counts.sum()
    if rows <= 0 or reference_rows <= 0:
        return 0.0
    return float(0.5 * np.abs(counts / rows - reference_counts / reference_rows).sum())


def expected_shift(rows: int, reference_counts: NDArray[Any]) -> float:
    """Total variation that ``rows`` rows of the same mix show on average, 0 to 1.

    >>> round(expected_shift(30, np.full(10, 1_000)), 2)
    0.22
    """
    reference_rows = float(np.sum(reference_counts))
    if rows <= 0 or reference_rows <= 0:
        return 0.0
    shares = np.asarray(reference_counts) / reference_rows
    variance = shares * (1 - shares) * (1 / rows + 1 / reference_rows)
    return min(1.0, float(0.5 * np.sqrt(2 * variance / math.pi).sum()))
