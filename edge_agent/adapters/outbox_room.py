"""Make room in a full outbox: merge the oldest windows pairwise, drop the oldest only then.

Whoever may know a window already must never see its rows again under another number. So two kinds
of windows are left as they are: those that may have been sent (``id`` up to the mark that is
committed before a frame leaves), and those of the batch being appended (its caller tries the same
batch again when the answer of the commit is lost). What a merge makes takes the place of the
older window, under the boot id of this opening of the file, 63 random bits that nobody else has.

Everything here runs inside the caller's transaction.
"""

import sqlite3
from collections.abc import Iterator, Set
from dataclasses import dataclass

from edge_agent.contract.windows import MERGED_SPAN_MS_MAX, Window, encoded_size

SLACK_SHARE = 16
"""Merging goes on until a sixteenth is free, so that not every batch has to merge."""
SENT_MARK = "sent_id"
_PAGE_ROWS = 256

Key = tuple[int, int, int]
"""(boot, stream, sequence): the name of a window for ever."""

_PAGE = """
SELECT id, boot, stream, sequence, t0_ms, t1_ms, reference, artifact, rows, counters
FROM window WHERE id > ? ORDER BY id LIMIT ?
"""
_REPLACE = """
UPDATE window SET boot = ?, sequence = ?, t0_ms = ?, t1_ms = ?, rows = ?, counters = ?, bytes = ?
WHERE id = ?
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMade:
    """What became of the oldest windows.

    Attributes:
        merged: Windows that were added to another one.
        dropped: Windows that are lost.
        dropped_rows: Rows they counted.
    """

    merged: int = 0
    dropped: int = 0
    dropped_rows: int = 0


def make_room(
    db: sqlite3.Connection,
    *,
    bytes_max: int,
    boot: int,
    sequences: Iterator[int],
    keep: Set[Key],
) -> RoomMade:
    """Bring the windows down to ``bytes_max`` together.

    Args:
        db: Inside a transaction.
        bytes_max: Encoded size of all windows.
        boot: Of merged windows; nobody else uses it.
        sequences: Numbers of merged windows, each given once.
        keep: Windows of the batch being appended, never merged.
    """
    (size,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM window").fetchone()
    merged = 0
    if size > bytes_max:
        (sent,) = db.execute("SELECT value FROM counter WHERE name = ?", (SENT_MARK,)).fetchone()
        target = bytes_max - bytes_max // SLACK_SHARE
        while size > target:
            pairs, freed = _merge_once(db, int(sent), size - target, boot, sequences, keep)
            if not pairs:
                break
            merged, size = merged + pairs, size - freed
    dropped, rows = _drop(db, size, bytes_max) if size > bytes_max else (0, 0)
    for name, count in (("merged", merged), ("dropped", dropped), ("dropped_rows", rows)):
        if count:
            db.execute("UPDATE counter SET value = value + ? WHERE name = ?", (count, name))
    return RoomMade(merged=merged, dropped=dropped, dropped_rows=rows)


def _merge_once(
    db: sqlite3.Connection,
    after: int,
    wanted_bytes: int,
    boot: int,
    sequences: Iterator[int],
    keep: Set[Key],
) -> tuple[int, int]:
    """Go once from the oldest to the newest, joining neighbours; return pairs and bytes freed.

    Each window takes part once, so the oldest do not swallow all others: what is older is coarser.
    """
    # Loads numpy, which who only sends from an outbox must not pay for.
    from edge_agent.statistics.merging import merge_windows

    waiting: dict[tuple[int, bytes, bytes], tuple[int, Window]] = {}
    pairs = freed = 0
    while page := db.execute(_PAGE, (after, _PAGE_ROWS)).fetchall():
        for window_id, own_boot, *fields in page:
            window = Window(*fields)
            after = window_id
            if (own_boot, window.stream, window.sequence) in keep:
                continue
            place = (window.stream, window.reference, window.artifact)
            older = waiting.pop(place, None)
            both = None if older is None else merge_windows(older[1], window, next(sequences))
            if older is None or both is None:
                if window.t1_ms - window.t0_ms < MERGED_SPAN_MS_MAX:
                    waiting[place] = (window_id, window)
                continue
            size = encoded_size(both)
            db.execute("DELETE FROM window WHERE id = ?", (window_id,))
            merged = (both.sequence, both.t0_ms, both.t1_ms, both.rows, both.counters)
            db.execute(_REPLACE, (boot, *merged, size, older[0]))
            pairs += 1
            freed += encoded_size(older[1]) + encoded_size(window) - size
            if freed >= wanted_bytes:
                return pairs, freed
    return pairs, freed


def _drop(db: sqlite3.Connection, size: int, bytes_max: int) -> tuple[int, int]:
    """Drop the oldest until the rest fits; return windows and rows."""
    last, dropped, lost_rows = 0, 0, 0
    for window_id, size_bytes, rows in db.execute("SELECT id, bytes, rows FROM window ORDER BY id"):
        if size <= bytes_max:
            break
        last, dropped, lost_rows = window_id, dropped + 1, lost_rows + rows
        size -= size_bytes
    db.execute("DELETE FROM window WHERE id <= ?", (last,))
    return dropped, lost_rows
