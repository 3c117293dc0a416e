"""The loop that makes encodings, on real files and real child processes."""

import hashlib
import sys
from collections.abc import Collection
from pathlib import Path
from threading import Event

import pytest

from edge_agent.contract.transfer import ChunkRequest, Encoding, PackageOffer, Part
from fleet_server.adapters.encoding_store import DirectoryEncodingStore
from fleet_server.adapters.object_store import ObjectStore
from fleet_server.services.offer_encodings import IDENTITY, OfferEncodings
from fleet_server.workers import gateway_encode
from fleet_server.workers.gateway_encode import SMALL_BYTES, EncodeLoop
from tests.support.clock import FakeClock
from tests.support.encoded import MEMORY_BYTES, noise

OLD = noise(SMALL_BYTES)
NEW = OLD[:-100] + noise(200, seed=1)


class AllRelated:
    def related(self, target: str, others: Collection[str]) -> frozenset[str]:
        assert target
        return frozenset(others)


class Shop:
    def __init__(self, directory: Path) -> None:
        self.objects = ObjectStore(directory / "objects")
        self.store = DirectoryEncodingStore(directory / "encodings")
        self.offers = OfferEncodings(self.objects, self.store, AllRelated(), FakeClock())
        self.scratch = directory / "encodings" / "scratch"
        self.stop = Event()

    def open(self) -> EncodeLoop:
        return EncodeLoop(self.offers, self.objects, self.scratch, self.stop)

    def ask(self, target: str, *bases: str) -> PackageOffer | int:
        return self.offers.answer(
            ChunkRequest(
                request=1,
                sha256=target,
                part=Part.OFFER,
                first=0,
                bitmap=1,
                bases=bases,
                memory_bytes=MEMORY_BYTES,
            )
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_child_makes_what_is_large_and_nothing_is_kept_that_is_not_smaller(shop: Shop) -> None:
    old, new = shop.objects.put(OLD), shop.objects.put(NEW)
    loop = shop.open()
    assert isinstance(shop.ask(new, old), int)
    loop.turn()
    loop.turn()
    offer = shop.ask(new, old)
    assert isinstance(offer, PackageOffer)
    assert (offer.encoding, offer.base) == (Encoding.DELTA, old)
    assert offer.size_bytes < 1_000
    assert shop.ask(new) == IDENTITY  # noise: zstd alone gains nothing
    assert list(shop.scratch.iterdir()) == []
    assert shop.offers.describe()["encodings_made"] == 2


def test_what_is_small_is_made_without_a_child(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    target = shop.objects.put(bytes(100_000))
    shop.ask(target)
    shop.open().turn()
    offer = shop.ask(target)
    assert isinstance(offer, PackageOffer)
    assert offer.encoding is Encoding.ZSTD


@pytest.mark.parametrize("executable", ["/nonexistent", "/bin/false"])
def test_a_child_that_fails_leaves_the_package_as_it_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    target = shop.objects.put(bytes(SMALL_BYTES + 1))
    shop.ask(target)
    shop.open().turn()
    assert shop.ask(target) == IDENTITY
    assert shop.offers.describe()["encodings_failed"] == 1


def test_a_child_that_takes_too_long_is_ended(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_encode, "TIMEOUT_S", 0.1)
    target = shop.objects.put(noise(SMALL_BYTES + 1))
    shop.ask(target)
    shop.open().turn()
    assert shop.ask(target) == IDENTITY
    assert shop.offers.describe()["encodings_failed"] == 1


def test_a_package_that_went_in_the_meantime_is_no_end_of_the_loop(shop: Shop) -> None:
    target = shop.objects.put(bytes(10_000))
    shop.ask(target)
    shop.objects.path(target).unlink()
    shop.open().turn()
    assert shop.offers.describe()["encodings_failed"] == 1


def test_what_was_half_made_is_swept_away(shop: Shop) -> None:
    shop.scratch.mkdir(parents=True)
    (shop.scratch / hashlib.sha256(b"x").hexdigest()).write_bytes(b"half")
    shop.open()
    assert list(shop.scratch.iterdir()) == []
