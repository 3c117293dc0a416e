"""Sampled raw rows of devices: taken once, kept in files that a ledger names, given out as one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from edge_agent.contract.rows import RowMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a message; it may be acknowledged either way.

    Attributes:
        rows: New rows.
        labels: New labels of sampled rows.
        is_duplicate: Taken before: sent twice.
        is_unknown: Of a package that is not registered here.
        dropped: Why rows or labels of it found no room; empty when they did.
    """

    rows: int = 0
    labels: int = 0
    is_duplicate: bool = False
    is_unknown: bool = False
    dropped: str = ""


class StoredBatch(NamedTuple):
    """A batch as it came.

    Attributes:
        id: Its number in the ledger.
        model: Of the package that answered.
        version: Likewise.
        sha256: Of that package.
        device: Id of the device.
        payload: The message.
        received_at: When.
    """

    id: int
    model: str
    version: int
    sha256: str
    device: str
    payload: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """A Parquet file of rows of one version.

    Attributes:
        model: Model.
        version: Version.
        path: Below the folder of samples.
        rows: How many.
        size_bytes: Of the file.
        sha256: Of its bytes.
        first_at: When the first of its batches came.
        last_at: When the last did.
    """

    model: str
    version: int
    path: str
    rows: int
    size_bytes: int
    sha256: str
    first_at: datetime
    last_at: datetime


class RowLabel(NamedTuple):
    """What turned out to be true of a sampled row: index of a class, or a value.

    ``part`` is the name of the target or label it is of; empty where an answer is one.
    """

    device: str
    prediction_id: str
    row: int
    label: float
    part: str = ""


RowKey = tuple[str, str, int]
"""Device, prediction id and row of a sampled row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLine:
    """What a line of a file says of a sampled row.

    Attributes:
        line: Its number behind the header, from 1.
        device: Id of the device.
        prediction_id: Without the row.
        row: Of the prediction.
        labels: Class or value by the part of the answer; "" of an answer that is one.
    """

    line: int
    device: str
    prediction_id: str
    row: int
    labels: Mapping[str, str | float]

    @property
    def key(self) -> RowKey:
        """Which row it is of."""
        return self.device, self.prediction_id, self.row


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLabel:
    """A label to keep: index of a class, or a value.

    Attributes:
        key: Of its row.
        version: That answered.
        part: Of the answer; empty where an answer is one.
        label: The index or value.
    """

    key: RowKey
    version: int
    part: str
    label: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSum:
    """All samples of one version.

    Attributes:
        model: Model.
        version: Version.
        rows: In files and waiting for one.
        waiting: Of these, not in a file yet.
        labels: Labels of single rows, those of each target or label by itself.
        files: Files.
        size_bytes: Of the files.
        first_at: When the first of them came; None of labels alone.
        last_at: When the last did.
    """

    model: str
    version: int
    rows: int = 0
    waiting: int = 0
    labels: int = 0
    files: int = 0
    size_bytes: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None


class SampleView(NamedTuple):
    """Files and waiting batches at one moment.

    Attributes:
        files: Oldest first.
        batches: Likewise.
        is_whole: False when more batches wait than were asked for.
    """

    files: list[SampleFile]
    batches: list[StoredBatch]
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export holds.

    Attributes:
        rows: How many.
        apart: Columns that hold a feature of other kind beside the one of its name, and the rows
            that have it there: redacted otherwise by some devices, or another version's.
    """

    rows: int
    apart: Mapping[str, int]


class SampleBook(Protocol):
    """The ledger."""

    def take(self, device: int, message: RowMessage, payload: bytes, *, at: datetime) -> Taken:
        """Keep a message once, in one transaction.

        Raises:
            FleetError: Nothing was kept; the same message may be offered again.
        """
        ...

    def list_waiting(self, *, bytes_max: int) -> list[StoredBatch]:
        """Return batches that are in no file yet, oldest first, up to so many bytes."""
        ...

    def look_at(
        self, model: str, version: int | None, since_at: datetime | None, *, bytes_max: int
    ) -> SampleView:
        """Return a model's files and waiting batches at one moment: each row is in one of them."""
        ...

    def note_file(self, file: SampleFile, batches: Sequence[int]) -> bool:
        """Let a file stand for batches, in one transaction; False when some are gone already."""
        ...

    def list_files(self) -> list[SampleFile]:
        """Return files, oldest first."""
        ...

    def drop(self, paths: Sequence[str], *, before_at: datetime) -> None:
        """Forget files, and marks, labels and batches from before."""
        ...

    def list_labels(self, model: str, version: int | None = None) -> list[RowLabel]:
        """Return the labels of single rows."""
        ...

    def add_up(self, model: str | None = None) -> list[SampleSum]:
        """Sum up by model and version, newest version first."""
        ...

    def add_labels(
        self, model: str, labels: Sequence[NewLabel], *, path: str, actor: str, at: datetime
    ) -> None:
        """Keep labels of single rows in place of what is known, and write it down.

        Raises:
            RefusedError: Those of a device find no room; nothing was kept.
        """
        ...

    def note_export(self, model: str, *, rows: int, path: str, actor: str, at: datetime) -> None:
        """Write down in the audit log that somebody took rows out."""
        ...


class SampleFiles(Protocol):
    """Makes, reads and removes the files."""

    def write(self, batches: Sequence[StoredBatch]) -> SampleFile:
        """Make one durable file of batches of one layout.

        Raises:
            FleetError: It was not written.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        ...

    def find_versions(
        self,
        files: Sequence[SampleFile],
        batches: Sequence[StoredBatch],
        keys: Collection[RowKey],
    ) -> Mapping[RowKey, int]:
        """Return the version that answered each of those rows that are there.

        Raises:
            FleetError: A file is damaged.
        """
        ...

    def sweep(self, known: Sequence[str]) -> int:
        """Remove old files that the ledger does not know; return how many."""
        ...

    def export(
        self,
        out: Path,
        files: Sequence[SampleFile],
        batches: Sequence[StoredBatch],
        labels: Sequence[RowLabel],
    ) -> Exported:
        """Write rows of files and batches, with their labels, into one file.

        Args:
            out: Made whole or not at all; only its owner may read it.
            files: Of one model.
            batches: In no file yet.
            labels: Of any of the rows.

        Raises:
            FleetError: Answers do not fit together, a file is damaged, or ``out`` cannot be
                written.
        """
        ...
