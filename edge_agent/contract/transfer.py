"""Chunk requests, chunk frames and offers: device-driven transfer of packages over MQTT.

The signed target carries ``chunks``, the sha256 over the concatenated chunk hashes. A device
first asks for that list (part ``hashes``), checks it against the signed value, then for chunks,
each checked on arrival. Requests name at most four pieces, so a slow device is never flooded.

Before that it may ask how the package can travel (part ``offer``), saying what it holds. The answer
is a hint nobody signed: which blob to fetch in the same way, and how to restore the package from
it (``contract/encoding.py``). What was restored is compared with the signed sha256.

Frame: ``EFX1`` · kind u8 · 0 u8 · retry u16 (seconds) · request u32 · index u32 · length u32 ·
first 16 bytes of the package's sha256, then the bytes. Big-endian, 36 bytes of header.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.digits import check_sha256
from edge_agent.contract.encoding import WINDOW_LOG_MAX, WINDOW_LOG_MIN
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.fields import Fields, dump_object, parse_object

CHUNK_BYTES = 65_536
CHUNK_BYTES_MAX = 131_072
WINDOW_MAX = 4
REQUEST_BYTES_MAX = 1_024
OFFER_BYTES_MAX = 2_048
BASES_MAX = 4
"""Packages a device names as what it holds."""
HASH_BYTES = 32
_HEAD = struct.Struct(">4sBBHIII16s")
MAGIC = b"EFX1"


class Part(StrEnum):
    """Which piece of a package is asked for."""

    HASHES = "hashes"
    CHUNKS = "chunks"
    OFFER = "offer"
    """No piece: how the package can travel."""


class Encoding(StrEnum):
    """How a package travels."""

    IDENTITY = "identity"
    ZSTD = "zstd"
    DELTA = "zstd-delta"
    """zstd with a package the device holds as its prefix."""


class FrameKind(IntEnum):
    """What a chunk frame answers."""

    CHUNK = 0
    HASHES = 1
    RETRY_LATER = 2
    REFUSED = 3
    OFFER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRequest:
    """``up/xfer``: pieces wanted, ``first`` plus the set bits of ``bitmap``, or an offer.

    Attributes:
        request: Number chosen by the device, echoed in the answer.
        sha256: Of the package, 64 hex digits.
        part: Chunks, or pieces of the list of chunk hashes (same piece size), or the offer.
        first: Index of the first piece wanted.
        bitmap: Bit n set: piece ``first + n`` is wanted; at most WINDOW_MAX bits are set.
        bases: For an offer: sha256 of packages the device holds, the likeliest first.
        memory_bytes: For an offer: what restoring may need.
    """

    request: int
    sha256: str
    part: Part
    first: int
    bitmap: int
    bases: tuple[str, ...] = ()
    memory_bytes: int = 0

    @property
    def indices(self) -> tuple[int, ...]:
        """Pieces wanted, ascending."""
        return tuple(self.first + n for n in range(64) if self.bitmap >> n & 1)

    def encode(self) -> bytes:
        """Encode as JSON."""
        asked: dict[str, Any] = {}
        if self.part is Part.OFFER:
            asked = {"bases": list(self.bases), "memory": self.memory_bytes}
        return dump_object(
            {
                "v": CONTRACT_VERSION,
                "request": self.request,
                "sha256": self.sha256,
                "part": str(self.part),
                "first": self.first,
                "bitmap": self.bitmap,
                **asked,
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
            bases=fields.items("bases", _read_base, (), items_max=BASES_MAX),
            memory_bytes=fields.integer("memory", 0, high=2**40),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOffer:
    """Body of an offer frame: how a package can travel. A hint; nothing of it is signed.

    Attributes:
        encoding: Identity: fetch the package itself, the other fields mean nothing.
        sha256: Of the encoded package, to be asked for like a package.
        size_bytes: Of the encoded package.
        chunks: sha256 of the encoded package's list of chunk hashes.
        window_log: Restoring needs a window of 2 to this power, bytes.
        base: sha256 of the package it is restored from; empty without one.
    """

    encoding: Encoding
    sha256: str = ""
    size_bytes: int = 0
    chunks: str = ""
    window_log: int = 0
    base: str = ""

    def encode(self) -> bytes:
        """Encode as JSON."""
        said: dict[str, Any] = {"v": CONTRACT_VERSION, "encoding": str(self.encoding)}
        if self.encoding is not Encoding.IDENTITY:
            said |= {"sha256": self.sha256, "size": self.size_bytes, "chunks": self.chunks}
            said |= {"window_log": self.window_log}
        if self.encoding is Encoding.DELTA:
            said["base"] = self.base
        return dump_object(said)

    @classmethod
    def decode(cls, payload: bytes) -> "PackageOffer":
        """Decode; raises ContractError."""
        what = "offer"
        fields = Fields(parse_object(payload, what=what, limit_bytes=OFFER_BYTES_MAX), what=what)
        fields.version(CONTRACT_VERSION)
        encoding = fields.text("encoding", chars_max=32)
        if encoding not in Encoding.__members__.values():
            raise MalformedError(f"{what}: unknown encoding {encoding!r}")
        if encoding == Encoding.IDENTITY:
            return cls(encoding=Encoding.IDENTITY)
        is_delta = encoding == Encoding.DELTA
        return cls(
            encoding=Encoding(encoding),
            sha256=check_sha256(fields.text("sha256", chars_max=64), what=what),
            size_bytes=fields.integer("size", low=1, high=2**40),
            chunks=check_sha256(fields.text("chunks", chars_max=64), what=what),
            window_log=fields.integer("window_log", low=WINDOW_LOG_MIN, high=WINDOW_LOG_MAX),
            base=check_sha256(fields.text("base", chars_max=64), what=what) if is_delta else "",
        )


def _read_base(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"chunk request: a base is {value!r:.80}, not a sha256")
    return check_sha256(value, what="chunk request")


def count_chunks(size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Number of chunks of a package.

    >>> count_chunks(65_537)
    2
    """
    return -(-size_bytes // chunk_bytes)
