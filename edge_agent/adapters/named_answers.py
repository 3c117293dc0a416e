"""Answers of several targets or labels: the numbers of many rows in one ring, however wide a row.

A row of 256 targets takes as much room as 256 rows of one, so what is bounded is numbers: with up
to 16 names all rows a slot remembers keep theirs, with 256 the newest thousand.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS_KEPT = 262_144


class NamedAnswers:
    """The ring; its owner holds a lock."""

    def __init__(self, rows: int) -> None:
        """Begin with none, for so many places of rows."""
        self._starts: NDArray[np.int64] = np.full(rows, -NUMBERS_KEPT - 1, np.int64)
        """Of each row, how many numbers had been put before its own."""
        self._numbers: NDArray[np.float32] = np.zeros(NUMBERS_KEPT, np.float32)
        self._labelled: NDArray[np.bool_] = np.zeros(NUMBERS_KEPT, np.bool_)
        self._count = 0

    def put(self, at: slice | NDArray[np.intp], predicted: NDArray[Any]) -> None:
        """Keep rows, [rows, names], for places of rows; older numbers make room."""
        rows, names = predicted.shape
        self._starts[at] = self._count + names * np.arange(rows)
        self._count += predicted.size
        newest = predicted.reshape(-1)[-NUMBERS_KEPT:]
        places = np.arange(self._count - len(newest), self._count) % NUMBERS_KEPT
        self._numbers[places] = newest
        self._labelled[places] = False

    def read(self, at: int, names: int) -> tuple[float, ...] | None:
        """Return what the row at a place was answered with; None when it is forgotten."""
        start = int(self._starts[at])
        if self._count - start > NUMBERS_KEPT:
            return None
        return tuple(self._numbers[np.arange(start, start + names) % NUMBERS_KEPT].tolist())

    def note_labels(self, at: int, parts: Sequence[int]) -> int | None:
        """Note labels of a row, unless it is forgotten; see ``RecentAnswers.note_labels``."""
        start = int(self._starts[at])
        if self._count - start > NUMBERS_KEPT:
            return None
        places = [(start + part) % NUMBERS_KEPT for part in parts]
        twice = next((p for p, at in zip(parts, places, strict=True) if self._labelled[at]), None)
        if twice is None:
            self._labelled[places] = True
        return twice
