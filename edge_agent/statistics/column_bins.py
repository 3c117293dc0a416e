"""Count a block of rows into the bins of all watched columns at once.

Nothing asks into which bin a value falls: how many values of a column reach each edge is enough,
and the difference of two neighbours is a bin. Comparisons of all edges are one call of numpy, and
their outcomes are counted as bits.

Invariant: every row of a column is counted once: in a bin, as missing (not finite) or as outside.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.statistics.category_bins import CategoryCodes
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference

BLOCK_ROWS = 256
MASK_BYTES_MAX = 1_048_576
"""Of the comparisons of one call; a wider block is counted some columns at a time."""
LEVEL_BYTES_MAX = 524_288
"""Up to this many, each level is kept once a row: comparing is then three times as fast."""
_WORD_BITS = 64


class ColumnBins:
    """The bins of one reference."""

    def __init__(self, reference: Reference, layout: CounterLayout) -> None:
        features = reference.features
        self._columns = np.array([f.column for f in features], np.intp)
        self._is_all = bool((self._columns == np.arange(len(features))).all())
        self._categories = CategoryCodes([f.codes or None for f in features])
        most = max((len(f.edges) for f in features), default=0)
        high = np.array([[f.high] for f in features], np.float32)
        # Levels a value reaches one after another: low, the edges, beyond high. A column with
        # fewer edges reaches the last level at once, which leaves the bins between empty.
        levels = np.empty((most + 2, len(features), 1), np.float32)
        levels[:] = np.nextafter(high, np.float32(np.inf))
        for k, feature in enumerate(features):
            levels[0, k] = feature.low
            levels[1 : 1 + len(feature.edges), k, 0] = feature.edges
        if BLOCK_ROWS * levels.nbytes <= LEVEL_BYTES_MAX:
            levels = np.repeat(levels, BLOCK_ROWS, axis=2)
        self._levels = levels
        self._bins = most + 1
        row = np.arange(most + 3)
        self._taken = np.concatenate(
            [
                k * (most + 3) + np.concatenate([row[: f.bins], row[-2:]])
                for k, f in enumerate(features)
            ]
            or [row[:0]]
        )
        self._size = layout.features[-1].stop if features else 0
        self._columns_max = max(1, MASK_BYTES_MAX // ((most + 3) * BLOCK_ROWS))

    def count_into(self, totals: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Add rows, float32 [at most BLOCK_ROWS, width], to the counters of the features."""
        if not self._size:
            return
        is_all = self._is_all and rows.shape[1] == len(self._columns)
        watched = self._categories.recode(rows if is_all else rows[:, self._columns])
        counts = np.empty((watched.shape[1], self._bins + 2), np.int64)
        for first in range(0, watched.shape[1], self._columns_max):
            part = slice(first, first + self._columns_max)
            self._count(counts[part], watched[:, part], self._levels[:, part, :])
        totals[: self._size] += counts.ravel()[self._taken]

    def _count(
        self,
        counts: NDArray[np.int64],
        rows: NDArray[np.float32],
        levels: NDArray[np.float32],
    ) -> None:
        size, width = rows.shape
        # Columns first: the inner loops then run over rows. What is left of the last word of
        # bits is not a number, which reaches nothing.
        padded = -(-size // _WORD_BITS) * _WORD_BITS
        values = np.empty((width, padded), np.float32)
        values[:, :size] = rows.T
        values[:, size:] = np.nan
        masks = np.empty((len(levels) + 1, width, padded), np.bool_)
        np.greater_equal(values, levels[:, :, :padded], out=masks[:-1])
        np.isfinite(values, out=masks[-1])
        words: NDArray[Any] = np.packbits(masks).view(np.uint64)
        ones = np.bitwise_count(words).reshape(len(masks), width, -1)
        reached = ones.sum(axis=-1, dtype=np.int64)
        finite = reached[-1]
        counts[:, : self._bins] = (reached[:-2] - reached[1:-1]).T
        counts[:, self._bins] = size - finite
        counts[:, self._bins + 1] = finite - (reached[0] - reached[-2])
