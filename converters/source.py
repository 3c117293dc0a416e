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
class Conversion:
    """A graph with the contract's input and outputs, not yet normalised.

    Attributes:
        model: The graph.
        repairs: What was changed to keep it faithful, one sentence each.
    """

    model: ModelProto
    repairs: tuple[str, ...] = ()


class SourceModel(Protocol):
    """The model as it was trained: the truth its graph is compared with."""

    @property
    def name(self) -> str:
        """Class name or kind, for evidence and errors."""
        ...

    def convert(self, schema: ModelSchema, profile: DeviceProfile) -> Conversion:
        """Give its graph; raises ConversionError."""
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
