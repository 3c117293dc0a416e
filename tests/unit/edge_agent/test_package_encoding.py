"""The format of encoded packages: what goes in comes out, and nothing beyond its bounds."""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator

import pytest

from edge_agent.contract.encoding import (
    BLOCK_BYTES,
    HEAD_BYTES,
    SEGMENTS_MAX,
    EncodedHead,
    Segment,
    group,
    largest_window_log,
    needed_bytes,
    restore,
)
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.package import MEMBERS, pack_members
from edge_agent.contract.transfer import ChunkRequest, Encoding, PackageOffer, Part
from tests.support.encoded import noise


class Inflater:
    """Stands for zstd, which the format leaves to its caller."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def encode(data: bytes, segments: tuple[Segment, ...] = (), base: bytes | None = None) -> bytes:
    head = EncodedHead(
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        base=hashlib.sha256(base).hexdigest() if base is not None else "",
        segments=segments,
    )
    return head.encode() + zlib.compress(b"".join(group(data, segments, base)))


def pieces(encoded: bytes, size: int, base: bytes | None = None) -> Iterator[bytes]:
    return restore(
        io.BytesIO(encoded),
        size_bytes=size,
        base=base,
        base_sha256=hashlib.sha256(base).hexdigest() if base is not None else "",
        open_frame=Inflater,
    )


DATA, BASE = noise(3 * BLOCK_BYTES + 77), noise(2 * BLOCK_BYTES, seed=1)
SEGMENTS = (
    Segment(at=5, length=1_003, width=4),
    Segment(at=2_000, length=BLOCK_BYTES + 9, width=8, base_at=17),
    Segment(at=2_009 + BLOCK_BYTES, length=64, width=5, base_at=BLOCK_BYTES),
    Segment(at=len(DATA) - 3, length=3, width=16, base_at=0),
)


def test_segments_of_any_width_and_place_come_back() -> None:
    found = list(pieces(encode(DATA, SEGMENTS, BASE), len(DATA), BASE))
    assert b"".join(found) == DATA
    assert max(map(len, found)) <= BLOCK_BYTES


def test_the_head_comes_back() -> None:
    encoded = encode(DATA, SEGMENTS, BASE)
    assert EncodedHead.read(io.BytesIO(encoded)).segments == SEGMENTS


def head_of(data: bytes, *, length: int, size: int) -> bytes:
    return struct.pack(">4sIQ32s32s", b"EFD1", length, size, bytes(32), bytes(32)) + data


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"", "shorter than its head"),
        (b"EFD2" + bytes(HEAD_BYTES), "EFD2"),
        (head_of(b"", length=2**31, size=9), "bytes of segments"),
        (head_of(b"\x01", length=2, size=9), "inside its segments"),
        (head_of(b"\x80" * 12, length=12, size=9), "does not end"),
        (head_of(bytes([0, 10, 4, 0]), length=4, size=9), "segment 1"),
        (head_of(bytes([0, 0, 4, 0]), length=4, size=9), "segment 1"),
        (head_of(bytes([0, 4, 17, 0]), length=4, size=9), "segment 1"),
        (head_of(bytes([0, 4, 0, 0]), length=4, size=9), "segment 1"),
        (head_of(bytes([0, 4, 4, 2]), length=4, size=9), "segment 1"),
        (head_of(b"", length=0, size=8), "signed are"),
        (head_of(b"", length=0, size=9), "before the signed size"),
        (head_of(zlib.compress(bytes(8)), length=0, size=9), "before the signed size"),
        (head_of(zlib.compress(bytes(10)), length=0, size=9), "more than the signed size"),
        (head_of(zlib.compress(bytes(9)) + b"x", length=0, size=9), "behind its frame"),
        (head_of(zlib.compress(bytes(9))[:-3], length=0, size=9), "before its frame"),
        (
            head_of(bytes([0, 4, 4, 9]) + zlib.compress(bytes(9)), length=4, size=9),
            "refers to byte 4",
        ),
    ],
)
def test_what_is_not_sound_is_refused(encoded: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        list(pieces(encoded, 9))


def test_a_bomb_gives_no_more_than_the_signed_size() -> None:
    bomb = head_of(zlib.compress(bytes(50_000_000)), length=0, size=100_000)
    given: list[bytes] = []
    with pytest.raises(MalformedError, match="more than the signed size"):
        given.extend(pieces(bomb, 100_000))
    assert sum(map(len, given)) == 100_000


def test_a_base_that_was_not_named_is_refused() -> None:
    with pytest.raises(MalformedError, match="not as it was offered"):
        list(pieces(encode(DATA, (), BASE), len(DATA)))


def test_segments_beyond_the_bound_are_not_written() -> None:
    many = tuple(Segment(at=n, length=1, width=1) for n in range(SEGMENTS_MAX + 1))
    with pytest.raises(TooLargeError):
        EncodedHead(sha256="0" * 64, size_bytes=10**6, segments=many).encode()


def test_a_base_must_fit_twice_because_it_is_read_before_zstd_copies_it() -> None:
    assert needed_bytes(base_bytes=30_000_000, window_log=10) > 60_000_000
    assert largest_window_log(memory_bytes=60_000_000, base_bytes=30_000_000) is None


@pytest.mark.parametrize("base_bytes", [0, 1_000_000, 30_000_000])
def test_the_largest_window_is_the_largest_that_fits(base_bytes: int) -> None:
    for memory_bytes in (8_000_000, 64_000_000, 300_000_000):
        log = largest_window_log(memory_bytes=memory_bytes, base_bytes=base_bytes)
        if log is None:
            assert needed_bytes(base_bytes=base_bytes, window_log=10) > memory_bytes
            continue
        assert needed_bytes(base_bytes=base_bytes, window_log=log) <= memory_bytes
        if log < 27:
            assert needed_bytes(base_bytes=base_bytes, window_log=log + 1) > memory_bytes


def test_a_package_has_the_same_bytes_whatever_the_order_time_and_user() -> None:
    members = {name: name.encode() * 10 for name in MEMBERS}
    packed = pack_members(members)
    assert pack_members(dict(reversed(members.items()))) == packed
    assert (
        hashlib.sha256(packed).hexdigest()
        == "081abde1b1076356461f5e41f2fe5bbfb4d04cd36a026c18e7c803e078b56e45"
    )


OFFER = PackageOffer(
    encoding=Encoding.DELTA,
    sha256="a" * 64,
    size_bytes=7,
    chunks="b" * 64,
    window_log=20,
    base="c" * 64,
)


def test_questions_and_offers_come_back() -> None:
    asked = ChunkRequest(
        request=1,
        sha256="a" * 64,
        part=Part.OFFER,
        first=0,
        bitmap=1,
        bases=("c" * 64, "d" * 64),
        memory_bytes=5,
    )
    assert ChunkRequest.decode(asked.encode()) == asked
    assert PackageOffer.decode(OFFER.encode()) == OFFER
    plain = PackageOffer(encoding=Encoding.IDENTITY)
    assert PackageOffer.decode(plain.encode()) == plain


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"zstd-delta", b"brotli", "brotli"),
        (b'"size":7', b'"size":0', "size"),
        (b'"window_log":20', b'"window_log":28', "window_log"),
        (b"cccc", b"CCCC", "sha256"),
    ],
)
def test_an_offer_out_of_bounds_is_refused(old: bytes, new: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        PackageOffer.decode(OFFER.encode().replace(old, new))
