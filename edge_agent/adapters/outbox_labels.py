"""Late labels in the outbox's file: the statements, run inside the outbox's transactions.

A label's number is its row id, which SQLite gives once and never again (AUTOINCREMENT).
"""

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_agent.contract.labels import LabelRow

if TYPE_CHECKING:
    from edge_agent.contract.messages import LabelRange

LABELS_MAX = 20_000
"""Rows kept; the oldest are dropped and counted."""
DROPPED = "labels_dropped"
SCHEMA = """
CREATE TABLE IF NOT EXISTS label (
  id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, artifact BLOB NOT NULL,
  is_class INTEGER NOT NULL, predicted REAL NOT NULL, label REAL NOT NULL, at_ms INTEGER NOT NULL,
  name TEXT NOT NULL DEFAULT ''
);
INSERT OR IGNORE INTO counter VALUES ('labels_dropped', 0);
"""
_INSERT = """
INSERT INTO label (boot, artifact, is_class, predicted, label, at_ms, name)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_OLDEST = """
SELECT id, artifact, is_class, predicted, label, at_ms, name FROM label
WHERE boot = ? ORDER BY id LIMIT ?
"""


def add_missing_columns(db: sqlite3.Connection) -> None:
    """Bring the table of a file that an older agent made to its present columns."""
    names = {row[1] for row in db.execute("PRAGMA table_info(label)")}
    if "name" not in names:
        db.execute("ALTER TABLE label ADD COLUMN name TEXT NOT NULL DEFAULT ''")


def insert_labels(
    db: sqlite3.Connection, boot: int, rows: Sequence[LabelRow], *, lost: int
) -> None:
    """Add labels, count ``lost`` ones, and drop the oldest beyond LABELS_MAX."""
    db.executemany(
        _INSERT,
        [(boot, r.artifact, r.is_class, r.predicted, r.label, r.at_ms, r.name) for r in rows],
    )
    dropped = db.execute(
        "DELETE FROM label WHERE id <= (SELECT id FROM label ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (LABELS_MAX,),
    ).rowcount
    db.execute("UPDATE counter SET value = value + ? WHERE name = ?", (dropped + lost, DROPPED))


def oldest_labels(db: sqlite3.Connection, limit: int) -> tuple[int, list[LabelRow]]:
    """Return the oldest labels of the boot whose turn it is, and that boot."""
    first = db.execute("SELECT boot FROM label ORDER BY id LIMIT 1").fetchone()
    if first is None:
        return 0, []
    found = db.execute(_OLDEST, (first[0], limit)).fetchall()
    return int(first[0]), [
        LabelRow(number, artifact, bool(is_class), predicted, label, at_ms, name)
        for number, artifact, is_class, predicted, label, at_ms, name in found
    ]


def delete_labels(db: sqlite3.Connection, ranges: "Sequence[LabelRange]") -> int:
    """Forget what the server has counted; return how many went."""
    return sum(
        db.execute(
            "DELETE FROM label WHERE boot = ? AND id BETWEEN ? AND ?", (r.boot, r.first, r.last)
        ).rowcount
        for r in ranges
    )
