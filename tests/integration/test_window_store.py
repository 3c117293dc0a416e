"""Windows in SQLite: counted once, placed by day, read newest first, dropped by the day."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.windows import Window
from fleet_server.adapters import window_store
from fleet_server.adapters.window_store import SqliteWindowStore, open_or_replace
from fleet_server.ports.telemetry import (
    Appended,
    DeviceWindow,
    QuarantinedMessage,
    StoreError,
    WindowBatch,
)

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1_000)
RETENTION = timedelta(days=7)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
REFERENCE, OTHER_REFERENCE = b"ref-0001", b"ref-0002"


def make_window(
    sequence: int = 0, *, t0_ms: int = NOW_MS, stream: int = 0, reference: bytes = REFERENCE
) -> Window:
    return Window(
        stream=stream,
        sequence=sequence,
        t0_ms=t0_ms,
        t1_ms=t0_ms + 1_000,
        reference=reference,
        artifact=b"artifact",
        rows=10,
        counters=bytes([1, 2, 3, sequence % 128]),
    )


def make_batch(*windows: Window, device: int = 1, boot: int = 5) -> WindowBatch:
    return WindowBatch(
        received_at=NOW, windows=[DeviceWindow(device, boot, window) for window in windows]
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteWindowStore]:
    store = SqliteWindowStore(tmp_path / "telemetry.db", retention=RETENTION)
    yield store
    store.close()


def test_a_window_comes_back_as_it_was_sent(store: SqliteWindowStore) -> None:
    sent = make_window(7, stream=3)
    assert store.append(make_batch(sent, device=42, boot=2**63 - 1)) == Appended(inserted=1)
    (got,) = store.read_recent(0, per_device_max=10)
    assert (got.device, got.boot, got.stream, got.sequence) == (42, 2**63 - 1, 3, 7)
    assert (got.t0_ms, got.t1_ms, got.rows) == (sent.t0_ms, sent.t1_ms, 10)
    assert (got.reference, got.artifact) == (REFERENCE.hex(), b"artifact".hex())
    assert got.counters == sent.counters


def test_a_window_sent_again_is_counted_once(store: SqliteWindowStore) -> None:
    store.append(make_batch(make_window(1), make_window(2)))
    again = store.append(make_batch(make_window(2), make_window(3), make_window(3)))
    assert again == Appended(inserted=1, duplicates=2)
    assert len(list(store.read_recent(0, per_device_max=10))) == 3
    totals = store.stats().totals
    assert (totals["received"], totals["inserted"], totals["duplicates"]) == (5, 3, 2)


@pytest.mark.parametrize(
    ("change", "is_new"),
    [
        ({"sequence": 2}, True),
        ({"stream": 1}, True),
        ({"t0_ms": NOW_MS + 1}, True),
        ({"reference": OTHER_REFERENCE}, False),  # the key is who and when, not what
    ],
)
def test_the_key_is_start_device_boot_stream_and_sequence(
    store: SqliteWindowStore, change: dict[str, int], is_new: bool
) -> None:
    store.append(make_batch(make_window(1)))
    arguments = {"sequence": 1} | change
    appended = store.append(make_batch(make_window(**arguments)))  # type: ignore[arg-type]
    assert (appended.inserted == 1) is is_new


def test_another_device_or_boot_is_another_window(store: SqliteWindowStore) -> None:
    store.append(make_batch(make_window(1)))
    assert store.append(make_batch(make_window(1), device=2)).inserted == 1
    assert store.append(make_batch(make_window(1), boot=6)).inserted == 1


@pytest.mark.parametrize(
    ("offset_ms", "wanted"),
    [
        (-7 * DAY_MS, Appended(inserted=1)),
        (-7 * DAY_MS - 1, Appended(too_late=1)),
        (DAY_MS, Appended(inserted=1)),
        (DAY_MS + 1, Appended(unplaced=1)),
        (-NOW_MS, Appended(too_late=1)),  # a clock at 1970
    ],
)
def test_the_retention_and_a_day_ahead_are_the_limits(
    store: SqliteWindowStore, offset_ms: int, wanted: Appended
) -> None:
    assert store.append(make_batch(make_window(t0_ms=NOW_MS + offset_ms))) == wanted


def test_windows_dated_ahead_are_deduplicated_and_bounded(
    store: SqliteWindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_store, "UNPLACED_MAX", 2)
    ahead = [make_window(n, t0_ms=NOW_MS + 9 * DAY_MS) for n in range(3)]
    assert store.append(make_batch(ahead[0])) == Appended(unplaced=1)
    assert store.append(make_batch(ahead[0])) == Appended(duplicates=1)
    assert store.append(make_batch(*ahead[1:])) == Appended(unplaced=1, overflow=1)
    assert store.stats().unplaced == 2
    assert list(store.read_recent(0, per_device_max=9)) == []


def test_a_year_2262_clock_does_not_stop_ingest(store: SqliteWindowStore) -> None:
    far = make_window(t0_ms=2**63 - 1_001)
    assert store.append(make_batch(far, make_window(1))).inserted == 1


def test_reading_is_newest_first_and_limited_per_device_and_reference(
    store: SqliteWindowStore,
) -> None:
    for device in (1, 2):
        store.append(
            make_batch(
                *(make_window(n, t0_ms=NOW_MS - n * HOUR_MS) for n in range(30)), device=device
            )
        )
    store.append(make_batch(make_window(99, reference=OTHER_REFERENCE)))
    got = list(store.read_recent(NOW_MS - 40 * HOUR_MS, per_device_max=26))
    assert [w.t0_ms for w in got] == sorted((w.t0_ms for w in got), reverse=True)
    ours = [w.sequence for w in got if w.device == 1 and w.reference == REFERENCE.hex()]
    assert ours == list(range(26))  # spans two day tables
    assert len(got) == 2 * 26 + 1
    only = list(store.read_recent(0, per_device_max=26, references=[OTHER_REFERENCE.hex()]))
    assert [w.sequence for w in only] == [99]


def test_reading_starts_where_it_is_told(store: SqliteWindowStore) -> None:
    store.append(make_batch(*(make_window(n, t0_ms=NOW_MS + n) for n in range(5))))
    got = store.read_recent(NOW_MS + 3, per_device_max=9)
    assert [w.sequence for w in got] == [4, 3]


def test_pages_of_equal_starts_miss_nothing(
    store: SqliteWindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_store, "_PAGE_ROWS", 3)
    for device in range(10):
        store.append(make_batch(make_window(), make_window(stream=1), device=device))
    got = list(store.read_recent(0, per_device_max=9))
    assert len({(w.device, w.stream) for w in got}) == len(got) == 20


def test_a_reader_that_stops_half_way_blocks_nobody(store: SqliteWindowStore) -> None:
    store.append(make_batch(*(make_window(n) for n in range(10))))
    reader = store.read_recent(0, per_device_max=99)
    next(reader)
    assert store.append(make_batch(make_window(10))).inserted == 1
    assert store.drop_before(NOW_MS + 2 * DAY_MS) == 1
    assert len(list(reader)) == 9  # the page it had


def test_days_are_dropped_whole(store: SqliteWindowStore) -> None:
    store.append(make_batch(*(make_window(n, t0_ms=NOW_MS - n * DAY_MS) for n in range(5))))
    assert store.stats().days == ("20260306", "20260307", "20260308", "20260309", "20260310")
    midnight = int(datetime(2026, 3, 9, tzinfo=UTC).timestamp() * 1_000)
    assert store.drop_before(midnight - 1) == 2
    assert store.drop_before(midnight) == 1
    assert store.stats().days == ("20260309", "20260310")
    assert store.append(make_batch(make_window(4, t0_ms=NOW_MS - 4 * DAY_MS))).inserted == 1


def test_a_second_reader_sees_what_is_committed(store: SqliteWindowStore, tmp_path: Path) -> None:
    reader = SqliteWindowStore(tmp_path / "telemetry.db", retention=RETENTION)
    store.append(make_batch(make_window()))
    assert len(list(reader.read_recent(0, per_device_max=1))) == 1
    reader.close()


def test_what_is_committed_is_there_after_reopening(tmp_path: Path) -> None:
    for n in range(3):
        store = SqliteWindowStore(tmp_path / "t.db", retention=RETENTION)
        assert store.append(make_batch(make_window(n), make_window(0))).duplicates == (n > 0) + (
            n == 0
        )
        store.close()


def test_quarantine_keeps_the_newest_and_counts_all(
    store: SqliteWindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_store, "QUARANTINE_MAX", 3)
    for n in range(5):
        message = QuarantinedMessage(
            topic=f"t{n}" * 200, channel="tel", reason="r" * 999, payload=bytes(2_000)
        )
        store.append(WindowBatch(received_at=NOW, quarantined=[message]))
    kept = store.quarantined()
    assert [topic[:2] for _, topic, *_ in kept] == ["t4", "t3", "t2"]
    assert {(len(t), len(r), size, len(x)) for _, t, r, size, x in kept} == {(200, 400, 2_000, 512)}
    assert store.stats().totals == {"batches": 5, "quarantined": 5, "quarantined:tel": 5}


def test_a_batch_is_committed_whole_or_not_at_all(
    store: SqliteWindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_count", _fail)
        with pytest.raises(StoreError, match="disk is full"):
            store.append(make_batch(make_window(1)))
    assert list(store.read_recent(0, per_device_max=9)) == []
    assert store.append(make_batch(make_window(1))).inserted == 1  # the day's table too


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"telemetry.db.*not a database"):
        SqliteWindowStore(path, retention=RETENTION)


def test_the_gateway_begins_anew_beside_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    for n in (1, 2):
        path.write_bytes(b"not a database" * 100)
        store = open_or_replace(path, retention=RETENTION)
        assert store.append(make_batch(make_window())).inserted == 1
        store.close()
        aside = tmp_path / f"telemetry.damaged-{n}.db"
        assert aside.read_bytes().startswith(b"not a database")


def test_what_is_no_damage_is_not_set_aside(tmp_path: Path) -> None:
    (tmp_path / "telemetry.db").mkdir()
    with pytest.raises(StoreError, match="unable to open"):
        open_or_replace(tmp_path / "telemetry.db", retention=RETENTION)
    assert (tmp_path / "telemetry.db").is_dir()


def test_marks_keep_the_highest_sequence_of_a_stream(
    store: SqliteWindowStore, tmp_path: Path
) -> None:
    store.append(make_batch(make_window(9), make_window(4), make_window(1, stream=2)))
    store.append(make_batch(make_window(5)))
    with sqlite3.connect(tmp_path / "telemetry.db") as db:
        marks = db.execute("SELECT device, boot, stream, highest FROM stream_mark").fetchall()
    db.close()
    assert marks == [(1, 5, 0, 9), (1, 5, 2, 1)]


def test_retired_boots_are_remembered_in_order_and_bounded(
    store: SqliteWindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_store, "RETIRED_BOOTS_MAX", 2)
    store.retire_boots([(1, "a"), (1, "b"), (2, "z")])
    store.retire_boots([(1, "b"), (1, "c")])
    assert store.retired_boots([1, 2, 3]) == {1: ("b", "c"), 2: ("z",), 3: ()}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 4), st.integers(-9, 3)),
            max_size=8,
        ),
        max_size=6,
    )
)
def test_whatever_is_sent_in_whatever_batches_each_key_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int, int, int]]]
) -> None:
    store = SqliteWindowStore(tmp_path_factory.mktemp("law") / "t.db", retention=RETENTION)
    totals = dict.fromkeys(("inserted", "duplicates", "too_late", "unplaced", "overflow"), 0)
    for batch in batches:
        appended = store.append(
            WindowBatch(
                received_at=NOW,
                windows=[
                    DeviceWindow(device, boot, make_window(n, t0_ms=NOW_MS + day * DAY_MS))
                    for device, boot, n, day in batch
                ],
            )
        )
        for name in totals:
            totals[name] += getattr(appended, name)
    sent = {key for batch in batches for key in batch}
    got = [
        (w.device, w.boot, w.sequence, (w.t0_ms - NOW_MS) // DAY_MS)
        for w in store.read_recent(0, per_device_max=10**6)
    ]
    assert sorted(got) == sorted(key for key in sent if -7 <= key[3] <= 1)
    assert sum(totals.values()) == sum(len(batch) for batch in batches)
    store.close()
