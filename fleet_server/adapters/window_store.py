"""Telemetry windows in ``telemetry.db``: raw sqlite3, one table per UTC day.

The unique key begins with the window's own start, so that the windows of one moment share few
index pages and the speed does not fall as the day fills (docs/ingest.md has the figures). Days are
dropped whole: nothing is ever deleted row by row or vacuumed.

Windows whose start cannot belong to any kept day have places of their own: older than the
retention they are counted only (their key is gone, so they could not be counted once), dated
more than a day ahead they go to ``unplaced``, which is bounded.

Left out: rollups, PostgreSQL. Invariants: a window's key is counted once as long as its day is
kept; totals, marks and quarantine move with the rows they count.
"""

import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

from fleet_server.adapters.window_tables import (
    ADD_TOTAL,
    DAY_MS,
    SCHEMA,
    SELECT_PAGE,
    UPSERT_MARK,
    Row,
    create_table,
    day_end_ms,
    day_of,
    insert_into,
    table_of,
)
from fleet_server.ports.telemetry import (
    Appended,
    DeviceWindow,
    QuarantinedMessage,
    StoredWindow,
    StoreError,
    TelemetryStats,
    WindowBatch,
)

AHEAD_MAX = timedelta(days=1)
UNPLACED_MAX = 100_000
QUARANTINE_MAX = 10_000
EXCERPT_BYTES_MAX = 512
RETIRED_BOOTS_MAX = 16
BUSY_TIMEOUT_S = 15.0
JOURNAL_BYTES_MAX = 67_108_864
_PAGE_ROWS = 5_000
_LOG = logging.getLogger(__name__)


class SqliteWindowStore:
    """The ``WindowStore`` of a workspace; one writer process, any number of readers.

    One connection; calls from several threads take turns.
    """

    def __init__(self, path: Path, *, retention: timedelta) -> None:
        """Open or create.

        Raises:
            StoreError: The file cannot be opened.
        """
        self._path, self._retention_ms = path, int(retention.total_seconds() * 1_000)
        self._lock = Lock()
        with self._translated():
            self._db = _connect(path)
            self._db.executescript(SCHEMA)
            self._days = set(self._list_days())
            (self._unplaced,) = self._db.execute("SELECT count(*) FROM unplaced").fetchone()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def append(self, batch: WindowBatch) -> Appended:
        """Commit a batch in one transaction; see the port."""
        now_ms = _to_ms(batch.received_at)
        with self._lock, self._translated(), self._transaction():
            appended = self._insert(batch.windows, now_ms)
            self._mark(batch.windows, now_ms)
            self._quarantine(batch.quarantined, now_ms)
            self._count(batch, appended)
        self._unplaced += appended.unplaced
        return appended

    def read_recent(
        self, since_ms: int, *, per_device_max: int, references: Collection[str] | None = None
    ) -> Iterator[StoredWindow]:
        """Read windows newest first, in pages: no transaction is open while the caller works."""
        taken: Counter[tuple[int, str]] = Counter()
        wanted = None if references is None else {bytes.fromhex(r) for r in references}
        with self._lock, self._translated():
            days = sorted(self._list_days(), reverse=True)
        for day in days:
            if day_end_ms(day) <= since_ms:
                return
            for row in self._pages(day, since_ms):
                if wanted is not None and row[6] not in wanted:
                    continue
                t0, device, boot, stream, sequence, t1, reference, artifact, rows, counters = row
                key = (device, reference.hex())
                if taken[key] >= per_device_max:
                    continue
                taken[key] += 1
                yield StoredWindow(
                    device, stream, boot, sequence, t0, t1, key[1], artifact.hex(), rows, counters
                )

    def drop_before(self, before_ms: int) -> int:
        """Drop whole days, and what no longer belongs to any."""
        with self._lock, self._translated(), self._transaction():
            old = [day for day in self._list_days() if day_end_ms(day) <= before_ms]
            for day in old:
                self._db.execute(f"DROP TABLE {table_of(day)}")
            self._db.execute("DELETE FROM stream_mark WHERE seen_ms < ?", (before_ms,))
            self._db.execute("DELETE FROM quarantine WHERE received_ms < ?", (before_ms,))
            self._db.execute("DELETE FROM unplaced WHERE t0 < ?", (before_ms,))
            (self._unplaced,) = self._db.execute("SELECT count(*) FROM unplaced").fetchone()
            self._days = set(self._list_days())
        return len(old)

    def stats(self) -> TelemetryStats:
        """Return totals and sizes."""
        with self._lock, self._translated():
            totals = dict(self._db.execute("SELECT name, value FROM total ORDER BY name"))
            days = sorted(self._list_days())
            (unplaced,) = self._db.execute("SELECT count(*) FROM unplaced").fetchone()
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return TelemetryStats(
            totals=totals,
            days=tuple(days),
            unplaced=unplaced,
            file_bytes=sum(f.stat().st_size for f in files if f.exists()),
        )

    def quarantined(self, limit: int = 100) -> list[tuple[int, str, str, int, bytes]]:
        """Return the newest (received_ms, topic, reason, bytes, excerpt) rows."""
        with self._lock, self._translated():
            return self._db.execute(
                "SELECT received_ms, topic, reason, bytes, excerpt FROM quarantine"
                " ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()

    def retired_boots(self, devices: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Return the boots each device has left behind, oldest first."""
        retired: dict[int, tuple[str, ...]] = {}
        with self._lock, self._translated():
            for device in devices:
                found = self._db.execute(
                    "SELECT boot FROM retired_boot WHERE device = ? ORDER BY id", (device,)
                )
                retired[device] = tuple(boot for (boot,) in found)
        return retired

    def retire_boots(self, boots: Collection[tuple[int, str]]) -> None:
        """Remember that (device, boot) pairs are over; the newest few of a device are kept."""
        if not boots:
            return
        with self._lock, self._translated(), self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO retired_boot (device, boot) VALUES (?, ?)", boots
            )
            self._db.executemany(
                "DELETE FROM retired_boot WHERE device = ?1 AND id NOT IN"
                " (SELECT id FROM retired_boot WHERE device = ?1 ORDER BY id DESC LIMIT ?2)",
                [(device, RETIRED_BOOTS_MAX) for device in {device for device, _ in boots}],
            )

    def _insert(self, windows: Collection[DeviceWindow], now_ms: int) -> Appended:
        oldest_ms, newest_ms = now_ms - self._retention_ms, now_ms + _to_span_ms(AHEAD_MAX)
        by_day: defaultdict[int, list[Row]] = defaultdict(list)
        ahead: list[Row] = []
        too_late = 0
        for device, boot, w in windows:
            t0 = w.t0_ms
            if t0 < oldest_ms:
                too_late += 1
                continue
            rows = by_day[t0 // DAY_MS] if t0 <= newest_ms else ahead
            rows.append(
                (
                    t0,
                    device,
                    boot,
                    w.stream,
                    w.sequence,
                    w.t1_ms,
                    w.reference,
                    w.artifact,
                    w.rows,
                    w.counters,
                )
            )
        inserted = sum(
            self._insert_rows(self._ensure_day(day), rows) for day, rows in by_day.items()
        )
        room = max(0, UNPLACED_MAX - self._unplaced)
        unplaced = self._insert_rows("unplaced", ahead[:room]) if ahead else 0
        placed = sum(len(rows) for rows in by_day.values())
        return Appended(
            inserted=inserted,
            duplicates=placed - inserted + min(room, len(ahead)) - unplaced,
            too_late=too_late,
            unplaced=unplaced,
            overflow=max(0, len(ahead) - room),
        )

    def _insert_rows(self, table: str, rows: list[Row]) -> int:
        before = self._db.total_changes
        self._db.executemany(insert_into(table), rows)
        return self._db.total_changes - before

    def _mark(self, windows: Collection[DeviceWindow], now_ms: int) -> None:
        highest: dict[tuple[int, int, int], int] = {}
        for device, boot, w in windows:
            key = (device, boot, w.stream)
            if w.sequence >= highest.get(key, -1):
                highest[key] = w.sequence
        self._db.executemany(UPSERT_MARK, [(*key, high, now_ms) for key, high in highest.items()])

    def _quarantine(self, messages: Collection[QuarantinedMessage], now_ms: int) -> None:
        if not messages:
            return
        self._db.executemany(
            "INSERT INTO quarantine (received_ms, topic, reason, bytes, excerpt)"
            " VALUES (?, ?, ?, ?, ?)",
            [
                (
                    now_ms,
                    _plain(m.topic, 200),
                    _plain(m.reason, 400),
                    len(m.payload),
                    m.payload[:EXCERPT_BYTES_MAX],
                )
                for m in messages
            ],
        )
        self._db.execute(
            "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?",
            (QUARANTINE_MAX,),
        )

    def _count(self, batch: WindowBatch, appended: Appended) -> None:
        channels = Counter(f"quarantined:{m.channel}" for m in batch.quarantined)
        totals = {
            "batches": 1,
            "received": len(batch.windows),
            "rows": sum(w.rows for _, _, w in batch.windows),
            "inserted": appended.inserted,
            "duplicates": appended.duplicates,
            "too_late": appended.too_late,
            "unplaced": appended.unplaced,
            "overflow": appended.overflow,
            "quarantined": len(batch.quarantined),
            **channels,
        }
        self._db.executemany(ADD_TOTAL, [(name, n) for name, n in totals.items() if n])

    def _ensure_day(self, days_since_epoch: int) -> str:
        day = day_of(days_since_epoch * DAY_MS)
        if day not in self._days:
            self._db.execute(create_table(table_of(day)))
            self._days.add(day)
        return table_of(day)

    def _list_days(self) -> list[str]:
        found = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name.removeprefix("windows_") for (name,) in found if name.startswith("windows_")]

    def _pages(self, day: str, since_ms: int) -> Iterator[Row]:
        """Walk the key backwards, a page at a time."""
        after: tuple[int, ...] = (2**63 - 1,) * 5
        while True:
            with self._lock, self._translated():
                try:
                    page: list[Row] = self._db.execute(
                        SELECT_PAGE.format(table=table_of(day)), (since_ms, *after, _PAGE_ROWS)
                    ).fetchall()
                except sqlite3.OperationalError:
                    if day in self._list_days():
                        raise
                    return  # dropped by retention between two pages
            yield from page
            if len(page) < _PAGE_ROWS:
                return
            after = page[-1][:5]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._days = set(self._list_days())
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"telemetry store {self._path}: {error}") from error


def open_or_replace(path: Path, *, retention: timedelta) -> SqliteWindowStore:
    """Open the store; a file that is damaged is set aside and a new one begun.

    Telemetry may be lost without losing control of the fleet: a gateway that refuses to start
    would lose both. For the gateway alone: it is the one writer.

    Raises:
        StoreError: The disk or its permissions are in the way.
    """
    try:
        return SqliteWindowStore(path, retention=retention)
    except StoreError as error:
        cause = error.__cause__
        if not isinstance(cause, sqlite3.DatabaseError) or isinstance(
            cause, sqlite3.OperationalError
        ):
            raise
        number = 1
        while (aside := path.with_suffix(f".damaged-{number}.db")).exists():
            number += 1
        _LOG.error("%s; moved to %s, a new one begins", error, aside)
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    return SqliteWindowStore(path, retention=retention)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _to_ms(at: datetime) -> int:
    return int(at.timestamp() * 1_000)


def _to_span_ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1_000)


def _plain(text: str, chars_max: int) -> str:
    """Cut a text from outside to what a column holds: no lone surrogates."""
    return text[:chars_max].encode("utf-8", "replace").decode()
