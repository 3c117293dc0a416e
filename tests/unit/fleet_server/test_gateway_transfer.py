"""The server's side of a transfer: rights, places, rate, pieces, resume."""

import hashlib
from dataclasses import dataclass, field

import pytest

from edge_agent.contract.topics import Channel, device_topic
from edge_agent.contract.transfer import (
    CHUNK_BYTES,
    ChunkFrame,
    ChunkRequest,
    FrameKind,
    Part,
    count_chunks,
)
from fleet_server.errors import NotFoundError, UnreachableError
from fleet_server.ports.gateway import InboundMessage
from fleet_server.services.serve_chunks import (
    HASH_LISTS_KEPT_MAX,
    PIECES_PER_TURN,
    REFUSAL_KEPT_S,
    RIGHTS_KEPT_S,
    ServeChunks,
)
from tests.support.clock import FakeClock

PACKAGE = bytes(range(256)) * 1_000  # 256,000 bytes: three whole chunks and a rest
SHA256 = hashlib.sha256(PACKAGE).hexdigest()
FOREIGN = hashlib.sha256(b"foreign").hexdigest()


@dataclass
class FakePackages:
    blobs: dict[str, bytes] = field(default_factory=lambda: {SHA256: PACKAGE, FOREIGN: b"foreign"})
    hollow: dict[str, int] = field(default_factory=dict)
    """Sizes of packages whose chunks all read as nothing."""
    reads: int = 0

    def size_bytes(self, sha256: str) -> int:
        if sha256 in self.hollow:
            return self.hollow[sha256]
        if sha256 not in self.blobs:
            raise NotFoundError(sha256)
        return len(self.blobs[sha256])

    def read_range(self, sha256: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return self.blobs.get(sha256, b"")[offset : offset + length]


@dataclass
class FakeRights:
    allowed: dict[str, set[str]] = field(default_factory=dict)
    reads: int = 0
    is_broken: bool = False

    def allowed_packages(self, device_id: str) -> frozenset[str]:
        self.reads += 1
        if self.is_broken:
            raise UnreachableError("locked")
        return frozenset(self.allowed.get(device_id, ()))


@dataclass
class FakeSink:
    sent: list[tuple[str, ChunkFrame]] = field(default_factory=list)

    def send(self, device_id: str, frame: bytes) -> bool:
        self.sent.append((device_id, ChunkFrame.decode(frame)))
        return True


@dataclass
class World:
    packages: FakePackages = field(default_factory=FakePackages)
    rights: FakeRights = field(default_factory=FakeRights)
    sink: FakeSink = field(default_factory=FakeSink)
    clock: FakeClock = field(default_factory=FakeClock)

    def serve(self, *, bytes_per_s: int = 10**9, devices_max: int = 4) -> ServeChunks:
        return ServeChunks(
            self.packages,
            self.rights,
            self.sink,
            self.clock,
            bytes_per_s=bytes_per_s,
            devices_max=devices_max,
        )

    def kinds(self) -> list[FrameKind]:
        return [frame.kind for _, frame in self.sink.sent]


@pytest.fixture
def world() -> World:
    return World(rights=FakeRights({"cam-1": {SHA256}, "cam-2": {SHA256}}))


def request(
    *,
    device: str = "cam-1",
    sha256: str = SHA256,
    part: Part = Part.CHUNKS,
    first: int = 0,
    bitmap: int = 0b1111,
    number: int = 1,
) -> InboundMessage:
    wanted = ChunkRequest(request=number, sha256=sha256, part=part, first=first, bitmap=bitmap)
    return InboundMessage(device_topic(device, Channel.CHUNK_REQUEST), wanted.encode())


def test_the_chunks_of_a_request_make_the_package(world: World) -> None:
    serve = world.serve()
    assert serve.take(request()) == ""
    assert serve.send_due() is None
    frames = [frame for _, frame in world.sink.sent]
    assert [(f.kind, f.index, f.request) for f in frames] == [
        (FrameKind.CHUNK, n, 1) for n in range(4)
    ]
    assert b"".join(f.body for f in frames) == PACKAGE
    assert {f.sha256_prefix for f in frames} == {bytes.fromhex(SHA256[:32])}


def test_only_what_is_asked_for_is_sent(world: World) -> None:
    serve = world.serve()
    serve.take(request(first=1, bitmap=0b101))
    serve.send_due()
    assert [f.index for _, f in world.sink.sent] == [1, 3]


def test_the_hash_list_is_that_of_the_signed_target(world: World) -> None:
    serve = world.serve()
    serve.take(request(part=Part.HASHES, bitmap=1))
    serve.send_due()
    ((_, frame),) = world.sink.sent
    chunks = [PACKAGE[at : at + CHUNK_BYTES] for at in range(0, len(PACKAGE), CHUNK_BYTES)]
    assert frame.kind is FrameKind.HASHES
    assert frame.body == b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


def test_a_long_hash_list_comes_in_pieces(world: World) -> None:
    big = "b" * 64
    world.packages.hollow[big] = CHUNK_BYTES * 2_049  # one more than a piece of the list names
    world.rights.allowed["cam-1"].add(big)
    serve = world.serve()
    serve.take(request(sha256=big, part=Part.HASHES, bitmap=0b111))
    serve.send_due()
    kinds = {f.index: (f.kind, len(f.body)) for _, f in world.sink.sent}
    assert kinds == {
        0: (FrameKind.HASHES, CHUNK_BYTES),
        1: (FrameKind.HASHES, 32),
        2: (FrameKind.REFUSED, 0),
    }


def test_hash_lists_are_computed_once_and_not_kept_for_ever(world: World) -> None:
    serve = world.serve()
    for _ in range(3):
        serve.take(request(part=Part.HASHES, bitmap=1))
        serve.send_due()
    assert world.packages.reads == count_chunks(len(PACKAGE))
    for n in range(HASH_LISTS_KEPT_MAX + 1):
        blob = bytes([n])
        sha256 = hashlib.sha256(blob).hexdigest()
        world.packages.blobs[sha256] = blob
        world.rights.allowed["cam-1"].add(sha256)
        world.clock.advance(1)
        serve.take(request(sha256=sha256, part=Part.HASHES, bitmap=1))
        serve.send_due()
    assert len(serve._hash_lists) == HASH_LISTS_KEPT_MAX


@pytest.mark.parametrize(
    ("device", "sha256"),
    [("cam-1", FOREIGN), ("cam-9", SHA256), ("cam-1", "0" * 64)],
    ids=["another package", "another device", "no such package"],
)
def test_what_no_target_names_is_refused_in_the_same_words(
    world: World, device: str, sha256: str
) -> None:
    serve = world.serve()
    serve.take(request(device=device, sha256=sha256, number=9))
    serve.send_due()
    ((to, frame),) = world.sink.sent
    assert (to, frame.kind, frame.request, frame.body) == (device, FrameKind.REFUSED, 9, b"")
    assert world.packages.reads == 0


def test_a_package_that_is_gone_is_refused(world: World) -> None:
    world.packages.blobs.clear()
    serve = world.serve()
    serve.take(request(bitmap=1))
    serve.send_due()
    assert world.kinds() == [FrameKind.REFUSED]


def test_a_piece_behind_the_end_is_refused(world: World) -> None:
    serve = world.serve()
    serve.take(request(first=3, bitmap=0b11))
    serve.send_due()
    assert world.kinds() == [FrameKind.CHUNK, FrameKind.REFUSED]


def test_rights_are_remembered_for_a_moment_and_a_no_for_less(world: World) -> None:
    serve = world.serve()
    for _ in range(5):
        serve.take(request(bitmap=1))
    assert world.rights.reads == 1
    world.clock.advance(REFUSAL_KEPT_S / 2)
    serve.take(request(sha256=FOREIGN))
    assert world.rights.reads == 1
    world.rights.allowed["cam-1"] = {FOREIGN}
    world.clock.advance(REFUSAL_KEPT_S)
    serve.take(request(sha256=FOREIGN, bitmap=1))
    assert world.kinds().count(FrameKind.REFUSED) == 1
    world.clock.advance(RIGHTS_KEPT_S)
    serve.take(request(bitmap=1))
    assert world.kinds().count(FrameKind.REFUSED) == 2  # taken away in the meantime


def test_a_locked_database_does_not_end_a_running_transfer(world: World) -> None:
    serve = world.serve()
    serve.take(request(bitmap=1))
    world.rights.is_broken = True
    world.clock.advance(RIGHTS_KEPT_S)
    serve.take(request(bitmap=2))
    serve.send_due()
    assert world.kinds() == [FrameKind.CHUNK, FrameKind.CHUNK]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (InboundMessage("ef/v1/00/cam-1/up/xfer", b"{}"), "bucket"),
        (InboundMessage(device_topic("cam-1", Channel.CHUNK_REQUEST), b"{}"), "version"),
        (InboundMessage(device_topic("cam-1", Channel.CHUNK_REQUEST), b" " * 1_025), "1024"),
        (request(bitmap=0b11111), "at most 4"),
    ],
)
def test_what_cannot_be_read_is_named_and_answered_with_nothing(
    world: World, message: InboundMessage, reason: str
) -> None:
    serve = world.serve()
    assert reason in serve.take(message)
    assert (serve.counts.malformed, world.sink.sent) == (1, [])


def test_devices_beyond_the_limit_are_told_when_to_ask_again(world: World) -> None:
    serve = world.serve(devices_max=1)
    serve.take(request())
    serve.take(request(device="cam-2", number=5))
    ((to, frame),) = world.sink.sent
    assert (to, frame.kind, frame.request) == ("cam-2", FrameKind.RETRY_LATER, 5)
    assert frame.retry_after_s >= 1
    serve.send_due()
    world.clock.advance(frame.retry_after_s)
    serve.take(request(device="cam-2"))
    serve.send_due()
    assert world.sink.sent[-1][1].kind is FrameKind.CHUNK


def drain(serve: ServeChunks, clock: FakeClock) -> float:
    """Send all with simulated waiting; return the seconds it took."""
    start_s = clock.monotonic()
    while (wait_s := serve.send_due()) is not None:
        clock.advance(wait_s)
    return clock.monotonic() - start_s


def test_the_rate_is_kept(world: World) -> None:
    rate = 2 * CHUNK_BYTES
    serve = world.serve(bytes_per_s=rate)
    seconds = 0.0
    for number in range(10):
        serve.take(request(number=number))
        seconds += drain(serve, world.clock)
    burst = 4 * CHUNK_BYTES
    assert seconds == pytest.approx((10 * len(PACKAGE) - burst) / rate, rel=0.1)


def test_devices_share_the_rate_in_turns(world: World) -> None:
    serve = world.serve()
    for device in ("cam-1", "cam-2"):
        serve.take(request(device=device))
    serve.send_due()
    assert [to for to, _ in world.sink.sent[:4]] == ["cam-1", "cam-2", "cam-1", "cam-2"]


def test_a_request_repeated_after_a_timeout_is_answered_once(world: World) -> None:
    serve = world.serve(bytes_per_s=1_024)
    serve.take(request(number=1))
    serve.take(request(number=2))
    drain(serve, world.clock)
    answers = [(f.index, f.request) for _, f in world.sink.sent]
    assert answers == [(n, 2) for n in range(4)]


def test_one_turn_is_bounded_so_that_new_requests_are_seen(world: World) -> None:
    world.rights.allowed |= {f"d-{n}": {SHA256} for n in range(PIECES_PER_TURN)}
    serve = world.serve(devices_max=10_000)
    for n in range(PIECES_PER_TURN):
        serve.take(request(device=f"d-{n}"))
    assert serve.send_due() == 0.0
    assert len(world.sink.sent) == PIECES_PER_TURN


def test_another_channel_is_not_answered(world: World) -> None:
    wanted = request()
    message = InboundMessage(device_topic("cam-1", Channel.STATUS), wanted.payload)
    assert world.serve().take(message) == ""
    assert world.sink.sent == []


def test_a_device_that_lost_pieces_gets_the_package_all_the_same(world: World) -> None:
    serve = world.serve()
    have: dict[int, bytes] = {}
    asked = count = 0
    while len(have) < 4:
        missing = [n for n in range(4) if n not in have]
        serve.take(request(bitmap=sum(1 << n for n in missing), number=(asked := asked + 1)))
        serve.send_due()
        for _, frame in world.sink.sent:
            count += 1
            if count % 3 != 1:  # every third piece is lost
                have[frame.index] = frame.body
        world.sink.sent.clear()
    assert b"".join(have[n] for n in range(4)) == PACKAGE
