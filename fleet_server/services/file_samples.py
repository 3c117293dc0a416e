"""Turn batches of sampled rows into files, and let go of what is old or too much.

A file is written first and named by its content, then the ledger lets it stand for its batches: a
kill in between leaves a file that nobody counts, which a later sweep removes.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from edge_agent.contract.rows import RowFeature, decode_rows, row_bytes
from fleet_server.ports.clock import Clock
from fleet_server.ports.samples import SampleBook, SampleFile, SampleFiles, StoredBatch

FILE_AFTER = timedelta(minutes=10)
"""How long a batch waits for others."""
FILE_BYTES = 33_554_432
"""Filed earlier when this many bytes wait; also the most at once."""
FILE_ROWS_BYTES = 67_108_864
"""Of the rows of one file before compression: a message of 4 KB may hold 4 MB of zeros."""
_LOG = logging.getLogger(__name__)
_Layout = tuple[str, int, str, str, tuple[RowFeature, ...], tuple[str, ...]]
"""Model, version, package, day, features and names of answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSamples:
    """The housekeeping of a workspace's samples.

    Attributes:
        book: The ledger.
        files: Where they lie.
        clock: What is old.
        keep: How long rows are kept.
        bytes_max: Of all files.
        wait: How long a batch waits for others.
    """

    book: SampleBook
    files: SampleFiles
    clock: Clock
    keep: timedelta
    bytes_max: int
    wait: timedelta = FILE_AFTER

    def file(self) -> int:
        """Put what waited long enough into files; return how many; raises FleetError."""
        waiting = self.book.list_waiting(bytes_max=FILE_BYTES)
        size = sum(len(batch.payload) for batch in waiting)
        if not waiting:
            return 0
        is_due = self.clock.now() - waiting[0].received_at >= self.wait
        if not is_due and size < FILE_BYTES // 2:
            return 0
        made = 0
        for group in group_batches(waiting):
            file = self.files.write(group)
            if self.book.note_file(file, [batch.id for batch in group]):
                made += 1
            else:
                self.files.remove(file.path)
        return made

    def tidy(self) -> None:
        """Drop files that are too old or too many, and those of nobody; raises FleetError."""
        before_at = self.clock.now() - self.keep
        files = self.book.list_files()
        gone = find_excess(files, before_at.timestamp(), self.bytes_max)
        # The ledger first: a file without a row is swept, a row without a file would be a lie.
        self.book.drop([file.path for file in gone], before_at=before_at)
        for file in gone:
            self.files.remove(file.path)
        if gone:
            rows = sum(file.rows for file in gone)
            _LOG.info("%d files of sampled rows (%d rows) were dropped", len(gone), rows)
        self.files.sweep([file.path for file in self.book.list_files()])


def group_batches(batches: Iterable[StoredBatch]) -> list[list[StoredBatch]]:
    """Put together what may share a file: one package and day, the same features and names."""
    groups: dict[tuple[_Layout, int], list[StoredBatch]] = {}
    sizes: dict[_Layout, int] = {}
    for batch in batches:
        said = decode_rows(batch.payload).batch
        day = f"{batch.received_at:%Y-%m-%d}"
        key = (batch.model, batch.version, batch.sha256, day, said.features, said.names)
        row_size = row_bytes(said.features, len(said.names))
        sizes[key] = sizes.get(key, 0) + len(said.rows) * row_size
        groups.setdefault((key, sizes[key] // FILE_ROWS_BYTES), []).append(batch)
    return list(groups.values())


def find_excess(files: Sequence[SampleFile], before_s: float, bytes_max: int) -> list[SampleFile]:
    """Return the files that are too old, and the oldest beyond the bytes; oldest come first."""
    size = sum(file.size_bytes for file in files)
    gone = []
    for file in files:
        if file.last_at.timestamp() >= before_s and size <= bytes_max:
            break
        gone.append(file)
        size -= file.size_bytes
    return gone
