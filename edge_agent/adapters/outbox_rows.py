"""Batches of sampled rows in the outbox's file: the statements, run inside its transactions.

A batch's number is its row id, which SQLite gives once and never again (AUTOINCREMENT).
"""

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge_agent.contract.messages import LabelRange

BYTES_SHARE = 4
"""Batches may take a quarter of the bytes windows may, beside them."""
ROWS_DROPPED = "samples_dropped"
ROWS_SCHEMA = """
CREATE TABLE IF NOT EXISTS sample (
  id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, rows INTEGER NOT NULL,
  bytes INTEGER NOT NULL, batch BLOB NOT NULL
);
INSERT OR IGNORE INTO counter VALUES ('samples_dropped', 0);
"""


class NewBatch(NamedTuple):
    """An encoded batch and how many rows it holds."""

    rows: int
    encoded: bytes


class PendingBatch(NamedTuple):
    """A batch that waits, with the boot it was answered under and its number."""

    boot: int
    sequence: int
    encoded: bytes


def insert_batches(
    db: sqlite3.Connection, boot: int, batches: Sequence[NewBatch], *, lost: int, bytes_max: int
) -> None:
    """Add batches, count ``lost`` rows, drop the oldest beyond a share of ``bytes_max``."""
    db.executemany(
        "INSERT INTO sample (boot, rows, bytes, batch) VALUES (?, ?, ?, ?)",
        [(boot, b.rows, len(b.encoded), b.encoded) for b in batches],
    )
    (size,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM sample").fetchone()
    excess, last, dropped = size - bytes_max // BYTES_SHARE, 0, lost
    for number, rows, size_bytes in db.execute("SELECT id, rows, bytes FROM sample ORDER BY id"):
        if excess <= 0:
            break
        last, dropped, excess = number, dropped + rows, excess - size_bytes
    db.execute("DELETE FROM sample WHERE id <= ?", (last,))
    db.execute("UPDATE counter SET value = value + ? WHERE name = ?", (dropped, ROWS_DROPPED))


def oldest_batch(db: sqlite3.Connection) -> PendingBatch | None:
    """Return the batch whose turn it is."""
    found = db.execute("SELECT boot, id, batch FROM sample ORDER BY id LIMIT 1").fetchone()
    return None if found is None else PendingBatch(*found)


def delete_batches(db: sqlite3.Connection, ranges: "Sequence[LabelRange]") -> int:
    """Forget what the server has; return how many batches went."""
    return sum(
        db.execute(
            "DELETE FROM sample WHERE boot = ? AND id BETWEEN ? AND ?", (r.boot, r.first, r.last)
        ).rowcount
        for r in ranges
    )
