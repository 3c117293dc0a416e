"""What the builder needs of a source model, whatever it was trained with."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converters.errors import InvalidRequestError
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One way to convert, as it was compared with the source on held-out rows.

    Attributes:
        way: What was done, such as ``plain``.
        rows: Rows compared; 0 when there is no graph.
        flips: Rows with another label, but for those whose two best classes are equal.
        rows_off: Rows beyond the tolerance.
        max_abs_error: Largest error of a probability or value.
        note: Why there is no graph; empty when there is one.
    """

    way: str
    rows: int = 0
    flips: int = 0
    rows_off: int = 0
    max_abs_error: float = 0.0
    note: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether no row differs."""
        return not self.note and self.flips == 0 and self.rows_off == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A graph with the contract's input and outputs, not yet normalised.

    Attributes:
        model: The graph.
        repairs: What was changed to keep it faithful, one sentence each.
        tries: What was tried to come to it, in order, the chosen one last unless none is exact.
    """

    model: ModelProto
    repairs: tuple[str, ...] = ()
    tries: tuple[Try, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNotes:
    """What one kind of source keeps and what it cannot; docs/conversion.md has them as a table.

    Attributes:
        kind: Name of the kind.
        given_as: Objects the library takes.
        files: Ends of file names that ``edge-convert`` reads; empty when it reads none.
        read_by: How such a file is read.
        keeps: What the graph has of the model.
        cannot: What is refused.
    """

    kind: str
    given_as: str
    files: tuple[str, ...]
    read_by: str
    keeps: str
    cannot: str


class SourceModel(Protocol):
    """The model as it was trained: the truth its graph is compared with."""

    @property
    def name(self) -> str:
        """Class name or kind, for evidence and errors."""
        ...

    def convert(
        self, schema: ModelSchema, profile: DeviceProfile, rows: Array | None = None
    ) -> Conversion:
        """Give its graph; raises ConversionError.

        Args:
            schema: What goes in and comes out.
            profile: What it is for.
            rows: Held-out rows float32 [N, width], on which ways to convert are compared; None
                takes the first.
        """
        ...

    def answer(self, rows: Array) -> dict[str, Array]:
        """Answer rows as they are, by output name; labels as class indexes."""
        ...

    def index_targets(self, targets: Array) -> Array:
        """Turn true answers into class indexes (or leave values as they are)."""
        ...


def check_indexes(targets: Array, classes: int) -> Array:
    """Check that targets are class indexes and give them as int64.

    Raises:
        InvalidRequestError: Others than integers from 0 to ``classes - 1``.
    """
    indexes = np.asarray(targets).astype(np.int64)
    if not np.array_equal(indexes, targets) or np.any((indexes < 0) | (indexes >= classes)):
        raise InvalidRequestError(f"targets must be class indexes from 0 to {classes - 1}")
    return indexes
