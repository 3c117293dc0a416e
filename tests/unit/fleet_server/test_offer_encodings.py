"""Which way a package is offered to travel, who may have what, and where encodings are kept."""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import pytest

from edge_agent.contract.encoding import needed_bytes
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.contract.transfer import (
    ChunkFrame,
    ChunkRequest,
    Encoding,
    FrameKind,
    PackageOffer,
    Part,
)
from fleet_server.adapters.encoding_store import DirectoryEncodingStore, PackagesAndEncodings
from fleet_server.adapters.object_store import ObjectStore
from fleet_server.adapters.package_encoder import Encoded, is_worth
from fleet_server.errors import NotFoundError, UnreachableError
from fleet_server.ports.encodings import Pair, StoredEncoding
from fleet_server.ports.gateway import InboundMessage
from fleet_server.services.offer_encodings import (
    FAILURE_KEPT_S,
    IDENTITY,
    QUEUE_MAX,
    OfferEncodings,
)
from fleet_server.services.serve_chunks import OFFERS_BURST, ServeChunks
from tests.support.clock import FakeClock
from tests.support.encoded import MEMORY_BYTES, encoded, noise

BODY = noise(100_000)
OLD, NEW, FOREIGN = (BODY + name for name in (b"old", b"new", b"foreign"))
SHA = {blob: hashlib.sha256(blob).hexdigest() for blob in (OLD, NEW, FOREIGN)}


@dataclass
class FakeLineage:
    """OLD and NEW are versions of one model; FOREIGN is another's."""

    is_broken: bool = False

    def related(self, target: str, others: Collection[str]) -> frozenset[str]:
        if self.is_broken:
            raise UnreachableError("locked")
        family = {SHA[OLD], SHA[NEW]}
        return frozenset(o for o in others if target in family and o in family)


@dataclass
class Sent:
    frames: list[ChunkFrame] = field(default_factory=list)

    def send(self, device_id: str, frame: bytes) -> bool:
        assert device_id == "cam-1"
        self.frames.append(ChunkFrame.decode(frame))
        return True


class Rights:
    def allowed_packages(self, device_id: str) -> frozenset[str]:
        return frozenset({SHA[NEW]} if device_id == "cam-1" else ())


class Desk:
    def __init__(self, directory: Path) -> None:
        self.objects = ObjectStore(directory / "objects")
        for blob in SHA:
            self.objects.put(blob)
        self.directory, self.clock, self.lineage = directory, FakeClock(), FakeLineage()
        self.start()

    def start(self) -> None:
        self.store = DirectoryEncodingStore(self.directory / "encodings")
        self.offers = OfferEncodings(self.objects, self.store, self.lineage, self.clock)

    def ask(self, *bases: bytes, memory_bytes: int = MEMORY_BYTES) -> PackageOffer | int:
        return self.offers.answer(
            ChunkRequest(
                request=1,
                sha256=SHA[NEW],
                part=Part.OFFER,
                first=0,
                bitmap=1,
                bases=tuple(SHA[base] for base in bases),
                memory_bytes=memory_bytes,
            )
        )

    def make_all(self) -> list[Pair]:
        made = []
        while (pair := self.offers.take_work(0)) is not None:
            by_sha = {sha256: blob for blob, sha256 in SHA.items()}
            result = encoded(by_sha[pair.target], by_sha[pair.base] if pair.base else None)
            self.offers.finish_work(stored(pair, result), result.data)
            made.append(pair)
        return made


def stored(pair: Pair, made: Encoded) -> StoredEncoding:
    return StoredEncoding(
        pair=pair, offer=made.offer, way=made.way, package_bytes=len(NEW), made_s=0.1
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


PLAIN, DELTA = Pair(SHA[NEW]), Pair(SHA[NEW], SHA[OLD])


def test_who_asks_first_waits_and_then_gets_the_smallest(desk: Desk) -> None:
    assert isinstance(desk.ask(OLD), int)
    assert desk.make_all() == [PLAIN, DELTA]
    offer = desk.ask(OLD)
    assert isinstance(offer, PackageOffer)
    assert (offer.encoding, offer.base) == (Encoding.DELTA, SHA[OLD])
    assert offer.size_bytes < 1_000


def test_a_pair_is_made_once_for_all_who_ask(desk: Desk) -> None:
    for _ in range(5):
        assert isinstance(desk.ask(OLD), int)
    assert len(desk.make_all()) == 2
    assert isinstance(desk.ask(OLD), PackageOffer)
    assert desk.make_all() == []


def test_while_it_is_being_made_others_wait_and_it_is_not_made_twice(desk: Desk) -> None:
    desk.ask()
    assert desk.offers.take_work(0) == PLAIN
    assert isinstance(desk.ask(), int)
    assert desk.offers.take_work(0) is None


def test_a_restart_forgets_wishes_and_keeps_what_was_made(desk: Desk) -> None:
    desk.ask(OLD)
    desk.make_all()
    desk.start()
    assert isinstance(desk.ask(OLD), int), "nobody has hashed it in this life"
    assert desk.make_all() == []
    assert isinstance(desk.ask(OLD), PackageOffer)
    desk.start()
    assert desk.offers.take_work(0) is None


def test_nothing_is_made_from_another_models_package(desk: Desk) -> None:
    """From delta and package one can work out the base."""
    desk.ask(FOREIGN)
    assert desk.make_all() == [PLAIN]
    offer = desk.ask(FOREIGN)
    assert isinstance(offer, PackageOffer)
    assert offer.base == ""


def test_a_base_the_server_has_not_got_is_passed_over(desk: Desk) -> None:
    desk.objects.path(SHA[OLD]).unlink()
    desk.ask(OLD)
    assert desk.make_all() == [PLAIN]


def test_an_encoding_that_needs_more_memory_is_not_offered(desk: Desk) -> None:
    desk.ask(OLD)
    desk.make_all()
    delta = desk.ask(OLD)
    assert isinstance(delta, PackageOffer)
    need = needed_bytes(base_bytes=len(OLD), window_log=delta.window_log)
    assert desk.ask(OLD, memory_bytes=need) == delta
    less = desk.ask(OLD, memory_bytes=need - 1)
    assert isinstance(less, PackageOffer)
    assert less.encoding is Encoding.ZSTD
    assert desk.ask(OLD, memory_bytes=1_000) == IDENTITY
    assert desk.ask(OLD, memory_bytes=0) == IDENTITY


def test_what_cannot_be_made_is_not_tried_again_for_an_hour(desk: Desk) -> None:
    desk.ask()
    pair = desk.offers.take_work(0)
    assert pair is not None
    desk.offers.fail_work(pair, "out of memory")
    assert desk.ask() == IDENTITY
    desk.clock.advance(FAILURE_KEPT_S)
    assert isinstance(desk.ask(), int)
    assert desk.offers.describe()["encodings_failed"] == 1


def test_a_full_queue_answers_with_what_there_is(desk: Desk) -> None:
    for n in range(QUEUE_MAX):
        desk.offers._waiting[Pair(f"{n:064x}")] = None
    assert desk.ask() == IDENTITY


def test_a_locked_database_means_the_package_itself(desk: Desk) -> None:
    desk.lineage.is_broken = True
    assert desk.ask(OLD) == IDENTITY


def test_an_encoding_is_served_to_who_may_have_the_package_and_nobody_else(desk: Desk) -> None:
    sent = Sent()
    serve = ServeChunks(
        PackagesAndEncodings(desk.objects, desk.store),
        Rights(),
        sent,
        desk.clock,
        bytes_per_s=10**9,
        devices_max=4,
        offers=desk.offers,
    )

    def say(sha256: str, part: Part) -> ChunkFrame:
        request = ChunkRequest(
            request=7, sha256=sha256, part=part, first=0, bitmap=1, memory_bytes=MEMORY_BYTES
        )
        topic = device_topic("cam-1", Channel.CHUNK_REQUEST)
        assert serve.take(InboundMessage(topic, request.encode())) == ""
        serve.send_due()
        return sent.frames[-1]

    assert say(SHA[FOREIGN], Part.OFFER).kind is FrameKind.REFUSED
    later = say(SHA[NEW], Part.OFFER)
    assert later.kind is FrameKind.RETRY_LATER
    assert later.retry_after_s >= 1
    desk.make_all()
    offered = say(SHA[NEW], Part.OFFER)
    assert offered.kind is FrameKind.OFFER
    offer = PackageOffer.decode(offered.body)
    assert say(offer.sha256, Part.HASHES).kind is FrameKind.HASHES
    chunk = say(offer.sha256, Part.CHUNKS)
    assert chunk.kind is FrameKind.CHUNK
    assert desk.store.read_range(offer.sha256, 0, 65_536) == chunk.body
    foreign = encoded(FOREIGN)
    desk.store.put(stored(Pair(SHA[FOREIGN]), foreign), foreign.data)
    assert say(foreign.offer.sha256, Part.CHUNKS).kind is FrameKind.REFUSED


def test_a_device_that_asks_without_end_is_answered_now_and_then(desk: Desk) -> None:
    sent = Sent()
    serve = ServeChunks(
        PackagesAndEncodings(desk.objects, desk.store),
        Rights(),
        sent,
        desk.clock,
        bytes_per_s=1_000_000,
        devices_max=4,
        offers=desk.offers,
    )
    topic = device_topic("cam-1", Channel.CHUNK_REQUEST)
    question = ChunkRequest(
        request=1, sha256=SHA[NEW], part=Part.OFFER, first=0, bitmap=1, memory_bytes=MEMORY_BYTES
    ).encode()
    for _ in range(1_000):
        serve.take(InboundMessage(topic, question))
    assert len(sent.frames) == OFFERS_BURST
    assert serve.counts.unanswered == 1_000 - OFFERS_BURST
    for _ in range(10):
        desk.clock.advance(1)
        serve.take(InboundMessage(topic, question))
    assert len(sent.frames) == OFFERS_BURST + 10


# The store --------------------------------------------------------------------------------------


def test_what_a_disk_damaged_is_made_again(desk: Desk) -> None:
    desk.ask()
    desk.make_all()
    offer = desk.ask()
    assert isinstance(offer, PackageOffer)
    path = next((desk.directory / "encodings" / "blobs").rglob(offer.sha256))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    desk.start()
    assert isinstance(desk.ask(), int)
    assert desk.make_all() == [PLAIN]
    assert desk.ask() == offer


def test_nobody_waits_while_an_encoding_is_hashed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.ask()
    desk.make_all()
    desk.start()
    is_hashing, may_end = Event(), Event()

    def hash_slowly(_sha256: str) -> bool:
        is_hashing.set()
        return may_end.wait(30)

    monkeypatch.setattr(desk.store, "_is_whole", hash_slowly)
    with ThreadPoolExecutor(2) as threads:
        checking = threads.submit(desk.store.check, PLAIN)
        assert is_hashing.wait(30)
        try:
            assert threads.submit(desk.store.find, PLAIN).result(10) is None
            assert threads.submit(lambda: desk.store.total_bytes).result(10) > 0
        finally:
            may_end.set()
        assert checking.result(30) == desk.store.find(PLAIN)


def test_a_pair_file_that_makes_no_sense_is_made_again(desk: Desk) -> None:
    desk.ask()
    desk.make_all()
    (path,) = (desk.directory / "encodings" / "pairs").rglob("*.json")
    path.write_text('{"target": 1}')
    desk.start()
    assert isinstance(desk.ask(), int)


def test_the_oldest_encodings_give_way_beyond_the_bound(tmp_path: Path) -> None:
    store = DirectoryEncodingStore(tmp_path, bytes_max=250_000)
    made = [encoded(noise(100_000, seed=n) + bytes(100_000)) for n in range(3)]
    for n, encoding in enumerate(made):
        store.put(stored(Pair(f"{n:064x}"), encoding), encoding.data)
    assert [store.find(Pair(f"{n:064x}")) is not None for n in range(3)] == [False, True, True]
    assert store.owner_of(made[0].offer.sha256) is None
    with pytest.raises(NotFoundError):
        store.size_bytes(made[0].offer.sha256)
    assert store.total_bytes <= 250_000
    assert len([p for p in (tmp_path / "blobs").rglob("*") if p.is_file()]) == 2


def test_that_nothing_is_smaller_is_remembered_too(desk: Desk) -> None:
    nothing = replace(stored(PLAIN, encoded(NEW)), offer=IDENTITY, way="")
    desk.store.put(nothing, b"")
    assert desk.ask() == IDENTITY
    desk.start()
    assert desk.ask() == IDENTITY


def test_the_margin() -> None:
    assert is_worth(98_000, 100_000)
    assert not is_worth(98_001, 100_000)
    assert is_worth(744, 1_000)
    assert not is_worth(745, 1_000)
