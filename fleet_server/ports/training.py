"""What training needs from the world: tables, a place for models, somebody to tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import ImageInput


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPictures:
    """Files and what they should be answered; nothing of them is read yet.

    Attributes:
        names: Of each, below the folder; for people.
        paths: Of each.
        answers: A row a picture: the columns asked for.
        skipped: Files beside them that are no pictures by their name.
        is_folder: Whether sub-folders say the classes.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    answers: RawTable
    skipped: int
    is_folder: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPictures:
    """Pictures as the numbers that a model sees.

    Attributes:
        rows: float32 [readable, width].
        figures: float32 [readable, 4], what telemetry watches of each (``contract.image.FIGURES``).
        places: int64 [readable], in the list, ascending.
        sha256: uint8 [readable, 32], of each file.
        pixels_sha256: uint8 [readable, 32], of each unfolded picture and its size.
        faults: Place in the list and reason of each that is unreadable.
        size_bytes: Of all files that were read.
        load: Gives a picture of the list again, uint8 RGB [height, width, 3]; raises FleetError
            when its file is another by now.
    """

    rows: NDArray[np.float32]
    figures: NDArray[np.float32]
    places: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    pixels_sha256: NDArray[np.uint8]
    faults: tuple[tuple[int, str], ...]
    size_bytes: int
    load: Callable[[int], NDArray[np.uint8]]


class PictureReader(Protocol):
    """Reads pictures from files."""

    def list(self, path: Path, *, numbers: Sequence[str], words: Sequence[str]) -> ListedPictures:
        """List a folder with one sub-folder a class, or a table of files.

        Args:
            path: The folder or table.
            numbers: Columns to read as numbers.
            words: Columns to read as words. A folder has one, whatever its name.

        Raises:
            FleetError: Nothing is there, too much is, or a column or file is not.
        """
        ...

    def pack(
        self,
        listed: ListedPictures,
        image: ImageInput,
        profile: DeviceProfile,
        tell: Callable[[str], None],
    ) -> PackedPictures:
        """Read every picture once and make of it what the model sees, as the shipped graph does.

        Args:
            listed: What to read.
            image: What the graph does to a picture.
            profile: Any that the graph is for.
            tell: Hears how far it is.

        Raises:
            FleetError: They are too many bytes or numbers, or what reads pictures is missing.
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

    def working(self, step: str, detail: str) -> None:
        """A step that began is as far as the detail says; may be called often."""
        ...

    def finished(self, step: str, seconds: float, sentence: str) -> None:
        """A step ended as the sentence says."""
        ...
