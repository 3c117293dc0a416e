"""What a slot answered lately, by prediction number: a ring of rows, filled in blocks.

A late label needs what was predicted, by which package and when, and whether there is one already.
The ring costs a block copy for up to 256 requests, nothing a request. Times are those of the block,
so up to a second late. Answers of several targets or labels lie in a ring of their own, which is
made at the first of them (``named_answers.py``).

Invariant: at most ROWS_KEPT rows and PACKAGES_KEPT packages are remembered, the newest, and of
answers with names at most NUMBERS_KEPT numbers.
"""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.named_answers import NamedAnswers
from edge_agent.contract.answer_parts import AnswerPart

ROWS_KEPT = 16_384
PACKAGES_KEPT = 64


class AnsweringPackage(NamedTuple):
    """First 8 bytes of a package's sha256, and what its answers consist of."""

    artifact: bytes
    parts: tuple[AnswerPart, ...]


class Answer(NamedTuple):
    """One row that was answered.

    Attributes:
        package: Which answered.
        predicted: Index of the class, or the value, of each part of the answer.
        at_ms: When, epoch milliseconds.
        rows: Rows of the same answer that are remembered.
        is_sampled: Whether the row was taken for retraining, so that its label is wanted too.
    """

    package: AnsweringPackage
    predicted: tuple[float, ...]
    at_ms: int
    rows: int
    is_sampled: bool = False


class RecentAnswers:
    """The ring of one slot; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: NDArray[np.int64] = np.full(ROWS_KEPT, -1, np.int64)
        self._rows: NDArray[np.int32] = np.zeros(ROWS_KEPT, np.int32)
        self._predicted: NDArray[np.float32] = np.zeros(ROWS_KEPT, np.float32)
        self._at_ms: NDArray[np.int64] = np.zeros(ROWS_KEPT, np.int64)
        self._package: NDArray[np.int32] = np.zeros(ROWS_KEPT, np.int32)
        self._sampled: NDArray[np.bool_] = np.zeros(ROWS_KEPT, np.bool_)
        self._labelled: NDArray[np.bool_] = np.zeros(ROWS_KEPT, np.bool_)
        self._named: NamedAnswers | None = None
        self._next = 0
        self._packages: dict[int, AnsweringPackage] = {}
        self._packages_seen = 0

    def add_package(self, package: AnsweringPackage) -> int:
        """Note a package that begins to answer; return its number for ``remember``."""
        with self._lock:
            number, self._packages_seen = self._packages_seen, self._packages_seen + 1
            self._packages[number] = package
            self._packages.pop(number - PACKAGES_KEPT, None)
        return number

    def remember(
        self,
        package: int,
        numbers: NDArray[np.int64],
        rows: NDArray[np.int64],
        predicted: NDArray[Any],
        at_ms: int,
        sampled: NDArray[np.intp] | None = None,
    ) -> None:
        """Remember rows.

        Args:
            package: As ``add_package`` gave it.
            numbers: Of the request, for each row.
            rows: Which row of its request each is, from 0.
            predicted: Indices of classes, or values: [rows], or [rows, parts] with names.
            at_ms: When, epoch milliseconds.
            sampled: Which of them were taken for retraining.
        """
        count = min(len(numbers), ROWS_KEPT)
        with self._lock:
            end = self._next + count
            at: slice | NDArray[np.intp] = slice(self._next, end)
            if end > ROWS_KEPT:
                at = np.arange(self._next, end) % ROWS_KEPT
            self._numbers[at] = numbers[-count:]
            self._rows[at] = rows[-count:]
            self._labelled[at] = False
            if predicted.ndim == 1:
                self._predicted[at] = predicted[-count:]
            else:
                if self._named is None:
                    self._named = NamedAnswers(ROWS_KEPT)
                self._named.put(at, predicted[-count:])
            self._at_ms[at] = at_ms
            self._package[at] = package
            self._sampled[at] = False
            if sampled is not None:
                newest = sampled - (len(numbers) - count)
                self._sampled[(self._next + newest[newest >= 0]) % ROWS_KEPT] = True
            self._next = end % ROWS_KEPT

    def find(self, number: int, row: int) -> Answer | None:
        """Return a row of the answer of that number; None when it is not remembered."""
        with self._lock:
            at, rows = self._place_of(number, row)
            package = None if at is None else self._packages.get(int(self._package[at]))
            if at is None or package is None:
                return None
            predicted = self._read(at, len(package.parts))
            if predicted is None:
                return None
            at_ms, is_sampled = int(self._at_ms[at]), bool(self._sampled[at])
            return Answer(package, predicted, at_ms, rows, is_sampled)

    def note_labels(self, number: int, row: int, parts: Sequence[int]) -> int | None:
        """Note that parts of a row have their labels now.

        Returns:
            The first of them that had one already, and then nothing is noted; else None.
        """
        with self._lock:
            at, _ = self._place_of(number, row)
            package = None if at is None else self._packages.get(int(self._package[at]))
            if at is None or package is None:
                return None  # forgotten since it was found
            if self._named is not None and len(package.parts) > 1:
                return self._named.note_labels(at, parts)
            if self._labelled[at]:
                return 0
            self._labelled[at] = True
            return None

    def _place_of(self, number: int, row: int) -> tuple[int | None, int]:
        """Find a row; return its place and how many rows of its answer are remembered."""
        places = np.flatnonzero(self._numbers == number)
        hits = places[self._rows[places] == row]
        return (int(hits[-1]) if len(hits) else None), len(places)

    def _read(self, at: int, parts: int) -> tuple[float, ...] | None:
        if parts == 1:
            return (float(self._predicted[at]),)
        return self._named.read(at, parts) if self._named is not None else None
