"""What a power cut leaves of the outbox: every batch whose append returned, and none by half.

SQLite syncs its write-ahead log at each commit (WAL, FULL), so a cut may only take, tear or zero
what the log holds beyond the last one. That a sync is one is the disk's promise.
"""

import shutil
from pathlib import Path

import pytest

from edge_agent.adapters.outbox import Outbox
from edge_agent.contract.windows import Window

BATCHES, BATCH = 6, 3
SECTOR_BYTES = 512


def batch(number: int) -> list[tuple[int, Window]]:
    return [
        (
            7,
            Window(
                stream=0,
                sequence=number * BATCH + n,
                t0_ms=1,
                t1_ms=2,
                reference=b"r" * 8,
                artifact=b"a" * 8,
                rows=1,
                counters=bytes(200),
            ),
        )
        for n in range(BATCH)
    ]


def sequences(path: Path) -> list[int]:
    outbox = Outbox(path)
    try:
        return [window.sequence for _, window in outbox.pending(1_000)]
    finally:
        outbox.close()


@pytest.mark.parametrize("fate", ["lost", "zeroed", "torn"])
def test_every_batch_that_was_appended_is_there_whole(tmp_path: Path, fate: str) -> None:
    live = tmp_path / "live"
    live.mkdir()
    outbox = Outbox(live / "outbox.db")
    ends = [(live / "outbox.db-wal").stat().st_size]
    for number in range(BATCHES):
        outbox.append(batch(number))
        ends.append((live / "outbox.db-wal").stat().st_size)
    log, database = (live / "outbox.db-wal").read_bytes(), (live / "outbox.db").read_bytes()
    outbox.close()
    assert ends == sorted(set(ends))
    for count, cut in enumerate(range(ends[0], len(log), SECTOR_BYTES * 3)):
        home = tmp_path / f"{fate}-{count}"
        home.mkdir()
        (home / "outbox.db").write_bytes(database)
        rest = len(log) - cut
        left = {"lost": b"", "zeroed": bytes(rest), "torn": log[cut : cut + rest // 2]}[fate]
        (home / "outbox.db-wal").write_bytes(log[:cut] + left)
        found = sequences(home / "outbox.db")
        committed = sum(end <= cut for end in ends[1:])
        assert found == list(range(len(found))), "a hole"
        assert len(found) % BATCH == 0, "half a batch"
        assert len(found) >= committed * BATCH, f"{committed} batches were appended"
        shutil.rmtree(home)


def test_a_damaged_outbox_takes_nothing_into_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path)
    outbox.append(batch(0))
    log = path.with_name("outbox.db-wal").read_bytes()
    outbox.close()
    # The power goes between a new file and the removal of what belonged to the old one.
    path.write_bytes(b"no database" * 1_000)
    path.with_name("outbox.db-wal").write_bytes(log)
    path.with_name("outbox.db-shm").write_bytes(bytes(32_768))
    assert sequences(path) in ([], [0, 1, 2])
    assert sequences(path) == sequences(path)
    outbox = Outbox(path)
    outbox.append(batch(1))
    outbox.close()
    assert sequences(path)[-BATCH:] == [3, 4, 5]
