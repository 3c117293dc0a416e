"""How far the answers of two models to the same rows agree, as counts.

Labels are compared by the names of their classes, probabilities by the class they belong to, so
two models may list their classes in another order, or know other ones; a class that one of them
does not know has probability 0 there. Several targets are compared by name as well, and the row by
the one that differs most; of several labels one that names another class is enough.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one model gave for some rows.

    Attributes:
        labels: int64 [rows], indices of classes, [rows, labels] of several, where the classes of
            all labels are one list; None of a regression.
        numbers: [rows, columns]: probabilities by class, or the values.
    """

    labels: NDArray[np.int64] | None
    numbers: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts of rows.

    Attributes:
        differs: Whose labels name different classes.
        non_finite: To which the second model alone gave NaN or infinity.
        difference: By the largest ``|a - b| / (1 + |a|)``; a bin more than edges, a difference
            that equals an edge is in the bin above it. Rows in ``non_finite`` are in no bin.
    """

    differs: int
    non_finite: int
    difference: tuple[int, ...]


class Comparison:
    """Compares two models; their classes are fixed."""

    def __init__(
        self,
        classes: Sequence[Hashable],
        candidate_classes: Sequence[Hashable],
        edges: Sequence[float],
    ) -> None:
        """Line up the classes.

        Args:
            classes: Names of what answers, in its order; of several labels pairs of label and
                class; its targets where a row has several values, empty for one.
            candidate_classes: Of the other.
            edges: Of the differences, ascending.
        """
        names = list(dict.fromkeys((*classes, *candidate_classes)))
        self._width = len(names)
        self._of_first = np.array([names.index(name) for name in classes], np.int64)
        self._of_second = np.array([names.index(name) for name in candidate_classes], np.int64)
        self._edges = np.asarray(edges)

    def compare(self, first: Answers, second: Answers) -> Agreement:
        """Count how the second answers agree with the first, row by row."""
        a, b = (
            self._spread(first.numbers, self._of_first),
            self._spread(second.numbers, self._of_second),
        )
        is_odd = ~np.isfinite(b).all(1)
        was_odd = ~np.isfinite(a).all(1)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(a - b) / (1 + np.abs(a))
        # Both may be infinite or NaN alike; then they agree as far as can be told.
        difference = np.where(is_odd & was_odd, 0.0, difference.max(1))
        difference = np.where(was_odd & ~is_odd, np.inf, difference)
        counted = difference[~is_odd | was_odd]
        bins = np.bincount(
            np.searchsorted(self._edges, counted, side="right"), minlength=len(self._edges) + 1
        )
        return Agreement(
            differs=self._count_differing(first.labels, second.labels),
            non_finite=int((is_odd & ~was_odd).sum()),
            difference=tuple(int(n) for n in bins),
        )

    def _count_differing(
        self, first: NDArray[np.int64] | None, second: NDArray[np.int64] | None
    ) -> int:
        if first is None or second is None:
            return 0
        ours, theirs = _name(self._of_first, first), _name(self._of_second, second)
        if ours.ndim > 1:  # in any order of the labels: each of a row's classes is of one label
            return int((np.sort(ours, axis=1) != np.sort(theirs, axis=1)).any(axis=1).sum())
        return int((ours != theirs).sum())

    def _spread(
        self, numbers: NDArray[np.float32], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Put each class into its common column."""
        given = numbers.astype(np.float64)
        if not self._width or given.shape[1] != len(columns):
            return given
        spread = np.zeros((len(given), self._width))
        spread[:, columns] = given
        return spread


def _name(names: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give common names to labels; one outside of the classes is named by itself, below 0."""
    is_known = (labels >= 0) & (labels < len(names))
    known = names[np.where(is_known, labels, 0)] if len(names) else labels
    return np.where(is_known, known, -1 - np.abs(labels))
