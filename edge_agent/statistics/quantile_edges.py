"""Bins of equal shares: edges that are values of the rows themselves."""

import numpy as np
from numpy.typing import NDArray

BINS_MAX = 10
BIN_SHARE_MIN = 0.02
"""Bins with fewer of the training rows are joined to a neighbour: rare bins test badly."""


def quantile_edges(values: NDArray[np.float32]) -> tuple[float, ...]:
    """Choose at most 9 edges, each one of the finite ``values``.

    >>> quantile_edges(np.arange(100, dtype=np.float32))
    (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
    >>> quantile_edges(np.array([0.0] * 85 + [1.0] * 5 + [2.0] * 10, dtype=np.float32))
    (1.0, 2.0)
    >>> quantile_edges(np.full(50, 7, dtype=np.float32))
    ()
    """
    ordered = np.sort(values)
    m = len(ordered)
    if m == 0:
        return ()
    picked = ordered[[m * k // BINS_MAX for k in range(1, BINS_MAX)]]
    candidates, repeats = np.unique(picked, return_counts=True)
    for atom in candidates[repeats > 1]:
        above = np.searchsorted(ordered, atom, side="right")
        if above < m:
            candidates = np.append(candidates, ordered[above])
    edges: list[float] = []
    need, start = max(1.0, BIN_SHARE_MIN * m), 0
    for edge in np.unique(candidates):
        below = int(np.searchsorted(ordered, edge, side="left"))
        if below - start >= need and m - below >= need:
            edges.append(float(edge))
            start = below
    return tuple(edges)
