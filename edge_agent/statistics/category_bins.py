"""Bins of a category: the commonest by themselves, the rest together, the unseen outside.

A category travels as its index in the schema's list. The reference says into which bin each index
falls, so the order of the list does not matter and windows of one reference always agree.
Recoded so, a category is counted like a number: bin n lies between the edges n and n + 1.

Invariants: the same counts give the same bins; no bin is empty in the reference.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNSEEN_BIN = -1
"""Of a listed category without a training row: its rows count as outside."""


def group_categories(
    counts: Sequence[int], *, bins_max: int, share_min: float
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Choose the bins of one category.

    Args:
        counts: Training rows by index of the category.
        bins_max: Bins at most, that of the rest included.
        share_min: Categories with a smaller share of the rows go to the rest; the rest takes in
            the next rarest one until it has that share itself.

    Returns:
        The bin of each index, ``UNSEEN_BIN`` for those without a row; and the indexes of each
        bin, the commonest first, the rest last.

    >>> group_categories([5, 80, 0, 15], bins_max=10, share_min=0.02)
    ((2, 0, -1, 1), ((1,), (3,), (0,)))
    >>> group_categories([900, 12, 80, 8], bins_max=10, share_min=0.02)
    ((0, 2, 1, 2), ((0,), (2,), (1, 3)))
    """
    seen = sorted((n for n, count in enumerate(counts) if count), key=lambda n: (-counts[n], n))
    need = max(1.0, share_min * sum(counts))
    single = [n for n in seen if counts[n] >= need]
    if len(seen) > len(single) or len(single) > bins_max:
        single = single[: bins_max - 1]
    rest = seen[len(single) :]
    while rest and single and sum(counts[n] for n in rest) < need:
        rest = [single.pop(), *rest]
    groups = (*((n,) for n in single), *((tuple(rest),) if rest else ()))
    bins = [UNSEEN_BIN] * len(counts)
    for place, group in enumerate(groups):
        for n in group:
            bins[n] = place
    return tuple(bins), groups


class CategoryCodes:
    """Turns the indexes of categories into bins, in some columns of a block of rows.

    Args:
        bins: Of each column the bin by index of the category; None for a column of numbers.
    """

    def __init__(self, bins: Sequence[Sequence[int] | None]) -> None:
        self._tables = [
            (column, np.array([UNSEEN_BIN, *codes, UNSEEN_BIN], np.float32))
            for column, codes in enumerate(bins)
            if codes is not None
        ]

    def recode(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the rows with bins in place of indexes; NaN stays, an unknown index becomes -1.

        Args:
            rows: float32 [rows, columns]; left as they are.
        """
        if not self._tables:
            return rows
        recoded = rows.copy()
        for column, table in self._tables:
            values = rows[:, column]
            is_there = np.isfinite(values)
            places = np.clip(np.where(is_there, values, -1), -1, len(table) - 2).astype(np.intp)
            recoded[:, column] = np.where(is_there, table[places + 1], values)
        return recoded
