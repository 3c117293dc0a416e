"""Chunk requests and chunk frames: device-driven transfer of packages over MQTT.

The signed target carries ``chunks``, the sha256 over the concatenated chunk hashes. A device
first asks for that list (part ``hashes``), checks it against the signed value, then for chunks,
each checked on arrival. Requests name at most four pieces, so a slow device is never flooded.

Frame: ``EFX1`` · kind u8 · 0 u8 · retry u16 (seconds) · request u32 · index u32 · length u32 ·
first 16 bytes of the package's sha256, then the bytes. Big-endian, 36 bytes of header.
"""

import re
import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.fields import Fields, dump_object, parse_object

CHUNK_BYTES = 65_536
CHUNK_BYTES_MAX = 131_072
WINDOW_MAX = 4
REQUEST_BYTES_MAX = 1_024
HASH_BYTES = 32
_HEAD = struct.Struct(">4sBBHIII16s")
MAGIC = b"EFX1"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Part(StrEnum):
    """Which piece of a package is asked for."""

    HASHES = "hashes"
    CHUNKS = "chunks"


class FrameKind(IntEnum):
    """What a chunk frame answers."""

    CHUNK = 0
    HASHES = 1
    RETRY_LATER = 2
    REFUSED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRequest:
    """``up/xfer``: pieces wanted, ``first`` plus the set bits of ``bitmap``.

    Attributes:
        request: Number chosen by the device, echoed in the answer.
        sha256: Of the package, 64 hex digits.
        part: Chunks, or pieces of the list of chunk hashes (same piece size).
        first: Index of the first piece wanted.
        bitmap: Bit n set: piece ``first + n`` is wanted; at most WINDOW_MAX bits are set.
    """

    request: int
    sha256: str
    part: Part
    first: int
    bitmap: int

    @property
    def indices(self) -> tuple[int, ...]:
        """Pieces wanted, ascending."""
        return tuple(self.first + n for n in range(64) if self.bitmap >> n & 1)

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                "v": CONTRACT_VERSION,
                "request": self.request,
                "sha256": self.sha256,
                "part": str(self.part),
                "first": self.first,
                "bitmap": self.bitmap,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ChunkRequest":
        """Decode; raises ContractError."""
        what = "chunk request"
        fields = Fields(parse_object(payload, what=what, limit_bytes=REQUEST_BYTES_MAX), what=what)
        fields.version(CONTRACT_VERSION)
        part = fields.text("part", chars_max=16)
        if part not in Part.__members__.values():
            raise MalformedError(f"{what}: unknown part {part!r}")
        bitmap = fields.integer("bitmap", low=1, high=2**64 - 1)
        if bitmap.bit_count() > WINDOW_MAX:
            raise MalformedError(f"{what}: {bitmap.bit_count()} pieces, at most {WINDOW_MAX}")
        return cls(
            request=fields.integer("request", high=2**32 - 1),
            sha256=check_sha256(fields.text("sha256", chars_max=64), what=what),
            part=Part(part),
            first=fields.integer("first", high=2**31),
            bitmap=bitmap,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkFrame:
    """``down/xfer``: one piece, or the word to come back in ``retry_after_s``."""

    kind: FrameKind
    request: int
    index: int
    sha256_prefix: bytes
    body: bytes = b""
    retry_after_s: int = 0

    def encode(self) -> bytes:
        """Encode header and bytes."""
        return (
            _HEAD.pack(
                MAGIC,
                self.kind,
                0,
                self.retry_after_s,
                self.request,
                self.index,
                len(self.body),
                self.sha256_prefix,
            )
            + self.body
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ChunkFrame":
        """Decode; raises ContractError."""
        if len(payload) > _HEAD.size + CHUNK_BYTES_MAX:
            raise TooLargeError("chunk frame", len(payload), _HEAD.size + CHUNK_BYTES_MAX)
        if len(payload) < _HEAD.size:
            raise MalformedError(f"chunk frame of {len(payload)} bytes is shorter than its head")
        magic, kind, _, retry, request, index, length, prefix = _HEAD.unpack_from(payload)
        if magic != MAGIC or length != len(payload) - _HEAD.size:
            raise MalformedError("chunk frame: wrong magic or length")
        if kind not in FrameKind.__members__.values():
            raise MalformedError(f"chunk frame: unknown kind {kind}")
        return cls(
            kind=FrameKind(kind),
            request=request,
            index=index,
            sha256_prefix=prefix,
            body=payload[_HEAD.size :],
            retry_after_s=retry,
        )


def count_chunks(size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Number of chunks of a package.

    >>> count_chunks(65_537)
    2
    """
    return -(-size_bytes // chunk_bytes)


def check_sha256(text: str, *, what: str) -> str:
    """Return 64 lowercase hex digits unchanged; raises MalformedError otherwise."""
    if not _SHA256.match(text):
        raise MalformedError(f"{what}: {text[:80]!r} is not a sha256 of 64 hex digits")
    return text
