"""Whoever answers for the server offers packages in other forms than what was signed.

Nothing of an offer is signed, nor is what travels: only the package that comes out is. At worst
such an attacker wastes bytes of one try's budget; the honest package then comes by itself.
"""

import dataclasses
import hashlib
import struct
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace

from backports.zstd import CompressionParameter, compress

from edge_agent.contract.codes import Code
from edge_agent.contract.transfer import (
    ChunkRequest,
    Encoding,
    FrameKind,
    PackageOffer,
    Part,
)
from edge_agent.core.transfer_plan import budget_of
from tests.support.agent import ChunkServer
from tests.support.attack_device import SLOT
from tests.support.attack_server import V1, V3, package
from tests.support.attacks import DETOUR, Attack, AttackSuite, AttackWorld, hold
from tests.support.encoded import encoded, offer_frame

attack = AttackSuite("the way of a package")
BOMB_BYTES = 512_000_000
HEAPS_MAX = 40_000_000


def fetch(
    w: AttackWorld, offer: PackageOffer | bytes, data: bytes = b"", *, words: str = ""
) -> None:
    """Assign an approved package honestly, offer this for it, and serve these bytes."""
    lying = ChunkServer(data)
    target = ChunkServer(package(V3))

    def serve(request: ChunkRequest) -> Iterable[bytes]:
        if request.part is Part.OFFER:
            return [offer_frame(request, offer).encode()]
        if request.sha256 != target.sha256:
            lying.sha256 = request.sha256
            return [frame.encode() for frame in lying.answer(request)]
        return w.device.serve_honestly(request)

    w.device.serve = serve
    w.device.deliver(w.server.refresh(), w.server.order(V3, 6), for_s=1)
    w.device.run(60)
    said = w.device.reports[-1].slots[SLOT].extra["transfer"]
    assert said["encoding"] == "identity"
    assert words in said["problem"]
    assert said["received_bytes"] <= budget_of(len(target.blob))
    assert w.device.blobs.read(target.sha256) == target.blob
    w.rightful, w.answers[V3] = V3, w.device.ask()
    assert w.answers[V3] not in (w.answers[V1],)


def offer_of(data: bytes, *, base: bytes | None = None, window_log: int = 20) -> PackageOffer:
    server = ChunkServer(data)
    return PackageOffer(
        encoding=Encoding.ZSTD if base is None else Encoding.DELTA,
        sha256=server.sha256,
        size_bytes=len(data),
        chunks=server.chunks,
        window_log=window_log,
        base=hashlib.sha256(base).hexdigest() if base is not None else "",
    )


def head_of(size_bytes: int, segments: bytes = b"") -> bytes:
    return struct.pack(">4sIQ32s32s", b"EFD1", len(segments), size_bytes, bytes(32), bytes(32))


@attack(DETOUR)
def put_a_decompression_bomb_in_the_place_of_a_package(w: AttackWorld) -> None:
    """No more than the signed size comes out, a piece at a time; the rest stays unread."""
    size = len(package(V3))
    bomb = head_of(size) + compress(
        bytes(BOMB_BYTES),
        options={CompressionParameter.content_size_flag: 0, CompressionParameter.window_log: 18},
    )
    assert len(bomb) < 100_000
    tracemalloc.start()
    fetch(w, offer_of(bomb), bomb, words="more than the signed size")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < HEAPS_MAX


@attack(DETOUR)
def send_a_bomb_that_says_its_own_size(w: AttackWorld) -> None:
    """The signed size is the one that counts, not the one in the bytes."""
    bomb = head_of(BOMB_BYTES) + compress(bytes(BOMB_BYTES // 8))
    fetch(w, offer_of(bomb), bomb, words="signed are")


@attack(DETOUR)
def send_a_delta_of_another_base_under_the_name_of_one_that_is_here(w: AttackWorld) -> None:
    """The base is named in the bytes too, and what comes out of another has another hash."""
    other = encoded(package(V3), package(V3) + b"x" * 100).data
    fetch(w, offer_of(other, base=package(V1)), other, words="not as it was offered")


@attack(DETOUR)
def send_a_delta_that_restores_to_other_bytes(w: AttackWorld) -> None:
    """The whole result is hashed before it gets a name, and the hash is the approvers'."""
    target = package(V3)
    evil = encoded(target[:-1_024] + b"\x01" * 1_024, package(V1))
    fetch(w, evil.offer, evil.data, words="hashes to")


@attack(DETOUR)
def offer_a_base_the_device_never_named(w: AttackWorld) -> None:
    """Only what the device itself named is a base."""
    made = encoded(package(V3), package(V3) + b"x" * 100)
    fetch(w, made.offer, made.data, words="did not name")


@attack(DETOUR)
def offer_a_package_of_absurd_size(w: AttackWorld) -> None:
    """What is offered must be smaller than what is missing; nothing of it is asked for."""
    made = encoded(package(V3))
    fetch(w, replace(made.offer, size_bytes=2**40), words="for a package of")


@attack(DETOUR)
def offer_numbers_beyond_every_bound(w: AttackWorld) -> None:
    """An offer is read field by field, each with its bound."""
    said = encoded(package(V3)).offer.encode().replace(b'"window_log":', b'"window_log":9')
    fetch(w, said, words="window_log")


@attack(DETOUR)
def ask_for_a_window_larger_than_the_device_allows(w: AttackWorld) -> None:
    """The offer says what memory it takes; beyond the device's setting it is not followed."""
    made = encoded(package(V3))
    fetch(w, replace(made.offer, window_log=27), words="bytes of memory")


@attack(DETOUR)
def hide_a_larger_window_behind_a_small_offer(w: AttackWorld) -> None:
    """zstd is told the largest window that fits into the allowed memory, whatever was offered."""
    block = (1 | 1 << 1 | 1_000 << 3).to_bytes(3, "little") + b"x"
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(27 - 10) << 3]) + block
    data = head_of(len(package(V3))) + frame
    fetch(w, offer_of(data), data, words="zstd")


@attack(DETOUR)
def point_a_tensor_beyond_the_base(w: AttackWorld) -> None:
    """A place in the base that is not there ends it."""
    target, base = package(V3), package(V1)
    far = bytes([0, 8, 4]) + b"\x81\xd0\xa5\x4c"
    head = struct.pack(
        ">4sIQ32s32s",
        *(b"EFD1", len(far), len(target), bytes(32), hashlib.sha256(base).digest()),
    )
    data = head + far + compress(target)
    fetch(w, offer_of(data, base=base), data, words="ends before")


@attack(DETOUR)
def offer_one_encoding_after_the_other_without_end(w: AttackWorld) -> None:
    """After one that was no good nothing is asked for any more, also after a power cut."""
    target = package(V3)
    evil = encoded(target[:-1_024] + b"\x01" * 1_024)
    fetch(w, evil.offer, evil.data, words="hashes to")


@attack(Code.FETCH_BUDGET)
def spend_the_budget_on_an_encoding_and_on_the_package(w: AttackWorld) -> None:
    """Both count against one budget of bytes a try; then the attempt ends and is said."""
    made = encoded(package(V3))
    servers = {made.offer.sha256: ChunkServer(made.data)}
    servers[ChunkServer(package(V3)).sha256] = ChunkServer(package(V3))

    def serve(request: ChunkRequest) -> Iterable[bytes]:
        if request.part is Part.OFFER:
            return [offer_frame(request, made.offer).encode()]
        frames = servers[request.sha256].answer(request)
        if request.part is Part.HASHES:
            return [frame.encode() for frame in frames]
        flood = dataclasses.replace(
            frames[0], kind=FrameKind.CHUNK, index=2**31, body=b"x" * 131_072
        )
        return [flood.encode()] * 20

    w.device.serve = serve
    w.device.deliver(w.server.refresh(), w.server.order(V3, 6), for_s=1)
    w.device.run(60)
    said = w.device.reports[-1].slots[SLOT].extra["transfer"]
    assert "bytes received" in said["problem"]


@attack.cases()
def test_an_attack_on_the_way_of_a_package_is_refused_and_seen(
    attack: Attack, world: AttackWorld
) -> None:
    hold(world, attack)
