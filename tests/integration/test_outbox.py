import subprocess
import sys
from pathlib import Path

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


def sequences(outbox: Outbox, limit: int = 1_000) -> list[int]:
    return [w.sequence for _, w in outbox.pending(limit)]


def test_windows_come_back_as_they_were_after_a_restart(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "outbox.db")
    first.append([(BOOT, window(0)), (3, window(7, stream=65_535))])
    first.close()
    second = Outbox(tmp_path / "outbox.db")
    assert second.pending(10) == [(BOOT, window(0)), (3, window(7, stream=65_535))]
    assert second.pending(1) == [(BOOT, window(0))]
    assert second.counts() == {"waiting": 2, "dropped": 0}
    second.close()


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
    size = encoded_size(window(0))
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=3 * size)
    outbox.append([(BOOT, window(n)) for n in range(3)])
    assert outbox.counts() == {"waiting": 3, "dropped": 0}
    outbox.append([(BOOT, window(3)), (BOOT, window(4, size=11))])
    assert sequences(outbox) == [3, 4]
    outbox.count_dropped(5)
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db", bytes_max=3 * size)
    assert outbox.counts() == {"waiting": 2, "dropped": 8}
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
    assert outbox.counts() == {"waiting": 1, "dropped": 0}
    outbox._db.execute("PRAGMA max_page_count = 1000000")
    outbox.append([(BOOT, window(n, size=60_000)) for n in range(1, 4)])
    assert sequences(outbox) == [0, 1, 2, 3]
    outbox.close()


WRITER = """
import sys
from pathlib import Path
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.lists(st.integers(0, 30), min_size=1, max_size=6)),
            st.tuples(st.just("ack"), st.tuples(st.integers(0, 20), st.integers(0, 20))),
        ),
        max_size=20,
    )
)
def test_every_window_is_waiting_or_acknowledged_or_counted_as_dropped(
    steps: list[tuple[str, list[int] | tuple[int, int]]],
) -> None:
    outbox, bytes_max = Outbox(None, bytes_max=300), 300
    made, acknowledged = 0, 0
    for kind, values in steps:
        if kind == "append":
            outbox.append([(BOOT, window(made + n, size=s)) for n, s in enumerate(values)])
            made += len(values)
        else:
            first, span = values
            acknowledged += outbox.acknowledge([AckRange(BOOT, 0, first, first + span)])
        waiting = outbox.pending(1_000)
        counts = outbox.counts()
        assert counts["waiting"] == len(waiting)
        assert counts["waiting"] + counts["dropped"] + acknowledged == made
        assert sum(encoded_size(w) for _, w in waiting) <= bytes_max
        assert [w.sequence for _, w in waiting] == sorted(w.sequence for _, w in waiting)
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
    assert sender.counts() == {"waiting": 1, "dropped": 2}
    assert sequences(sender) == [0]
    assert sender.acknowledge([AckRange(7, 0, 0, 0)]) == 1
    assert sender.counts() == {"waiting": 0, "dropped": 2}
    assert sender.appended == sender.appended
    sender.close()


def test_who_joins_a_damaged_file_does_not_replace_it(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"no database at all" * 300)
    with pytest.raises(OutboxError, match="cannot be opened"):
        Outbox(path, is_joining=True)
    assert path.read_bytes().startswith(b"no database")
