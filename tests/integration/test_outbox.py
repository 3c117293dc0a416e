import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.adapters.outbox import Outbox
from edge_agent.contract.messages import AckRange
from edge_agent.contract.windows import Window, encoded_size
from edge_agent.errors import OutboxError

BOOT = 2**63 - 1


def window(sequence: int, *, stream: int = 0, size: int = 10) -> Window:
    return Window(
        stream=stream,
        sequence=sequence,
        t0_ms=1,
        t1_ms=2,
        reference=b"r" * 8,
        artifact=b"a" * 8,
        rows=3,
        counters=b"\x01" * size,
    )


def counts(*, waiting: int, merged: int = 0, dropped: int = 0, rows: int = 0) -> dict[str, int]:
    windows = {"waiting": waiting, "merged": merged, "dropped": dropped, "dropped_rows": rows}
    others = dict.fromkeys(("labels", "labels_dropped", "samples", "samples_dropped"), 0)
    return {**windows, **others}


def sequences(outbox: Outbox, limit: int = 1_000) -> list[int]:
    return [w.sequence for _, w in outbox.pending(limit)]


def test_windows_come_back_as_they_were_after_a_restart(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "outbox.db")
    first.append([(BOOT, window(0)), (3, window(7, stream=65_535))])
    first.close()
    second = Outbox(tmp_path / "outbox.db")
    assert second.pending(10) == [(BOOT, window(0)), (3, window(7, stream=65_535))]
    assert second.pending(1) == [(BOOT, window(0))]
    assert second.counts() == counts(waiting=2)
    second.close()


def test_what_waits_is_its_owners_alone_to_read(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.touch(0o644)  # as an older agent made it
    outbox = Outbox(path)
    outbox.append([(1, window(0))])
    found = sorted(tmp_path.iterdir())
    assert [file.name for file in found] == ["outbox.db", "outbox.db-shm", "outbox.db-wal"]
    assert {file.stat().st_mode & 0o777 for file in found} == {0o600}


def test_an_acknowledged_window_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.append([(boot, window(n, stream=s)) for boot in (1, 2) for s in (0, 1) for n in (0, 1)])
    assert outbox.acknowledge([AckRange(1, 0, 0, 1), AckRange(2, 1, 1, 9)]) == 3
    left = [(boot, w.stream, w.sequence) for boot, w in outbox.pending(10)]
    assert left == [(1, 1, 0), (1, 1, 1), (2, 0, 0), (2, 0, 1), (2, 1, 0)]
    assert outbox.counts()["waiting"] == 5
    assert outbox.acknowledge([AckRange(1, 0, 0, 1)]) == 0
    outbox.close()


def test_the_oldest_make_room_and_are_counted_over_restarts(tmp_path: Path) -> None:
    size = encoded_size(window(0, size=12))
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=3 * size)
    outbox.append([(BOOT, window(n, size=10 + n)) for n in range(3)])  # of other layouts
    assert outbox.counts() == counts(waiting=3)
    outbox.append([(BOOT, window(3, size=13)), (BOOT, window(4, size=11))])
    assert sequences(outbox) == [2, 3, 4]
    outbox.count_dropped(5, rows=40)
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=3 * size)
    assert outbox.counts() == counts(waiting=3, dropped=7, rows=46)
    outbox.close()


def test_a_full_outbox_merges_the_oldest_and_keeps_every_row(tmp_path: Path) -> None:
    size = encoded_size(window(0))
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=10 * size)
    for n in range(40):
        outbox.append([(n // 7, window(n)._replace(t0_ms=100 * n, t1_ms=100 * n + 50))])
    found = outbox.pending(1_000)
    outbox.close()
    assert sum(encoded_size(w) for _, w in found) <= 10 * size
    assert sum(w.rows for _, w in found) == 40 * 3
    assert [sum(w.counters) for _, w in found] == [10 * w.rows // 3 for _, w in found]
    assert [w.t0_ms for _, w in found] == sorted(w.t0_ms for _, w in found)
    assert (found[0][1].t0_ms, found[-1][1].t1_ms) == (0, 3_950)
    assert found[0][1].rows >= found[-1][1].rows, "what is older is coarser"
    assert len({(boot, w.stream, w.sequence) for boot, w in found}) == len(found)
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.counts() == counts(waiting=len(found), merged=40 - len(found))
    outbox.close()


def test_what_may_have_been_sent_is_never_merged(tmp_path: Path) -> None:
    size = encoded_size(window(0))
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=5 * size)
    outbox.append([(BOOT, window(n)) for n in range(4)])
    assert outbox.reserve(outbox.pending(2)) == [(BOOT, window(0)), (BOOT, window(1))]
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=5 * size)
    outbox.append([(BOOT, window(n)) for n in range(4, 6)])
    found = outbox.pending(100)
    assert found[:2] == [(BOOT, window(0)), (BOOT, window(1))]
    merged_boot, merged = found[2]
    assert (merged_boot == BOOT, merged.rows) == (False, 6)
    assert outbox.reserve([(BOOT, window(2)), found[2]]) == [found[2]], "that one is no more"
    assert outbox.acknowledge([AckRange(merged_boot, 0, merged.sequence, merged.sequence)]) == 1
    outbox.close()


@pytest.mark.parametrize(
    "other",
    [
        {"reference": b"s" * 8},
        {"artifact": b"b" * 8},
        {"stream": 1},
        {"t1_ms": 90_000_000},
        {"rows": 2**32 - 1},
        {"counters": b"\x01" * 9 + b"\x80"},
    ],
)
def test_windows_that_cannot_be_added_are_dropped_when_full(other: dict[str, Any]) -> None:
    size = encoded_size(window(0))
    outbox = Outbox(None, bytes_max=3 * size)
    odd = window(1)._replace(**other)
    outbox.append([(BOOT, window(0)), (BOOT, odd)])
    outbox.append([(BOOT, window(2)), (BOOT, window(3))])
    assert outbox.counts() == counts(waiting=3, dropped=1, rows=3)
    outbox.close()


def test_a_batch_that_is_tried_again_is_not_merged_before(tmp_path: Path) -> None:
    size = encoded_size(window(0))
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=4 * size)
    batch = [(BOOT, window(n)) for n in range(3, 6)]
    outbox.append([(BOOT, window(n)) for n in range(3)])
    outbox.append(batch)  # as if the answer of this commit had been lost
    outbox.append(batch)
    assert sum(w.rows for _, w in outbox.pending(100)) + outbox.counts()["dropped_rows"] == 18
    outbox.close()


def test_the_retry_of_a_commit_whose_answer_was_lost_counts_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.append([(BOOT, window(0))])
    outbox.append([(BOOT, window(0)), (BOOT, window(1))])
    assert sequences(outbox) == [0, 1]
    assert outbox.counts()["waiting"] == 2
    outbox.close()


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"no database at all" * 100)
    outbox = Outbox(path)
    outbox.append([(BOOT, window(0))])
    assert sequences(outbox) == [0]
    assert (tmp_path / "outbox.damaged").read_bytes().startswith(b"no database")
    outbox.close()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match=r"outbox .*missing/outbox\.db"):
        Outbox(tmp_path / "missing" / "outbox.db")


def test_a_refused_write_keeps_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.append([(BOOT, window(0))])
    (page_count,) = outbox._db.execute("PRAGMA page_count").fetchone()
    outbox._db.execute(f"PRAGMA max_page_count = {page_count + 20}")  # room for one of three
    with pytest.raises(OutboxError, match="full"):
        outbox.append([(BOOT, window(n, size=60_000)) for n in range(1, 4)])
    assert sequences(outbox) == [0]
    assert outbox.counts() == counts(waiting=1)
    outbox._db.execute("PRAGMA max_page_count = 1000000")
    outbox.append([(BOOT, window(n, size=60_000)) for n in range(1, 4)])
    assert sequences(outbox) == [0, 1, 2, 3]
    outbox.close()


WRITER = """
import sys
from pathlib import Path
from typing import Any
from edge_agent.adapters.outbox import Outbox
from tests.integration.test_outbox import BOOT, window
outbox = Outbox(Path(sys.argv[1]))
first = int(sys.argv[2])
for n in range(first, first + 100_000, 5):
    outbox.append([(BOOT, window(k)) for k in range(n, n + 5)])
    print(n + 4, flush=True)
"""


def test_what_was_appended_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    path, told = tmp_path / "outbox.db", -1
    for lines in (1, 3, 17, 40):
        command = [sys.executable, "-c", WRITER, str(path), str(told + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                told = int(writer.stdout.readline())
            writer.kill()
            rest = writer.stdout.read().split("\n")[:-1]
            told = int(rest[-1]) if rest else told
        outbox = Outbox(path)
        found = [w.sequence for _, w in outbox.pending(1_000_000)]
        outbox.close()
        assert found[: told + 1] == list(range(told + 1))
        assert len(found) % 5 == 0, "a batch is there whole or not at all"
        told = found[-1]


STEPS: st.SearchStrategy[tuple[str, list[int]]] = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(1, 4), min_size=1, max_size=6)),
    st.tuples(st.just("again"), st.just([])),
    st.tuples(st.just("send"), st.lists(st.just(0), min_size=1, max_size=8)),
    st.tuples(st.just("ack"), st.lists(st.integers(0, 12), min_size=1, max_size=3)),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25))
def test_rows_waiting_acknowledged_and_dropped_are_the_rows_recorded(
    steps: list[tuple[str, list[int]]],
) -> None:
    outbox, bytes_max = Outbox(None, bytes_max=400), 400
    recorded = acknowledged = appended = taken = 0
    sent: dict[tuple[int, int, int], Window] = {}
    batch: list[tuple[int, Window]] = []
    for kind, values in steps:
        if kind == "append":
            batch = [
                (BOOT, window(appended + n, size=s)._replace(rows=s + n))
                for n, s in enumerate(values)
            ]
            appended += len(batch)
            recorded += sum(w.rows for _, w in batch)
            outbox.append(batch)
        elif kind == "again":
            left = [(boot, w) for boot, w in batch if (boot, w) in outbox.pending(1_000)]
            outbox.append(left)
        elif kind == "send":
            for boot, w in outbox.reserve(outbox.pending(len(values))):
                assert sent.setdefault((boot, w.stream, w.sequence), w) == w, "bytes never change"
        else:
            for (boot, stream, sequence), w in list(sent.items())[values[0] :][:3]:
                if outbox.acknowledge([AckRange(boot, stream, sequence, sequence)]):
                    acknowledged += w.rows
                    taken += 1
        waiting = outbox.pending(1_000)
        found = outbox.counts()
        assert found["waiting"] == len(waiting)
        assert found["waiting"] + found["merged"] + found["dropped"] + taken == appended
        rows = sum(w.rows for _, w in waiting)
        assert rows + found["dropped_rows"] + acknowledged == recorded
        assert sum(encoded_size(w) for _, w in waiting) <= bytes_max
    outbox.close()


def test_two_processes_share_one_file_and_see_each_others_work(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    sender = Outbox(path)
    seen = sender.appended
    program = (
        "import sys; from pathlib import Path; from edge_agent.adapters.outbox import Outbox;"
        "from edge_agent.contract.windows import Window;"
        "w = Window(0, 0, 1, 2, b'r' * 8, b'a' * 8, 3, b'x');"
        "o = Outbox(Path(sys.argv[1]), is_joining=True); o.append([(7, w)]); o.count_dropped(2)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert sender.appended != seen
    assert sender.counts() == counts(waiting=1, dropped=2)
    assert sequences(sender) == [0]
    assert sender.acknowledge([AckRange(7, 0, 0, 0)]) == 1
    assert sender.counts() == counts(waiting=0, dropped=2)
    assert sender.appended == sender.appended
    sender.close()


def test_who_joins_a_damaged_file_does_not_replace_it(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"no database at all" * 300)
    with pytest.raises(OutboxError, match="cannot be opened"):
        Outbox(path, is_joining=True)
    assert path.read_bytes().startswith(b"no database")
