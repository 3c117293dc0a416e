"""Asking how a package can travel, and what to make of the answer.

The answer is a hint that nobody signed: it is followed when it names a way this device offered,
needs no more memory than it said, and saves bytes over what is missing. Everything else, silence
included, ends in fetching the package itself. Left out: clock, files, messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_agent.contract.encoding import needed_bytes
from edge_agent.contract.errors import ContractError
from edge_agent.contract.transfer import (
    CHUNK_BYTES,
    ChunkFrame,
    ChunkRequest,
    Encoding,
    FrameKind,
    PackageOffer,
    Part,
    count_chunks,
)

ANSWER_S = 5.0
TRIES_MAX = 3
"""Requests without an answer: a server older than offers gives none."""
WAIT_S_MAX = 180.0
"""Longest time from the first request to a decision, whatever the server says."""
RETRY_AFTER_S_MAX = 30
FIRST_REQUEST = 2**31
"""No number of a request for pieces: a late answer to one is not taken for one to the other."""
MISSING_BYTES_MIN = 4_096
"""For less it is not worth asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One question under way.

    Attributes:
        sha256: Of the package.
        size_bytes: Of the package, signed.
        missing_bytes: What of the package itself is not here yet.
        bases: Packages on this device and their sizes, the likeliest first.
        memory_bytes: What restoring may need.
        request: Number of the last request.
        tries: Requests so far that nothing answered.
        due_at: When the present request is given up; None when none is under way.
        wait_until: Ask for nothing before; the server said so.
        end_at: When the question is dropped; None before the first request.
        offer: What to fetch instead of the package.
        is_over: Whether it is decided.
        problem: Why an offer was not followed; empty when there was nothing to follow.
    """

    sha256: str
    size_bytes: int
    missing_bytes: int
    bases: Mapping[str, int]
    memory_bytes: int
    request: int = FIRST_REQUEST
    tries: int = 0
    due_at: float | None = None
    wait_until: float = 0.0
    end_at: float | None = None
    offer: PackageOffer | None = None
    is_over: bool = False
    problem: str = ""

    @property
    def next_at(self) -> float:
        """When time alone changes what to do."""
        return self.due_at if self.due_at is not None else self.wait_until


def plan_question(asking: Asking, *, now: float) -> tuple[Asking, ChunkRequest | None]:
    """Ask, unless a request is under way, put off or pointless by now."""
    if asking.is_over or asking.due_at is not None or now < asking.wait_until:
        return asking, None
    end_at = asking.end_at if asking.end_at is not None else now + WAIT_S_MAX
    if asking.tries >= TRIES_MAX or now >= end_at:
        return replace(asking, is_over=True), None
    asking = replace(
        asking,
        request=asking.request + 1,
        tries=asking.tries + 1,
        due_at=now + ANSWER_S * 2 ** (asking.tries),
        end_at=end_at,
    )
    return asking, ChunkRequest(
        request=asking.request,
        sha256=asking.sha256,
        part=Part.OFFER,
        first=0,
        bitmap=1,
        bases=tuple(asking.bases),
        memory_bytes=asking.memory_bytes,
    )


def take_answer(asking: Asking, frame: ChunkFrame, *, now: float, jitter: float) -> Asking:
    """Take a frame; one that does not answer the present request changes nothing."""
    is_mine = frame.sha256_prefix == bytes.fromhex(asking.sha256[:32])
    if asking.is_over or not is_mine or frame.request != asking.request or asking.due_at is None:
        return asking
    if frame.kind is FrameKind.RETRY_LATER:
        wait_s = min(max(frame.retry_after_s, 1), RETRY_AFTER_S_MAX) * (1 + jitter / 2)
        return replace(asking, tries=0, due_at=None, wait_until=now + wait_s)
    if frame.kind is FrameKind.REFUSED:
        return replace(asking, is_over=True)
    return _take_offer(asking, frame.body) if frame.kind is FrameKind.OFFER else asking


def expire_question(asking: Asking, *, now: float) -> Asking:
    """Give up a request whose time is over."""
    is_late = asking.due_at is not None and now >= asking.due_at
    return replace(asking, due_at=None) if is_late else asking


def interrupt_question(asking: Asking) -> Asking:
    """Forget what was under way: the session broke."""
    return replace(asking, due_at=None, wait_until=0.0, tries=0)


def find_problem(offer: PackageOffer, asking: Asking) -> str:
    """Say why an offer is not followed, empty when it is."""
    if offer.base and offer.base not in asking.bases:
        return f"offered from {offer.base[:12]}, which this device did not name"
    if offer.sha256 == asking.sha256:
        return "the offer names the package itself"
    if offer.size_bytes > asking.size_bytes:
        return f"offered {offer.size_bytes} bytes for a package of {asking.size_bytes}"
    need = needed_bytes(base_bytes=asking.bases.get(offer.base, 0), window_log=offer.window_log)
    if need > asking.memory_bytes:
        return f"restoring needs {need} bytes of memory, {asking.memory_bytes} are allowed"
    return ""


def _take_offer(asking: Asking, body: bytes) -> Asking:
    asking = replace(asking, is_over=True)
    try:
        offer = PackageOffer.decode(body)
    except ContractError as error:
        return replace(asking, problem=str(error))
    if offer.encoding is Encoding.IDENTITY:
        return asking
    problem = find_problem(offer, asking)
    is_followed = not problem and offer.size_bytes < asking.missing_bytes
    return replace(asking, problem=problem, offer=offer if is_followed else None)


def missing_bytes(size_bytes: int, bitmap: int) -> int:
    """Give the bytes of a package whose chunks are not here yet.

    >>> missing_bytes(70_000, 0b10)
    65536
    """
    count = count_chunks(size_bytes)
    last = size_bytes - (count - 1) * CHUNK_BYTES
    have = (bitmap & (1 << count) - 1).bit_count() * CHUNK_BYTES
    return size_bytes - have + (CHUNK_BYTES - last if bitmap >> count - 1 & 1 else 0)


def part_key(sha256: str, offer: PackageOffer | None) -> str:
    """Name the pieces on disk: of a package, or of an encoding of it, which goes when it goes."""
    return f"{sha256}.{offer.sha256}" if offer is not None else sha256
