"""Answer chunk requests: authorised, paced, in turn.

A device asks only for what its assignment names, or for what was offered in place of that; anything
else is refused in the same words as a package that does not exist. Chunks are read from disk as
they leave and checked by the device. Requests come at QoS 0: one that is lost or displaced is asked
again.
"""

import hashlib
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field

from edge_agent.contract.errors import ContractError
from edge_agent.contract.topics import Channel, parse_topic
from edge_agent.contract.transfer import (
    CHUNK_BYTES,
    HASH_BYTES,
    ChunkFrame,
    ChunkRequest,
    FrameKind,
    Part,
    count_chunks,
)
from fleet_server.core.transfer_pacing import PieceQueue, ServingTable, TokenBucket
from fleet_server.errors import FleetError, NotFoundError
from fleet_server.ports.clock import Clock
from fleet_server.ports.gateway import ChunkSink, InboundMessage, PackageSource, TransferRights
from fleet_server.services.offer_encodings import IDENTITY, OfferEncodings

BURST_S = 0.25
BURST_BYTES_MIN = 4 * CHUNK_BYTES
PIECES_PER_TURN = 32
RIGHTS_KEPT_S = 2.0
REFUSAL_KEPT_S = 0.2
RIGHTS_KEPT_MAX = 20_000
HASH_LISTS_KEPT_MAX = 16
OFFERS_PER_S, OFFERS_BURST = 1.0, 8
"""Questions of one device how a package can travel; an agent asks once a second at most."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """One frame to be sent; asked for again, it answers the newer request."""

    sha256: str
    part: Part
    index: int
    request: int = field(compare=False)


@dataclass(slots=True)
class TransferCounts:
    """Totals since the start."""

    requests: int = 0
    malformed: int = 0
    refused: int = 0
    deferred: int = 0
    unanswered: int = 0
    frames: int = 0
    bytes: int = 0


class ServeChunks:
    """The server's side of package transfer; called from one thread."""

    def __init__(
        self,
        packages: PackageSource,
        rights: TransferRights,
        sink: ChunkSink,
        clock: Clock,
        *,
        bytes_per_s: int,
        devices_max: int,
        offers: OfferEncodings | None = None,
    ) -> None:
        """Prepare.

        Args:
            packages: Where the bytes are.
            rights: Who may fetch what.
            sink: Where frames leave.
            clock: Monotonic seconds are used.
            bytes_per_s: All devices together.
            devices_max: Served at once; others are told when to ask again.
            offers: Says how a package can travel; None: as it is.
        """
        self._packages, self._rights, self._sink, self._clock = packages, rights, sink, clock
        self._offers = offers
        self._table = ServingTable(devices_max)
        self._queue: PieceQueue[Piece] = PieceQueue()
        burst = max(BURST_BYTES_MIN, bytes_per_s * BURST_S)
        self._bucket = TokenBucket(
            rate=bytes_per_s, burst=burst, level=burst, at_s=clock.monotonic()
        )
        self._rights_of: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()
        self._hash_lists: OrderedDict[str, bytes] = OrderedDict()
        self._asking: OrderedDict[str, TokenBucket] = OrderedDict()
        self.counts = TransferCounts()

    def take(self, message: InboundMessage) -> str:
        """Take one request; return why it cannot be read, empty when it can."""
        self.counts.requests += 1
        try:
            address = parse_topic(message.topic)
            if address.channel is not Channel.CHUNK_REQUEST:
                return ""
            request = ChunkRequest.decode(message.payload)
        except ContractError as error:
            self.counts.malformed += 1
            return str(error)
        device_id = address.device_id
        if not self._is_allowed(device_id, request.sha256):
            self._answer(device_id, request, FrameKind.REFUSED)
            return ""
        if request.part is Part.OFFER:
            self._offer(device_id, request)
            return ""
        retry_after_s = self._table.admit(device_id, self._clock.monotonic())
        if retry_after_s:
            self.counts.deferred += 1
            self._answer(device_id, request, FrameKind.RETRY_LATER, retry_after_s)
            return ""
        for index in request.indices:
            self._queue.add(device_id, Piece(request.sha256, request.part, index, request.request))
        return ""

    def _offer(self, device_id: str, request: ChunkRequest) -> None:
        """Say how a package can travel; no place is needed for that.

        Who asks too often is not answered: it asks again when its time is over.
        """
        now_s = self._clock.monotonic()
        bucket = self._asking.pop(device_id, None) or TokenBucket(
            rate=OFFERS_PER_S, burst=OFFERS_BURST, level=OFFERS_BURST, at_s=now_s
        )
        is_too_often = bucket.refill(now_s).level < 1
        self._asking[device_id] = bucket if is_too_often else bucket.spend(1, now_s)
        while len(self._asking) > RIGHTS_KEPT_MAX:
            self._asking.popitem(last=False)
        if is_too_often:
            self.counts.unanswered += 1
            return
        found = self._offers.answer(request) if self._offers is not None else IDENTITY
        if isinstance(found, int):
            self.counts.deferred += 1
            self._answer(device_id, request, FrameKind.RETRY_LATER, found)
        else:
            self._answer(device_id, request, FrameKind.OFFER, body=found.encode())

    def send_due(self) -> float | None:
        """Send what the rate allows now, a few pieces at most: new requests want a look too.

        Returns:
            Seconds until more may leave; None when nothing waits.
        """
        for _ in range(PIECES_PER_TURN):
            now_s = self._clock.monotonic()
            wait_s = self._bucket.wait_s(now_s)
            if wait_s > 0 and len(self._queue):
                return wait_s
            taken = self._queue.pop()
            if taken is None:
                return None
            self._send(*taken, now_s)
        return 0.0

    def _send(self, device_id: str, piece: Piece, now_s: float) -> None:
        try:
            body, count = self._read(piece)
        except NotFoundError as error:
            _LOG.error("package for %s: %s", device_id, error)
            body, count = b"", 0
        if piece.index >= count:
            self._answer(device_id, piece, FrameKind.REFUSED)
            return
        kind = FrameKind.HASHES if piece.part is Part.HASHES else FrameKind.CHUNK
        frame = ChunkFrame(
            kind=kind,
            request=piece.request,
            index=piece.index,
            sha256_prefix=bytes.fromhex(piece.sha256[:32]),
            body=body,
        ).encode()
        if self._sink.send(device_id, frame):
            self.counts.frames += 1
            self.counts.bytes += len(frame)
        self._bucket = self._bucket.spend(len(frame), now_s)
        is_last = piece.part is Part.CHUNKS and piece.index == count - 1
        self._table.touch(device_id, now_s, is_last=is_last)

    def _read(self, piece: Piece) -> tuple[bytes, int]:
        """Return one piece and how many there are."""
        chunks = count_chunks(self._packages.size_bytes(piece.sha256))
        if piece.part is Part.CHUNKS:
            if piece.index >= chunks:
                return b"", chunks
            offset = piece.index * CHUNK_BYTES
            return self._packages.read_range(piece.sha256, offset, CHUNK_BYTES), chunks
        hashes = self._hash_list(piece.sha256, chunks)
        offset = piece.index * CHUNK_BYTES
        return hashes[offset : offset + CHUNK_BYTES], count_chunks(chunks * HASH_BYTES)

    def _hash_list(self, sha256: str, chunks: int) -> bytes:
        """Return the concatenated sha256 of all chunks; computed once and kept."""
        hashes = self._hash_lists.get(sha256)
        if hashes is None:
            hashes = b"".join(
                hashlib.sha256(
                    self._packages.read_range(sha256, n * CHUNK_BYTES, CHUNK_BYTES)
                ).digest()
                for n in range(chunks)
            )
            self._hash_lists[sha256] = hashes
            if len(self._hash_lists) > HASH_LISTS_KEPT_MAX:
                self._hash_lists.popitem(last=False)
        self._hash_lists.move_to_end(sha256)
        return hashes

    def _is_allowed(self, device_id: str, sha256: str) -> bool:
        """Tell whether a device may have a package, or what travels in its place.

        Rights are remembered for a moment; a no is looked up again sooner, because the
        assignment may be younger than what is remembered.
        """
        sha256 = self._offers.owner_of(sha256) if self._offers is not None else sha256
        now_s = self._clock.monotonic()
        read_at_s, allowed = self._rights_of.get(device_id, (-math.inf, frozenset()))
        kept_s = RIGHTS_KEPT_S if sha256 in allowed else REFUSAL_KEPT_S
        if now_s - read_at_s >= kept_s:
            try:
                allowed = self._rights.allowed_packages(device_id)
            except FleetError as error:
                _LOG.warning("rights of %s cannot be read: %s", device_id, error)
            else:
                self._rights_of[device_id] = (now_s, allowed)
                self._rights_of.move_to_end(device_id)
                if len(self._rights_of) > RIGHTS_KEPT_MAX:
                    self._rights_of.popitem(last=False)
        return sha256 in allowed

    def _answer(
        self,
        device_id: str,
        about: ChunkRequest | Piece,
        kind: FrameKind,
        retry_after_s: int = 0,
        body: bytes = b"",
    ) -> None:
        if kind is FrameKind.REFUSED:
            self.counts.refused += 1
        index = about.index if isinstance(about, Piece) else about.first
        frame = ChunkFrame(
            kind=kind,
            request=about.request,
            index=index,
            sha256_prefix=bytes.fromhex(about.sha256[:32]),
            retry_after_s=retry_after_s,
            body=body,
        )
        self._sink.send(device_id, frame.encode())
