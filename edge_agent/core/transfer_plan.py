"""Which pieces of a package to ask for next, and what to make of each answer.

The device drives: it asks for a window of at most four pieces and asks again only when those are
durable, so a kill repeats at most one window. First the list of chunk hashes, checked whole
against the signed digest; then chunks, each checked against the list. A time-out halves the
window. Left out: clock, files, messages.
"""

import hashlib
from dataclasses import dataclass, replace

from edge_agent.contract.transfer import (
    CHUNK_BYTES,
    HASH_BYTES,
    WINDOW_MAX,
    ChunkFrame,
    ChunkRequest,
    FrameKind,
    Part,
    count_chunks,
)

TIMEOUT_S = 5.0
"""Of a full window: four chunks at 420 kbit/s; slower links double it."""
TIMEOUT_S_MAX = 80.0
"""Four chunks at 26 kbit/s."""
LIST_FAILURES_MAX = 3
REFUSALS_MAX = 3
RETRY_AFTER_S_MAX = 3_600
BITMAP_SPAN = 64
"""Pieces one request can name, counted from its first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One package on its way in.

    Attributes:
        sha256: Of the package.
        size_bytes: Signed size.
        chunks: Signed sha256 of the list of chunk hashes, hex.
        hashes: The list once checked, None before.
        pieces: Pieces of the list so far, by index.
        have: Bit n set: chunk n is durable.
        landed: Checked chunks of this window that are not durable yet.
        asked: Bit n set: piece n of the present part is under way.
        request: Number of the last request.
        due_at: When the present window is given up.
        wait_until: Ask for nothing before; the server said so.
        window: Pieces per request, 1 to WINDOW_MAX.
        timeout_s: For one window.
        received_bytes: Of all answers, useful or not, and of what was tried before this.
        budget_bytes: Limit of ``received_bytes``; None for that of a package of this size.
        list_failures: Lists that were not the signed one.
        refusals: Times the server refused.
    """

    sha256: str
    size_bytes: int
    chunks: str
    hashes: bytes | None = None
    pieces: tuple[tuple[int, bytes], ...] = ()
    have: int = 0
    landed: tuple[tuple[int, bytes], ...] = ()
    asked: int = 0
    request: int = 0
    due_at: float | None = None
    wait_until: float = 0.0
    window: int = WINDOW_MAX
    timeout_s: float = TIMEOUT_S
    received_bytes: int = 0
    budget_bytes: int | None = None
    list_failures: int = 0
    refusals: int = 0

    @property
    def total(self) -> int:
        """Chunks of the package."""
        return count_chunks(self.size_bytes)

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is durable."""
        return self.hashes is not None and self.have.bit_count() == self.total

    @property
    def is_window_over(self) -> bool:
        """Whether chunks wait to be made durable and nothing more is under way."""
        return bool(self.landed) and not self.asked

    @property
    def bytes_max(self) -> int:
        """Answers beyond this many bytes mean that something is wrong on the way."""
        return budget_of(self.size_bytes) if self.budget_bytes is None else self.budget_bytes

    @property
    def failure(self) -> str | None:
        """Why it makes no sense to go on, None when it does."""
        if self.received_bytes > self.bytes_max:
            return f"{self.received_bytes} bytes received for a package of {self.size_bytes}"
        if self.list_failures >= LIST_FAILURES_MAX:
            return f"{self.list_failures} lists of chunk hashes were not the signed one"
        if self.refusals >= REFUSALS_MAX:
            return f"the server refused package {self.sha256[:12]} {self.refusals} times"
        return None

    @property
    def next_at(self) -> float | None:
        """When time alone changes what to do."""
        return self.due_at if self.asked else self.wait_until


def budget_of(size_bytes: int) -> int:
    """Give how many bytes may be received for one try of a package, useful or not."""
    return 3 * size_bytes + 1_048_576


def encoded_budget_of(size_bytes: int) -> int:
    """Give how many of those may be received for an encoding of it: the rest is for the package."""
    return size_bytes + 524_288


def plan_request(transfer: Transfer, *, now: float) -> tuple[Transfer, ChunkRequest | None]:
    """Ask for the next window, unless one is under way, not durable yet, or put off.

    >>> t = Transfer(sha256="0" * 64, size_bytes=1, chunks="0" * 64)
    >>> plan_request(t, now=0)[1].part
    <Part.HASHES: 'hashes'>
    """
    if transfer.asked or transfer.landed or transfer.is_complete or now < transfer.wait_until:
        return transfer, None
    if transfer.hashes is None:
        part, total = Part.HASHES, count_chunks(transfer.total * HASH_BYTES)
        have = sum(1 << index for index, _ in transfer.pieces)
    else:
        part, total, have = Part.CHUNKS, transfer.total, transfer.have
    missing = ~have & ((1 << total) - 1)
    first = (missing & -missing).bit_length() - 1
    bitmap = _lowest_bits(missing >> first & ((1 << BITMAP_SPAN) - 1), transfer.window)
    request = (transfer.request + 1) % 2**32
    return replace(
        transfer, asked=bitmap << first, request=request, due_at=now + transfer.timeout_s
    ), ChunkRequest(request=request, sha256=transfer.sha256, part=part, first=first, bitmap=bitmap)


def take_frame(transfer: Transfer, frame: ChunkFrame, *, now: float, jitter: float) -> Transfer:
    """Take one answer; a piece that is not what was signed is asked for again."""
    if frame.sha256_prefix != bytes.fromhex(transfer.sha256[:32]):
        return transfer
    transfer = replace(transfer, received_bytes=transfer.received_bytes + len(frame.body))
    if frame.kind in (FrameKind.RETRY_LATER, FrameKind.REFUSED):
        return _take_refusal(transfer, frame, now, jitter)
    if not transfer.asked >> frame.index & 1:
        return transfer
    if frame.kind is FrameKind.HASHES and transfer.hashes is None:
        return _take_list_piece(transfer, frame)
    if frame.kind is FrameKind.CHUNK and transfer.hashes is not None:
        return _take_chunk(transfer, transfer.hashes, frame)
    return transfer


def note_saved(transfer: Transfer) -> Transfer:
    """Record that the landed chunks are durable; a full window earns its width back."""
    have = transfer.have
    for index, _ in transfer.landed:
        have |= 1 << index
    return replace(transfer, have=have, landed=())


def expire(transfer: Transfer, *, now: float) -> Transfer:
    """Give up a window whose time is over: halve it and wait longer for the next."""
    if not transfer.asked or transfer.due_at is None or now < transfer.due_at:
        return transfer
    return replace(
        transfer,
        asked=0,
        due_at=None,
        window=max(1, transfer.window // 2),
        timeout_s=min(TIMEOUT_S_MAX, transfer.timeout_s * 2),
    )


def interrupt(transfer: Transfer) -> Transfer:
    """Forget what was under way: the session broke."""
    return replace(transfer, asked=0, due_at=None, wait_until=0.0)


def _take_refusal(transfer: Transfer, frame: ChunkFrame, now: float, jitter: float) -> Transfer:
    if frame.request != transfer.request or not transfer.asked:
        return transfer
    wait_s = min(max(frame.retry_after_s, 1), RETRY_AFTER_S_MAX) * (1 + jitter / 2)
    refused = frame.kind is FrameKind.REFUSED
    return replace(
        transfer,
        asked=0,
        due_at=None,
        wait_until=now + wait_s,
        refusals=transfer.refusals + refused,
    )


def _take_list_piece(transfer: Transfer, frame: ChunkFrame) -> Transfer:
    pieces = (*transfer.pieces, (frame.index, frame.body))
    transfer = replace(transfer, pieces=pieces, asked=transfer.asked & ~(1 << frame.index))
    if len(pieces) < count_chunks(transfer.total * HASH_BYTES):
        return transfer
    hashes = b"".join(body for _, body in sorted(pieces))
    is_signed = hashlib.sha256(hashes).hexdigest() == transfer.chunks
    if is_signed and len(hashes) == transfer.total * HASH_BYTES:
        return replace(transfer, hashes=hashes, pieces=())
    return replace(transfer, pieces=(), list_failures=transfer.list_failures + 1)


def _take_chunk(transfer: Transfer, hashes: bytes, frame: ChunkFrame) -> Transfer:
    asked = transfer.asked & ~(1 << frame.index)
    if not is_chunk(hashes, frame.index, frame.body, size_bytes=transfer.size_bytes):
        return replace(transfer, asked=asked)
    transfer = replace(transfer, asked=asked, landed=(*transfer.landed, (frame.index, frame.body)))
    if not asked and len(transfer.landed) >= transfer.window:
        return replace(transfer, window=min(WINDOW_MAX, transfer.window + 1), timeout_s=TIMEOUT_S)
    return transfer


def is_chunk(hashes: bytes, index: int, body: bytes, *, size_bytes: int) -> bool:
    """Tell whether bytes are the chunk of that index: length and sha256."""
    length = min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)
    signed = hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
    return len(body) == length and hashlib.sha256(body).digest() == signed


def _lowest_bits(bits: int, count: int) -> int:
    kept = 0
    for _ in range(count):
        low = bits & -bits
        kept |= low
        bits ^= low
    return kept
