"""Who is served, how fast, in what order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.core.transfer_pacing import (
    IDLE_AFTER_LAST_S,
    IDLE_S,
    PIECES_PER_DEVICE_MAX,
    RETRY_AFTER_S_MAX,
    PieceQueue,
    ServingTable,
    TokenBucket,
)


def make_bucket(level: float = 0, *, rate: float = 100, burst: float = 50) -> TokenBucket:
    return TokenBucket(rate=rate, burst=burst, level=level, at_s=0)


@pytest.mark.parametrize(
    ("level", "at_s", "wanted"),
    [(0, 0.25, 25), (0, 9, 50), (50, 1, 50), (-100, 1, 0), (10, -5, 10)],
)
def test_the_bucket_fills_up_to_its_burst(level: float, at_s: float, wanted: float) -> None:
    assert make_bucket(level).refill(at_s).level == wanted


@pytest.mark.parametrize(("level", "wait_s"), [(1, 0), (-10, 0.1), (-200, 2.0), (0, 0.001)])
def test_the_wait_is_until_the_level_is_above_zero(level: float, wait_s: float) -> None:
    assert make_bucket(level).wait_s(0) == pytest.approx(wait_s)


def test_a_piece_larger_than_the_burst_still_leaves() -> None:
    bucket = make_bucket(50).spend(1_000, 0)
    assert bucket.level == -950
    assert bucket.wait_s(0) == pytest.approx(9.5)


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 200_000)), min_size=1, max_size=60),
)
def test_the_rate_is_kept_over_any_stretch(rate: int, turns: list[tuple[float, int]]) -> None:
    burst = 65_536.0
    bucket, now_s, sent = TokenBucket(rate=rate, burst=burst, level=burst, at_s=0), 0.0, 0
    largest = max(size for _, size in turns)
    for pause_s, size in turns:
        now_s += pause_s
        if bucket.wait_s(now_s) == 0:
            bucket = bucket.spend(size, now_s)
            sent += size
    assert sent <= burst + rate * now_s + largest + 1


def test_devices_beyond_the_limit_are_told_when_to_return() -> None:
    table = ServingTable(2)
    assert [table.admit(d, 0) for d in ("a", "b")] == [0, 0]
    assert table.admit("c", 0) > 0
    assert table.admit("a", 1) == 0  # keeps its place
    assert table.served == 2


def test_a_place_is_free_after_idling_and_soon_after_the_last_piece() -> None:
    table = ServingTable(1)
    table.admit("a", 0)
    assert table.admit("b", IDLE_S - 0.01) > 0
    assert table.admit("b", IDLE_S) == 0
    table.touch("b", IDLE_S, is_last=True)
    assert table.admit("c", IDLE_S + IDLE_AFTER_LAST_S) == 0


def test_sending_keeps_the_place() -> None:
    table = ServingTable(1)
    table.admit("a", 0)
    table.touch("a", IDLE_S - 1, is_last=False)
    assert table.admit("b", IDLE_S + 1) > 0


def test_the_more_wait_the_longer_is_the_wait() -> None:
    table = ServingTable(1)
    table.admit("a", 0)
    waits = [table.admit(f"w{n}", 0) for n in range(100)]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] == RETRY_AFTER_S_MAX


def test_touching_a_device_that_is_not_served_gives_it_no_place() -> None:
    table = ServingTable(1)
    table.touch("ghost", 0, is_last=False)
    assert table.served == 0


def test_devices_take_turns() -> None:
    queue: PieceQueue[int] = PieceQueue()
    for device in ("a", "b"):
        for piece in range(3):
            queue.add(device, piece)
    taken = [queue.pop() for _ in range(7)]
    assert taken == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), None]


def test_a_piece_waits_once_and_the_oldest_gives_way() -> None:
    queue: PieceQueue[int] = PieceQueue()
    for piece in (*range(PIECES_PER_DEVICE_MAX + 1), 1):
        queue.add("a", piece)
    assert len(queue) == PIECES_PER_DEVICE_MAX
    assert queue.pop() == ("a", 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=60))
def test_every_queued_piece_leaves_once(wishes: list[tuple[str, int]]) -> None:
    queue: PieceQueue[int] = PieceQueue()
    for device, piece in wishes:
        queue.add(device, piece)
    count, taken = len(queue), []
    while (piece_of := queue.pop()) is not None:
        taken.append(piece_of)
    assert len(taken) == len(set(taken)) == count
    assert set(taken) <= set(wishes)
