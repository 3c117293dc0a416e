"""An encoded package: the same bytes, smaller on their way (docs/transfer.md).

``EFD1`` · length of the segments u32 · size u64 · sha256 of the package · sha256 of the base, zeros
without one; then the segments; then one zstd frame. Big-endian. The frame holds as many bytes as
the package. Those of a segment, a tensor, were grouped into byte planes (all first bytes, then all
second bytes, …) after an exclusive or with bytes of the base, if it names a place there. With a
base the frame was made with the base's bytes as prefix.

Nothing here is signed: the result is, and whoever restores one compares its sha256. What the bytes
claim is bounded all the same: at most ``size_bytes`` ever come out, a block at a time, and the
window is the caller's limit. Left out: zstd itself, which the caller brings.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.contract.errors import MalformedError, TooLargeError

MAGIC = b"EFD1"
SEGMENTS_MAX = 4_096
SEGMENT_BYTES_MAX = 131_072
"""Of all segments as they are written."""
BLOCK_BYTES = 1_048_576
"""Planes are made of this much at a time, so that restoring them needs no more."""
READ_BYTES = 65_536
WIDTH_MAX = 16
WINDOW_LOG_MIN, WINDOW_LOG_MAX = 10, 27
"""Windows of 1 KiB to 128 MiB."""
FIXED_BYTES = 4_194_304
"""What restoring needs beside base and window: a block three times over, buffers of zstd."""
NO_BASE = bytes(32)
_HEAD = struct.Struct(">4sIQ32s32s")
HEAD_BYTES = _HEAD.size


class Source(Protocol):
    """A run of bytes that can be read piece by piece."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""


class Sliceable(Protocol):
    """The base: bytes or a mapped file."""

    def __len__(self) -> int:
        """Return the number of bytes."""

    def __getitem__(self, where: slice, /) -> bytes:
        """Return some of them."""


class Decompressor(Protocol):
    """A zstd frame being read, as Python's ``compression.zstd`` has it."""

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out before more goes in."""

    @property
    def unused_data(self) -> bytes:
        """What was behind the end of the frame."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Take compressed bytes, give at most ``max_length`` of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A tensor: bytes that were regrouped before they were compressed.

    Attributes:
        at: Where it begins in the package.
        length: In bytes.
        width: Bytes of one element, the number of planes.
        base_at: Where its counterpart begins in the base; None when it has none.
    """

    at: int
    length: int
    width: int
    base_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedHead:
    """What stands before the frame.

    Attributes:
        sha256: Of the package, hex.
        size_bytes: Of the package.
        base: sha256 of the base, hex; empty without one.
        segments: Ascending, apart from each other.
    """

    sha256: str
    size_bytes: int
    base: str = ""
    segments: tuple[Segment, ...] = ()

    def encode(self) -> bytes:
        """Write head and segments; raises TooLargeError beyond the bounds."""
        written = bytearray()
        end = 0
        for segment in self.segments:
            back = 0 if segment.base_at is None else 1 + _zigzag(segment.base_at - segment.at)
            for value in (segment.at - end, segment.length, segment.width, back):
                _put_varint(written, value)
            end = segment.at + segment.length
        if len(self.segments) > SEGMENTS_MAX or len(written) > SEGMENT_BYTES_MAX:
            raise TooLargeError("segments of an encoded package", len(written), SEGMENT_BYTES_MAX)
        base = bytes.fromhex(self.base) if self.base else NO_BASE
        return _HEAD.pack(
            MAGIC, len(written), self.size_bytes, bytes.fromhex(self.sha256), base
        ) + bytes(written)

    @classmethod
    def read(cls, source: Source) -> "EncodedHead":
        """Read head and segments; the frame follows in ``source``. Raises MalformedError."""
        head = source.read(_HEAD.size)
        if len(head) != _HEAD.size:
            raise MalformedError(f"encoded package of {len(head)} bytes is shorter than its head")
        magic, length, size_bytes, sha256, base = _HEAD.unpack(head)
        if magic != MAGIC or length > SEGMENT_BYTES_MAX:
            raise MalformedError(f"encoded package: {magic!r} with {length} bytes of segments")
        written = source.read(length)
        if len(written) != length:
            raise MalformedError("encoded package ends inside its segments")
        return cls(
            sha256=sha256.hex(),
            size_bytes=size_bytes,
            base=base.hex() if base != NO_BASE else "",
            segments=tuple(_read_segments(written, size_bytes)),
        )


def restore(
    source: Source,
    *,
    size_bytes: int,
    base: Sliceable | None,
    base_sha256: str,
    open_frame: Callable[[], Decompressor],
) -> Iterator[bytes]:
    """Give the bytes of the package, never more than ``size_bytes`` of them.

    Args:
        source: The encoded package.
        size_bytes: Signed size of the package.
        base: What the device has; None without one.
        base_sha256: Of the base, hex; empty without one.
        open_frame: Begins to decompress, with the base as prefix if there is one.

    Raises:
        MalformedError: It is of another size or base, or not whole; what was given so far is
            worth nothing. Errors of zstd pass through.
    """
    head = EncodedHead.read(source)
    if head.size_bytes != size_bytes:
        raise MalformedError(f"encoded package of {head.size_bytes} bytes, signed are {size_bytes}")
    if head.base != base_sha256:
        raise MalformedError(f"encoded from {head.base[:12] or 'nothing'}, not as it was offered")
    frame = _Frame(source, open_frame())
    at = 0
    for segment in head.segments:
        yield from frame.read_pieces(segment.at - at, READ_BYTES)
        yield from _ungrouped(frame, segment, base)
        at = segment.at + segment.length
    yield from frame.read_pieces(size_bytes - at, READ_BYTES)
    frame.check_end()


def group(data: Sliceable, segments: Sequence[Segment], base: Sliceable | None) -> Iterator[bytes]:
    """Give what is to be compressed: the package with its segments regrouped.

    >>> b"".join(group(b"ab12cd34", [Segment(at=0, length=8, width=2)], None))
    b'a1c3b2d4'
    """
    at = 0
    for segment in segments:
        yield data[at : segment.at]
        for start in range(0, segment.length, BLOCK_BYTES):
            count = min(BLOCK_BYTES, segment.length - start)
            block = data[segment.at + start : segment.at + start + count]
            yield _to_planes(_combined(block, segment, start, base), segment.width)
        at = segment.at + segment.length
    yield data[at : len(data)]


def needed_bytes(*, base_bytes: int, window_log: int) -> int:
    """Give the memory that restoring a package may need; a base is there twice as it is read.

    >>> needed_bytes(base_bytes=1_000_000, window_log=20)
    6242880
    """
    return base_bytes + max(base_bytes, 1 << window_log) + FIXED_BYTES


def window_log_of(size_bytes: int) -> int:
    """Give the smallest window that holds a whole package, at least the smallest there is.

    >>> window_log_of(1_048_577)
    21
    """
    return max(WINDOW_LOG_MIN, (max(size_bytes, 1) - 1).bit_length())


def largest_window_log(*, memory_bytes: int, base_bytes: int) -> int | None:
    """Give the largest window that fits into memory beside the base; None when none does.

    >>> largest_window_log(memory_bytes=8_388_608, base_bytes=1_000_000)
    21
    """
    left = memory_bytes - base_bytes - FIXED_BYTES
    if left < max(base_bytes, 1 << WINDOW_LOG_MIN):
        return None
    return min(WINDOW_LOG_MAX, left.bit_length() - 1)


class _Frame:
    """Reads exactly as much out of a zstd frame as is asked for."""

    def __init__(self, source: Source, decompressor: Decompressor) -> None:
        self._source, self._decompressor = source, decompressor

    def read(self, size: int) -> bytes:
        pieces, left = [], size
        while left:
            piece = self._next(left)
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def read_pieces(self, size: int, piece_bytes: int) -> Iterator[bytes]:
        while size:
            piece = self._next(min(size, piece_bytes))
            size -= len(piece)
            yield piece

    def check_end(self) -> None:
        decompressor = self._decompressor
        while not decompressor.eof:
            data = self._source.read(READ_BYTES) if decompressor.needs_input else b""
            if decompressor.decompress(data, 1):
                raise MalformedError("encoded package holds more than the signed size")
            if not data and decompressor.needs_input:
                raise MalformedError("encoded package ends before its frame does")
        if decompressor.unused_data or self._source.read(1):
            raise MalformedError("encoded package has something behind its frame")

    def _next(self, size: int) -> bytes:
        decompressor = self._decompressor
        while not decompressor.eof:
            data = self._source.read(READ_BYTES) if decompressor.needs_input else b""
            is_over = not data and decompressor.needs_input
            piece = decompressor.decompress(data, size)
            if piece:
                return piece
            if is_over:
                break
        raise MalformedError("encoded package ends before the signed size")


def _ungrouped(frame: _Frame, segment: Segment, base: Sliceable | None) -> Iterator[bytes]:
    for start in range(0, segment.length, BLOCK_BYTES):
        block = frame.read(min(BLOCK_BYTES, segment.length - start))
        yield _combined(_from_planes(block, segment.width), segment, start, base)


def _combined(block: bytes, segment: Segment, start: int, base: Sliceable | None) -> bytes:
    """Give the exclusive or with the block's counterpart; its own inverse."""
    if segment.base_at is None:
        return block
    at = segment.base_at + start
    other = base[at : at + len(block)] if base is not None else b""
    if len(other) != len(block):
        raise MalformedError(f"encoded package refers to byte {at} of a base that ends before")
    mixed = int.from_bytes(block, "little") ^ int.from_bytes(other, "little")
    return mixed.to_bytes(len(block), "little")


def _to_planes(block: bytes, width: int) -> bytes:
    whole = len(block) - len(block) % width
    return b"".join([*(block[n:whole:width] for n in range(width)), block[whole:]])


def _from_planes(block: bytes, width: int) -> bytes:
    count = len(block) // width
    out = bytearray(block)
    for n in range(width):
        out[n : count * width : width] = block[n * count : (n + 1) * count]
    return bytes(out)


def _read_segments(written: bytes, size_bytes: int) -> Iterator[Segment]:
    place = end = count = 0
    while place < len(written):
        values = []
        for _ in range(4):
            value, place = _take_varint(written, place)
            values.append(value)
        gap, length, width, back = values
        at, count = end + gap, count + 1
        end = at + length
        base_at = None if back == 0 else at + _unzigzag(back - 1)
        is_sound = length > 0 and 1 <= width <= WIDTH_MAX and end <= size_bytes
        if not is_sound or count > SEGMENTS_MAX or (base_at is not None and base_at < 0):
            raise MalformedError(
                f"encoded package: segment {count} of {length} bytes at {at}, width {width}"
            )
        yield Segment(at=at, length=length, width=width, base_at=base_at)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _take_varint(written: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if place >= len(written):
            break
        byte = written[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise MalformedError("encoded package: a number in its segments does not end")


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if value & 1 == 0 else -(value + 1 >> 1)
