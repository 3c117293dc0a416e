"""Rows that were chosen to be sampled, as columns, and what of them may leave their device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edge_agent.contract.rows import RowFeature


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowPlan:
    """What may leave of one package's rows in one slot; each is itself alone.

    Attributes:
        artifact: First 8 bytes of the package's sha256.
        stream: Number of the slot.
        features: That leave, with the rule of each.
        columns: Of the packed tensor, in the order of the features.
        row_bytes: Of one row, before compression.
        names: Of the several targets or labels of an answer; empty where it is one.
    """

    artifact: bytes
    stream: int
    features: "tuple[RowFeature, ...]" = ()
    columns: tuple[int, ...] = ()
    row_bytes: int = 0
    names: tuple[str, ...] = ()


class Chosen(NamedTuple):
    """Rows chosen at one look, as columns; ``take`` and ``join`` make others of them.

    ``predicted`` is [rows], or [rows, names] where answers have names.
    """

    numbers: NDArray[Any]
    places: NDArray[Any]
    at_ms: NDArray[Any]
    reasons: NDArray[Any]
    predicted: NDArray[Any]
    confidence: NDArray[Any]
    values: NDArray[Any]

    def take(self, which: NDArray[np.intp] | slice) -> "Chosen":
        """Return some of the rows."""
        return Chosen(*(column[which] for column in self))

    @staticmethod
    def join(parts: Sequence["Chosen"]) -> "Chosen":
        """Put rows of several looks together."""
        return Chosen(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @property
    def size(self) -> int:
        """How many rows."""
        return len(self.numbers)


def split_answer(values: NDArray[Any]) -> NDArray[Any]:
    """Give the one number of each row, or a column for each of several targets or labels.

    >>> split_answer(np.array([[1.5], [2.0]])), split_answer(np.zeros((1, 3)))
    (array([1.5, 2. ]), array([[0., 0., 0.]]))
    """
    return values if values.ndim > 1 and values.shape[1] > 1 else values.reshape(-1)
