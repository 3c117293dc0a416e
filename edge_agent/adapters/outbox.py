"""Telemetry windows kept on disk until the server says they are committed.

SQLite in WAL mode with FULL synchronisation: a commit survives SIGKILL and, where the storage
honours a sync, a power cut. One commit per batch, because a commit costs flash far more than a
row. Bounded in bytes: the oldest windows are merged, then dropped, and counted
(``outbox_room.py``).

Left out: closing windows (``telemetry_recorder.py``); sending (``telemetry_uplink.py``); late
labels and sampled rows, which lie in the same file (``outbox_labels.py``, ``outbox_rows.py``).
Invariants: what ``append`` returned from is there after a kill; a window is given out until it is
acknowledged, merged or dropped; one that was ``reserve``-d is never merged, so nothing is counted
under two names; rows waiting, acknowledged and dropped are together the rows appended. Order is
the order of appending. Two processes may use one file: the one that answers requests appends, the
one that talks to the server sends.
"""

import itertools
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from edge_agent.adapters.chance import random_bits
from edge_agent.adapters.files import make_private, move_durable, remove_durable
from edge_agent.adapters.outbox_labels import (
    DROPPED,
    SCHEMA,
    add_missing_columns,
    delete_labels,
    insert_labels,
    oldest_labels,
)
from edge_agent.adapters.outbox_room import SENT_MARK, make_room
from edge_agent.adapters.outbox_rows import (
    ROWS_DROPPED,
    ROWS_SCHEMA,
    NewBatch,
    PendingBatch,
    delete_batches,
    insert_batches,
    oldest_batch,
)
from edge_agent.contract.labels import LabelRow
from edge_agent.contract.windows import Window, encoded_size
from edge_agent.errors import OutboxError, StorageError

if TYPE_CHECKING:
    from edge_agent.contract.messages import AckRange, LabelRange

OUTBOX_BYTES_MAX = 8_388_608
_WAL_BYTES_KEPT = 1_048_576
_LOG = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS window (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  boot INTEGER NOT NULL, stream INTEGER NOT NULL, sequence INTEGER NOT NULL,
  t0_ms INTEGER NOT NULL, t1_ms INTEGER NOT NULL,
  bytes INTEGER NOT NULL, reference BLOB NOT NULL, artifact BLOB NOT NULL,
  rows INTEGER NOT NULL, counters BLOB NOT NULL,
  UNIQUE (boot, stream, sequence)
);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES ('dropped', 0), ('dropped_rows', 0), ('merged', 0),
  ('sent_id', 0);
"""
# A window's number is never used twice: a second row can only be the retry of a commit whose
# answer was lost.
_INSERT = """
INSERT OR IGNORE INTO window
  (boot, stream, sequence, t0_ms, t1_ms, bytes, reference, artifact, rows, counters)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_COUNT = "UPDATE counter SET value = value + ? WHERE name = ?"
_PUT = "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_COUNTED = ("merged", "dropped", "dropped_rows", DROPPED, ROWS_DROPPED)
_ID_OF = "SELECT id FROM window WHERE boot = ? AND stream = ? AND sequence = ?"
_OLDEST = """
SELECT boot, stream, sequence, t0_ms, t1_ms, reference, artifact, rows, counters
FROM window ORDER BY id LIMIT ?
"""
_NO_NOTES: Mapping[str, int] = MappingProxyType({})


class Outbox:
    """A bounded queue of windows in one SQLite file; safe to call from any thread."""

    def __init__(
        self, path: Path | None, *, bytes_max: int = OUTBOX_BYTES_MAX, is_joining: bool = False
    ) -> None:
        """Open or create.

        Args:
            path: File; None keeps the windows in memory (simulated devices).
            bytes_max: Encoded size of all windows together.
            is_joining: Another process has opened the file, checked and perhaps replaced it.

        Raises:
            OutboxError: The file can be neither opened nor replaced.
        """
        self._path, self._bytes_max = path, bytes_max
        self._lock = threading.Lock()
        self._appended = 0
        self._version: int | None = None
        self._merge_boot, self._merge_sequences = random_bits(63), itertools.count()
        self._db = self._open(is_joining=is_joining)
        with self._translated():
            self._counts = self._read_counts()
            (self._sent_id,) = self._db.execute(
                "SELECT value FROM counter WHERE name = ?", (SENT_MARK,)
            ).fetchone()

    @property
    def appended(self) -> int:
        """Changes whenever there is something new to send, whichever process appended it."""
        with self._lock:
            self._notice_others()
        return self._appended

    def append(self, windows: Sequence[tuple[int, Window]]) -> None:
        """Keep windows durably, each with its boot id, in one commit.

        Raises:
            OutboxError: Nothing of the batch was kept; trying again later is safe.
        """
        if not windows:
            return
        keys = {(boot, w.stream, w.sequence) for boot, w in windows}
        with self._changing() as db:
            db.executemany(_INSERT, [_to_row(boot, w) for boot, w in windows])
            make_room(
                db,
                bytes_max=self._bytes_max,
                boot=self._merge_boot,
                sequences=self._merge_sequences,
                keep=keys,
            )
        with self._lock:
            self._appended += 1

    def count_dropped(self, windows: int, rows: int = 0) -> None:
        """Count windows, and the rows in them, that were lost before they could be appended.

        Raises:
            OutboxError: The count was not kept.
        """
        with self._changing() as db:
            db.executemany(_COUNT, [(windows, "dropped"), (rows, "dropped_rows")])

    def pending(self, limit: int) -> list[tuple[int, Window]]:
        """Return the oldest windows, each with the boot id it was recorded under.

        Raises:
            OutboxError: The file cannot be read.
        """
        with self._lock, self._translated():
            rows = self._db.execute(_OLDEST, (limit,)).fetchall()
        return [_from_row(row) for row in rows]

    def reserve(
        self, items: Sequence[tuple[int, Window]], notes: Mapping[str, int] = _NO_NOTES
    ) -> list[tuple[int, Window]]:
        """Mark windows as sent before they are, in one commit; return those that are still there.

        Args:
            items: As ``pending`` gave them; one that was merged or dropped since is left out.
            notes: Numbers to keep in the same commit, by name (``notes`` reads them).

        Raises:
            OutboxError: Nothing is marked, nothing may be sent.
        """
        with self._lock:
            with self._translated(), self._db:
                self._db.execute("BEGIN IMMEDIATE")
                there: list[tuple[int, Window]] = []
                sent_id = self._sent_id
                for boot, w in items:
                    row = self._db.execute(_ID_OF, (boot, w.stream, w.sequence)).fetchone()
                    if row is not None:
                        there.append((boot, w))
                        sent_id = max(sent_id, int(row[0]))
                self._db.executemany(_PUT, [(SENT_MARK, sent_id), *notes.items()])
            self._sent_id = sent_id
        return there

    def notes(self) -> Mapping[str, int]:
        """Return the numbers that ``reserve`` was given, by name; raises OutboxError."""
        with self._lock, self._translated():
            return dict(self._db.execute("SELECT name, value FROM counter").fetchall())

    def acknowledge(self, ranges: "Sequence[AckRange]") -> int:
        """Forget what the server has committed, in one commit; return how many windows went.

        Raises:
            OutboxError: Nothing was forgotten; the windows will be sent again.
        """
        with self._changing() as db:
            return sum(
                db.execute(
                    "DELETE FROM window WHERE boot = ? AND stream = ? AND sequence BETWEEN ? AND ?",
                    (r.boot, r.stream, r.first, r.last),
                ).rowcount
                for r in ranges
            )

    def append_labels(self, boot: int, rows: Sequence[LabelRow], *, lost: int = 0) -> None:
        """Keep late labels durably, in one commit; their ``sequence`` is given here.

        Args:
            boot: Under which they were taken.
            rows: Labels.
            lost: Labels that were dropped before, to be counted.

        Raises:
            OutboxError: None was kept.
        """
        with self._changing() as db:
            insert_labels(db, boot, rows, lost=lost)

    def pending_labels(self, limit: int) -> tuple[int, list[LabelRow]]:
        """Return the oldest labels, all of one boot, and that boot; raises OutboxError."""
        with self._lock, self._translated():
            return oldest_labels(self._db, limit)

    def acknowledge_labels(self, ranges: "Sequence[LabelRange]") -> int:
        """Forget labels the server has counted; return how many; raises OutboxError."""
        with self._changing() as db:
            return delete_labels(db, ranges)

    def append_rows(
        self,
        boot: int,
        batches: Sequence[NewBatch],
        *,
        lost: int = 0,
        notes: Mapping[str, int] = _NO_NOTES,
    ) -> None:
        """Keep batches of sampled rows durably, in one commit.

        Args:
            boot: Under which they were answered.
            batches: Encoded; the oldest of all are dropped beyond a share of the file's bytes.
            lost: Rows that were dropped before, to be counted.
            notes: As of ``reserve``.

        Raises:
            OutboxError: None was kept.
        """
        with self._changing() as db:
            insert_batches(db, boot, batches, lost=lost, bytes_max=self._bytes_max)
            db.executemany(_PUT, list(notes.items()))

    def pending_rows(self) -> PendingBatch | None:
        """Return the oldest batch of sampled rows; raises OutboxError."""
        with self._lock, self._translated():
            return oldest_batch(self._db)

    def acknowledge_rows(self, ranges: "Sequence[LabelRange]") -> int:
        """Forget batches the server has; return how many; raises OutboxError."""
        with self._changing() as db:
            return delete_batches(db, ranges)

    def counts(self) -> Mapping[str, int]:
        """Return windows: ``waiting`` now; ``merged`` and ``dropped`` over the life of the file.

        ``dropped_rows`` are the rows of those dropped; ``labels`` and ``labels_dropped``
        likewise, and ``samples`` (batches) and ``samples_dropped`` (rows) of sampled rows.
        """
        with self._lock:
            self._notice_others()
        return dict(self._counts)

    def close(self) -> None:
        """Close the file; what was appended stays."""
        with self._lock:
            self._db.close()

    def _read_counts(self) -> dict[str, int]:
        (waiting,) = self._db.execute("SELECT count(*) FROM window").fetchone()
        kept = dict(self._db.execute("SELECT name, value FROM counter").fetchall())
        (labels,) = self._db.execute("SELECT count(*) FROM label").fetchone()
        (samples,) = self._db.execute("SELECT count(*) FROM sample").fetchone()
        return {
            "waiting": int(waiting),
            "labels": int(labels),
            "samples": int(samples),
            **{name: int(kept[name]) for name in _COUNTED},
        }

    def _notice_others(self) -> None:
        """Count anew when another process has written; what cannot be read counts as before."""
        if self._path is None:
            return
        try:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return
            counts = self._read_counts()
        except sqlite3.Error as error:
            _LOG.debug("outbox %s: %s", self._path, error)
            return
        self._version, self._counts = version, counts
        self._appended += 1

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Hold one transaction; what it leaves behind is counted."""
        with self._lock:
            with self._translated(), self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                counts = self._read_counts()
            self._counts = counts

    def _open(self, *, is_joining: bool) -> sqlite3.Connection:
        try:
            return _connect(self._path, is_checked=is_joining)
        except sqlite3.DatabaseError as error:
            is_mine = not is_joining and not isinstance(error, sqlite3.OperationalError)
            if self._path is None or not is_mine:
                raise OutboxError(f"outbox {self._path} cannot be opened: {error}") from error
            # A torn file must not keep the device from serving: set it aside and begin anew.
            aside = self._path.with_suffix(".damaged")
            _LOG.warning("outbox %s is damaged (%s); moved to %s", self._path, error, aside)
            return self._replace(aside)

    def _replace(self, aside: Path) -> sqlite3.Connection:
        if self._path is None:
            raise OutboxError("an outbox in memory cannot be replaced")
        try:
            # First what SQLite would read into the new file, should the power go in between.
            for suffix in ("-wal", "-shm"):
                remove_durable(self._path.with_name(self._path.name + suffix))
            move_durable(self._path, aside)
            return _connect(self._path, is_checked=False)
        except (StorageError, sqlite3.Error) as error:
            raise OutboxError(f"outbox {self._path} cannot be replaced: {error}") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OutboxError(f"outbox {self._path or 'in memory'}: {error}") from error


def _connect(path: Path | None, *, is_checked: bool) -> sqlite3.Connection:
    if path is not None:
        make_private(path)
    db = sqlite3.connect(
        ":memory:" if path is None else path, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
        if not is_checked:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        db.executescript(_SCHEMA + SCHEMA + ROWS_SCHEMA)
        add_missing_columns(db)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _to_row(boot: int, w: Window) -> tuple[object, ...]:
    return (
        boot,
        w.stream,
        w.sequence,
        w.t0_ms,
        w.t1_ms,
        encoded_size(w),
        w.reference,
        w.artifact,
        w.rows,
        w.counters,
    )


def _from_row(row: tuple[int, int, int, int, int, bytes, bytes, int, bytes]) -> tuple[int, Window]:
    boot, stream, sequence, t0_ms, t1_ms, reference, artifact, rows, counters = row
    return boot, Window(
        stream=stream,
        sequence=sequence,
        t0_ms=t0_ms,
        t1_ms=t1_ms,
        reference=reference,
        artifact=artifact,
        rows=rows,
        counters=counters,
    )
