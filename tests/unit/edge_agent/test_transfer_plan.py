"""Which pieces to ask for, and what to make of each answer: cases, then whole transfers."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.transfer import (
    CHUNK_BYTES,
    WINDOW_MAX,
    ChunkFrame,
    ChunkRequest,
    FrameKind,
    Part,
)
from edge_agent.core.transfer_plan import (
    LIST_FAILURES_MAX,
    REFUSALS_MAX,
    TIMEOUT_S,
    TIMEOUT_S_MAX,
    Transfer,
    expire,
    interrupt,
    note_saved,
    plan_request,
    take_frame,
)
from tests.support.agent import ChunkServer

BLOB = bytes(range(256)) * 1_500  # six chunks, the last one short
SERVER = ChunkServer(BLOB)


def begin(**changes: object) -> Transfer:
    transfer = Transfer(sha256=SERVER.sha256, size_bytes=len(BLOB), chunks=SERVER.chunks)
    return replace(transfer, **changes)  # type: ignore[arg-type]


def ask(transfer: Transfer, now: float = 0.0) -> tuple[Transfer, ChunkRequest]:
    transfer, request = plan_request(transfer, now=now)
    assert request is not None
    return transfer, ChunkRequest.decode(request.encode())


def take(transfer: Transfer, *frames: ChunkFrame, now: float = 0.0) -> Transfer:
    for frame in frames:
        transfer = take_frame(transfer, frame, now=now, jitter=0.0)
    return transfer


def run(
    transfer: Transfer, answer: Callable[[ChunkRequest], list[ChunkFrame]], rounds: int = 100
) -> tuple[Transfer, dict[int, bytes]]:
    """Drive a transfer to its end; returns what was saved."""
    saved: dict[int, bytes] = {}
    now = 0.0
    for _ in range(rounds):
        transfer, request = plan_request(transfer, now=now)
        if request is not None:
            transfer = take(transfer, *answer(request), now=now)
        now += TIMEOUT_S_MAX
        transfer = expire(transfer, now=now)
        if transfer.is_window_over:
            saved.update(transfer.landed)
            transfer = note_saved(transfer)
        if transfer.is_complete or transfer.failure:
            break
    return transfer, saved


def test_the_list_of_hashes_comes_first_and_is_checked_whole() -> None:
    transfer, request = ask(begin())
    assert (request.part, request.indices) == (Part.HASHES, (0,))
    transfer = take(transfer, *SERVER.answer(request))
    assert transfer.hashes == SERVER.hashes
    transfer, request = ask(transfer)
    assert (request.part, request.indices) == (Part.CHUNKS, (0, 1, 2, 3))


def test_a_list_that_is_not_the_signed_one_is_dropped_and_in_the_end_a_failure() -> None:
    transfer = begin(chunks="0" * 64)
    for round_number in range(LIST_FAILURES_MAX):
        assert transfer.failure is None
        transfer, request = ask(transfer)
        transfer = take(transfer, *SERVER.answer(request))
        assert (transfer.hashes, transfer.list_failures) == (None, round_number + 1)
    assert transfer.failure is not None


def test_nothing_more_is_asked_before_a_window_is_durable() -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    assert plan_request(transfer, now=0)[1] is None
    transfer = take(transfer, *SERVER.answer(request))
    assert transfer.is_window_over
    assert plan_request(transfer, now=0)[1] is None
    transfer, request = ask(note_saved(transfer))
    assert request.indices == (4, 5)


def test_chunks_already_here_are_not_asked_for() -> None:
    _, request = ask(begin(hashes=SERVER.hashes, have=0b010110))
    assert request.indices == (0, 3, 5)


def test_a_chunk_that_is_not_the_signed_one_is_asked_for_again() -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    frames = SERVER.answer(request)
    frames[1] = replace(frames[1], body=b"x" * CHUNK_BYTES)
    transfer = note_saved(take(transfer, *frames))
    assert transfer.have == 0b1101
    assert ask(transfer)[1].indices == (1, 4, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256_prefix": b"\0" * 16},
        {"index": 5},
        {"index": 4_000_000_000},
        {"kind": FrameKind.HASHES},
        {"body": b""},
    ],
    ids=str,
)
def test_frames_nobody_asked_for_change_nothing_durable(change: dict[str, object]) -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    frame = replace(SERVER.answer(request)[0], **change)  # type: ignore[arg-type]
    assert take(transfer, frame).landed == ()


def test_a_duplicate_chunk_counts_once() -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    frame = SERVER.answer(request)[0]
    assert len(take(transfer, frame, frame).landed) == 1


def test_a_time_out_halves_the_window_and_doubles_the_patience() -> None:
    transfer, windows = begin(hashes=SERVER.hashes), []
    now = 0.0
    for _ in range(6):
        transfer, request = ask(transfer, now)
        windows.append(len(request.indices))
        assert expire(transfer, now=now + transfer.timeout_s - 0.1) == transfer
        now += transfer.timeout_s
        transfer = expire(transfer, now=now)
    assert windows == [4, 2, 1, 1, 1, 1]
    assert transfer.timeout_s == TIMEOUT_S_MAX


def test_full_windows_earn_the_width_back() -> None:
    transfer = begin(hashes=SERVER.hashes, window=2, timeout_s=80.0)
    transfer, request = ask(transfer)
    transfer = take(transfer, *SERVER.answer(request))
    assert (transfer.window, transfer.timeout_s) == (3, TIMEOUT_S)


def test_a_time_out_keeps_what_landed() -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    transfer = take(transfer, SERVER.answer(request)[2])
    assert not transfer.is_window_over
    transfer = expire(transfer, now=TIMEOUT_S)
    assert transfer.is_window_over
    assert note_saved(transfer).have == 0b100


def test_a_server_that_says_later_is_asked_later() -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    later = SERVER.refusal(request, FrameKind.RETRY_LATER, retry_after_s=30)
    transfer = take(transfer, later, now=100)
    assert plan_request(transfer, now=129.9)[1] is None
    assert plan_request(transfer, now=130)[1] is not None
    assert transfer.next_at == 130


def test_an_old_word_to_wait_is_ignored() -> None:
    transfer, request = ask(begin(hashes=SERVER.hashes))
    old = replace(SERVER.refusal(request, FrameKind.RETRY_LATER, retry_after_s=30), request=99)
    assert take(transfer, old).asked


def test_refusals_end_the_transfer() -> None:
    transfer = begin(hashes=SERVER.hashes)
    for number in range(REFUSALS_MAX):
        transfer, request = ask(transfer, now=10.0 * number)
        refusal = SERVER.refusal(request, FrameKind.REFUSED)
        transfer = take(transfer, refusal, now=10.0 * number)
    assert "refused" in (transfer.failure or "")


def test_a_flood_of_wrong_bytes_ends_the_transfer() -> None:
    def lie(request: ChunkRequest) -> list[ChunkFrame]:
        return [replace(frame, body=b"x" * CHUNK_BYTES) for frame in SERVER.answer(request)]

    transfer, saved = run(begin(hashes=SERVER.hashes), lie)
    assert "bytes received" in (transfer.failure or "")
    assert saved == {}


def test_a_broken_session_forgets_what_was_under_way() -> None:
    transfer, _ = ask(begin(hashes=SERVER.hashes))
    assert ask(interrupt(transfer))[1].indices == (0, 1, 2, 3)


def test_a_list_larger_than_one_piece_is_put_together() -> None:
    chunks = 5_000
    hashes = bytes(32 * chunks)
    digest = hashlib.sha256(hashes).hexdigest()
    transfer = begin(size_bytes=chunks * CHUNK_BYTES, chunks=digest)
    transfer, request = ask(transfer)
    assert request.indices == (0, 1, 2)
    for index in (2, 0, 1):
        piece = hashes[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        frame = replace(SERVER.frame(request, index, piece), kind=FrameKind.HASHES)
        transfer = take(transfer, frame)
    assert transfer.hashes == hashes


@settings(deadline=None)
@given(st.data())
def test_a_transfer_ends_whatever_is_lost_repeated_or_reordered(data: st.DataObject) -> None:
    def answer(request: ChunkRequest) -> list[ChunkFrame]:
        frames = SERVER.answer(request)
        kept = [frame for frame in frames if data.draw(st.integers(0, 3))]
        return data.draw(st.permutations(kept + kept[:1]))

    transfer, saved = run(begin(), answer, rounds=60)
    assert all(BLOB[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] == b for i, b in saved.items())
    if transfer.is_complete:
        assert b"".join(saved[index] for index in sorted(saved)) == BLOB
    assert transfer.received_bytes <= 3 * transfer.bytes_max
    assert transfer.window <= WINDOW_MAX


def test_an_undisturbed_transfer_receives_each_byte_once() -> None:
    transfer, saved = run(begin(), SERVER.answer)
    assert transfer.is_complete
    assert transfer.received_bytes == len(BLOB) + len(SERVER.hashes)
    assert b"".join(saved[index] for index in sorted(saved)) == BLOB
