"""A real agent core, shell and disk fetches packages that travel smaller, and falls back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState
from edge_agent.contract.package import EVIDENCE, MEMBERS, pack_members
from edge_agent.contract.transfer import CHUNK_BYTES, WINDOW_MAX, Encoding, Part
from edge_agent.core.offer_plan import TRIES_MAX
from edge_agent.core.transfer_plan import budget_of, encoded_budget_of
from tests.support.agent import ChunkServer
from tests.support.agent_world import SLOT, World
from tests.support.encoded import MEMORY_BYTES, encoded, noise

NOISE = noise(400_000)
HALVED = noise(600_000, seed=1).hex().encode()
"""Bytes that compress to half."""


def a_package(name: str, body: bytes = NOISE) -> bytes:
    members = {member: name.encode() for member in MEMBERS}
    return pack_members({**members, EVIDENCE: body + name.encode()})


V1, V2 = a_package("one"), a_package("two")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A device that runs V1, asks for offers, and is connected."""
    world = World(tmp_path, restore_memory_bytes=MEMORY_BYTES)
    world.connect()
    world.assign(V1, 1)
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    return world


def served(world: World, blob: bytes) -> set[int]:
    """Chunks of a blob that were sent."""
    server = world.servers[ChunkServer(blob).sha256]
    return {index for part, index in server.served if part is Part.CHUNKS}


def transfer(world: World) -> dict[str, Any]:
    said: dict[str, Any] = world.reports[-1].slots[SLOT].extra["transfer"]
    return said


def parts(world: World) -> list[str]:
    return sorted(path.name for path in (world.directory / "parts").iterdir())


def test_what_changed_travels_and_the_package_is_whole(world: World) -> None:
    made = encoded(V2, V1)
    world.offer_encoded(V2, made)
    world.assign(V2, 2)
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert world.blobs.read(ChunkServer(V2).sha256) == V2
    assert served(world, V2) == set()
    assert transfer(world) == {
        "encoding": "zstd-delta",
        "base": ChunkServer(V1).sha256[:16],
        "package_bytes": len(V2),
        "received_bytes": len(made.data) + 32,
    }
    assert parts(world) == []


def test_the_question_names_what_the_device_holds_the_confirmed_package_first(
    world: World,
) -> None:
    world.assign(V2, 2)
    world.run(120)
    world.assign(a_package("three"), 3)
    world.run(120)
    assert [q.bases for q in world.questions] == [
        (),
        (ChunkServer(V1).sha256,),
        (ChunkServer(V2).sha256, ChunkServer(V1).sha256),
    ]
    assert {q.memory_bytes for q in world.questions} == {MEMORY_BYTES}
    assert transfer(world)["encoding"] == "identity"


def test_a_device_that_restores_nothing_asks_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.connect()
    world.offer_encoded(V1, encoded(V1))
    world.assign(V1, 1)
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert world.questions == []
    assert "transfer" not in world.reports[-1].slots[SLOT].extra


def test_a_server_that_knows_no_offers_costs_a_moment(world: World) -> None:
    world.is_server_up = False
    world.assign(V2, 2)
    world.run(TRIES_MAX * 5 + 30)
    assert world.slot().phase is SlotState.FETCHING
    asked = [p for channel, p in world.link.sent if b'"part":"offer"' in p]
    assert len(asked) == TRIES_MAX
    world.link.sent.clear()
    world.is_server_up = True
    world.run(150)
    assert world.slot().phase is SlotState.CONFIRMED


def test_a_cut_in_the_middle_goes_on_with_the_encoding(world: World) -> None:
    target = a_package("three", HALVED)
    made = encoded(target)
    world.offer_encoded(target, made)
    world.assign(target, 2)
    while not served(world, made.data):
        world.work(jobs=1)
    world.work(jobs=1)
    before = len(served(world, made.data))
    world.cut_power()
    world.connect()
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    chunks = [n for part, n in world.servers[made.offer.sha256].served if part is Part.CHUNKS]
    assert 0 < before < len(set(chunks))
    assert len(chunks) <= len(set(chunks)) + WINDOW_MAX
    assert served(world, target) == set()


def test_chunks_of_the_package_that_are_here_count_against_an_offer(world: World) -> None:
    target = a_package("three", HALVED)
    world.assign(target, 2)
    while len(served(world, target)) < 12:
        world.work(jobs=1)
    world.work(jobs=1)
    made = encoded(target)
    world.offer_encoded(target, made)
    world.cut_power()
    world.connect()
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert served(world, made.data) == set()
    assert len(served(world, target)) == -(-len(target) // CHUNK_BYTES)
    assert "problem" not in transfer(world)


def lie_about_the_base(world: World) -> None:
    other = a_package("other", noise(400_000, seed=2))
    made = encoded(V2, other)
    world.offer_encoded(V2, replace(made, offer=replace(made.offer, base=ChunkServer(V1).sha256)))


def give_other_bytes(world: World) -> None:
    world.offer_encoded(V2, encoded(a_package("six"), V1))


def give_a_damaged_frame(world: World) -> None:
    made = encoded(V2, V1)
    data = made.data[:100] + bytes(len(made.data) - 100)
    damaged = ChunkServer(data)
    offer = replace(made.offer, sha256=damaged.sha256, chunks=damaged.chunks, size_bytes=len(data))
    world.offer_encoded(V2, replace(made, data=data, offer=offer))


def give_more_than_the_signed_size(world: World) -> None:
    world.offer_encoded(V2, encoded(V2 + bytes(5_000_000), V1))


def offer_a_base_nobody_named(world: World) -> None:
    made = encoded(V2, a_package("other"))
    world.offer_encoded(V2, made)


def offer_more_bytes_than_the_package(world: World) -> None:
    made = encoded(V2, V1)
    offer = replace(made.offer, size_bytes=2**39)
    world.offer_encoded(V2, replace(made, offer=offer))


def ask_for_more_memory_than_there_is(world: World) -> None:
    made = encoded(V2, V1)
    world.offer_encoded(V2, replace(made, offer=replace(made.offer, window_log=27)))


def damage_the_base(world: World) -> None:
    world.offer_encoded(V2, encoded(V2, V1))
    path = world.blobs.path(ChunkServer(V1).sha256)
    data = bytearray(path.read_bytes())
    data[1_000] ^= 1
    path.unlink()
    path.write_bytes(data)


def lose_the_encoding(world: World) -> None:
    made = encoded(V2, V1)
    other = ChunkServer(b"another encoding by now")
    world.offer_encoded(V2, made)
    world.servers[made.offer.sha256] = other


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lie_about_the_base, "not as it was offered"),
        (give_other_bytes, "hashes to"),
        (give_a_damaged_frame, "zstd"),
        (give_more_than_the_signed_size, "signed are"),
        (offer_a_base_nobody_named, "did not name"),
        (offer_more_bytes_than_the_package, "for a package of"),
        (ask_for_more_memory_than_there_is, "bytes of memory"),
        (damage_the_base, "damaged"),
        (lose_the_encoding, "not the signed one"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_good_is_said_and_the_package_itself_is_fetched(
    world: World, lie: Any, words: str
) -> None:
    lie(world)
    if lie is lose_the_encoding:
        made = world.offers[ChunkServer(V2).sha256]
        server = world.servers[made.sha256]
        server.sha256 = made.sha256
    world.assign(V2, 2)
    world.run(240)
    assert world.slot().phase is SlotState.CONFIRMED
    assert world.blobs.read(ChunkServer(V2).sha256) == V2
    said = transfer(world)
    assert said["encoding"] == "identity"
    assert words in said["problem"]
    assert said["received_bytes"] <= budget_of(len(V2))
    assert parts(world) == []


def test_after_a_cut_an_encoding_that_was_no_good_is_not_tried_again(world: World) -> None:
    give_other_bytes(world)
    world.assign(V2, 2)
    for _ in range(30):
        if not any(name.endswith(".refused") for name in parts(world)):
            world.work(jobs=1)
    asked = len(world.questions)
    world.cut_power()
    world.connect()
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert len(world.questions) == asked
    assert "hashes to" in transfer(world)["problem"]


def test_encoding_and_package_share_one_budget_of_bytes(world: World) -> None:
    """A flood in place of the encoding leaves what the package needs, and no more than that."""
    made = encoded(V2, V1)
    world.offer_encoded(V2, made)
    flood = ChunkServer(made.data)
    world.servers[made.offer.sha256] = flood

    def answer(request: Any) -> Any:
        honest = ChunkServer.answer(flood, request)
        if request.part is Part.HASHES:
            return honest
        return [replace(frame, body=noise(CHUNK_BYTES)) for frame in honest]

    flood.answer = answer  # type: ignore[method-assign]  # this one server lies
    world.assign(V2, 2)
    world.run(400)
    said = transfer(world)
    assert world.slot().phase is SlotState.CONFIRMED
    assert "bytes received" in said["problem"]
    assert encoded_budget_of(len(V2)) + len(V2) < said["received_bytes"] <= budget_of(len(V2))


def test_a_disk_without_room_for_both_fetches_the_package(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 16_777_216 + len(V2) + 100
    for module in ("chunk_store", "package_restorer"):
        name = f"edge_agent.adapters.{module}.find_free_bytes"
        monkeypatch.setattr(name, lambda _: free)
    world.offer_encoded(V2, encoded(V2, V1))
    world.assign(V2, 2)
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert "encoding and package need" in transfer(world)["problem"]


def test_a_disk_that_was_short_for_a_moment_takes_the_encoding_at_the_next_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoded(V2, V1)
    world.offer_encoded(V2, made)
    with monkeypatch.context() as short:
        for module in ("chunk_store", "package_restorer"):
            name = f"edge_agent.adapters.{module}.find_free_bytes"
            short.setattr(name, lambda _: 16_777_216 + len(V2) + 100)
        world.assign(V2, 2)
        for _ in range(100):
            if not served(world, V2):
                world.work(jobs=1)
        assert served(world, V2)
        assert served(world, made.data) == set()
        world.cut_power()
    world.connect()
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert transfer(world)["encoding"] == "zstd-delta"
    assert parts(world) == []


def test_pieces_that_are_here_need_no_room_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = a_package("three", HALVED)
    made = encoded(target)
    world.offer_encoded(target, made)
    world.assign(target, 2)
    for _ in range(100):
        if not any(name.endswith(".bitmap") for name in parts(world)):
            world.work(jobs=1)
    world.cut_power()
    free = 16_777_216 + len(target) + len(made.data) - CHUNK_BYTES
    for module in ("chunk_store", "package_restorer"):
        name = f"edge_agent.adapters.{module}.find_free_bytes"
        monkeypatch.setattr(name, lambda _: free)
    world.connect()
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    assert transfer(world)["encoding"] == "zstd"


def test_a_model_the_approvers_did_not_sign_is_refused_by_any_way(world: World) -> None:
    """The package's own list of chunks does not fit either: nothing comes through."""
    other = a_package("other")
    world.offer_encoded(V2, encoded(other, V1))
    envelope = world.offer(V2, 2)
    world.servers[ChunkServer(V2).sha256] = ChunkServer(other)
    world.servers[ChunkServer(V2).sha256].sha256 = ChunkServer(V2).sha256
    world.send_metadata()
    from edge_agent.contract.topics import Channel

    world.say(Channel.DESIRED, envelope)
    world.run(60)
    assert world.slot().code is Code.FETCH_BUDGET
    assert world.inference.served == {SLOT: ChunkServer(V1).sha256}


def test_encodings_are_named() -> None:
    assert [str(e) for e in Encoding] == ["identity", "zstd", "zstd-delta"]
