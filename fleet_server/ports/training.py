"""What training needs from the world: tables, a place for models, somebody to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumn:
    """A column read as numbers.

    Attributes:
        values: float64 [rows]; NaN where missing, unreadable or NaN in the file.
        unreadable: int64, indexes from 0 of the values that are no numbers, ascending.
        first_unreadable: What stands at the first of them.
    """

    values: NDArray[np.float64]
    unreadable: NDArray[np.int64]
    first_unreadable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordColumn:
    """A column read as words.

    Attributes:
        codes: int64 [rows], index into ``words``; -1 where missing.
        words: Each word once.
    """

    codes: NDArray[np.int64]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """The columns asked for, not yet judged; rows in the order of the file."""

    rows: int
    numbers: Mapping[str, NumberColumn]
    words: Mapping[str, WordColumn]


class TableReader(Protocol):
    """Reads tables from files."""

    def list_columns(self, path: Path) -> tuple[str, ...]:
        """Name the columns in the order of the file, repeated names included.

        Raises:
            FleetError: The file is missing, too large, empty or no table.
        """
        ...

    def read(self, path: Path, *, numbers: Sequence[str], words: Sequence[str]) -> RawTable:
        """Read these columns.

        Raises:
            FleetError: As ``list_columns``, or a column is of a kind that cannot be read so.
        """
        ...


class EstimatorWriter(Protocol):
    """Keeps the source model of a version."""

    def write(self, estimator: Any) -> bytes:
        """Give the bytes of a fitted estimator; reading them back runs no code of theirs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVersion:
    """The commit a spec was trained at.

    Attributes:
        commit: Hex id; empty when the spec is in no repository.
        is_dirty: The repository had changes that were not committed.
    """

    commit: str = ""
    is_dirty: bool = False


class CodeVersions(Protocol):
    """Tells which commit a folder is at."""

    def find(self, folder: Path) -> CodeVersion:
        """Find the commit; an empty one when there is none or it cannot be told."""
        ...


class StepListener(Protocol):
    """Hears what a training does, one step at a time."""

    def started(self, step: str, detail: str) -> None:
        """A step begins; it may take long."""
        ...

    def finished(self, step: str, seconds: float, sentence: str) -> None:
        """A step ended as the sentence says."""
        ...
