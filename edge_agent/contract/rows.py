"""``up/rows``: a few sampled rows for retraining, as far as their device lets them out.

A message is one batch of one package in one slot: which features it carries and how each was
redacted, rows with what was answered, and labels of rows sampled before. Batches are numbered
within a boot and sent in order, one at a time; the server keeps a number once and acknowledges
with ``rows`` ranges in ``down/telack``.

Message: ``EFR1`` · boot u64 · sequence u64 · encoding u8 (0 plain, 1 zlib) · length u32 of the
plain body · body. Body: artifact 8 bytes · stream u16 · share f64 · features u16 · rows u16 ·
labels u16; a feature: name length u16 · name · redaction u8 · step f64 · width u32; then arrays.
The head is big-endian; arrays are little-endian, all first bytes of their items, then all second
bytes, and so on, which is what makes them compress.
"""

import math
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from edge_agent.contract.errors import MalformedError, TooLargeError

MESSAGE_BYTES_MAX = 262_144
BODY_BYTES_MAX = 4_194_304
ROWS_MAX = 1_024
LABELS_MAX = 1_024
FEATURES_MAX = 4_096
NAME_BYTES_MAX = 512
HASH_BYTES = 8
MAGIC = b"EFR1"
HEAD_BYTES = 25
_INTEGER_MAX = 2**63 - 1
_NUMBER_BYTES = 4
_FRAME = struct.Struct(">4sQQBI")
_BODY = struct.Struct(">8sHdHHH")
_NAME = struct.Struct(">H")
_FEATURE = struct.Struct(">BdI")
_PLAIN, _ZLIB = 0, 1


class Redaction(IntEnum):
    """What became of a feature before it left its device."""

    KEEP = 0
    ROUND = 1
    """To the nearest multiple of ``step``."""
    HASH = 2
    """A keyed hash of all its numbers; the key stays on the device."""


class Reason(IntEnum):
    """Why a row was sampled."""

    SHARE = 0
    """By chance, each row alike: the only ones that stand for all."""
    UNCERTAIN = 1
    """Its confidence was low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFeature:
    """One feature of a batch.

    Attributes:
        name: Of the schema; not beginning with ``_``, which marks columns of our own.
        redaction: How it was made less telling.
        step: Of ROUND, above 0; else 0.
        width: Numbers a row; of HASH those that were hashed together.
    """

    name: str
    redaction: Redaction = Redaction.KEEP
    step: float = 0.0
    width: int = 1

    @property
    def row_bytes(self) -> int:
        """Bytes one row takes."""
        return HASH_BYTES if self.redaction is Redaction.HASH else _NUMBER_BYTES * self.width


class RowHead(NamedTuple):
    """One row but for its features.

    Attributes:
        number: Of the prediction; with boot and stream of the batch its prediction id.
        row: Which row of its request, from 0.
        at_ms: When it was answered, epoch milliseconds by the device's clock.
        reason: Why it was sampled.
        predicted: Index of the class, or the value.
        confidence: Highest probability; 0 of a regression.
    """

    number: int
    row: int
    at_ms: int
    reason: Reason
    predicted: float
    confidence: float


class SampledLabel(NamedTuple):
    """What turned out to be true of a row that was sampled: index of a class, or a value."""

    number: int
    row: int
    label: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Rows and labels of one package in one slot.

    Attributes:
        artifact: First 8 bytes of the sha256 of the package that answered.
        stream: Number of the slot within the boot.
        share: Probability with which SHARE rows were taken, 0 to 1.
        features: What each row carries, in order.
        rows: The rows.
        values: For each feature its numbers of all rows: float32 little-endian, row after row,
            or 8 bytes of hash a row.
        labels: Of rows of this or an earlier batch of the same boot.
    """

    artifact: bytes
    stream: int
    share: float
    features: tuple[RowFeature, ...] = ()
    rows: tuple[RowHead, ...] = ()
    values: tuple[bytes, ...] = ()
    labels: tuple[SampledLabel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMessage:
    """``up/rows``."""

    boot: int
    sequence: int
    batch: RowBatch


def name_prediction(boot: int, stream: int, number: int) -> str:
    """Write a prediction id as the device answered it, without the row.

    >>> name_prediction(5, 0, 42)
    '0000000000000005-0-2a'
    """
    return f"{boot:016x}-{stream:x}-{number:x}"


def row_bytes(features: Sequence[RowFeature]) -> int:
    """Bytes one row adds to a body, before compression."""
    return 27 + sum(feature.row_bytes for feature in features)


def encode_batch(batch: RowBatch) -> bytes:
    """Encode all of a message but its number.

    Raises:
        TooLargeError: More rows, labels, features or bytes than a message may have.
    """
    for what, count, limit in (
        ("sampled rows", len(batch.rows), ROWS_MAX),
        ("labels of sampled rows", len(batch.labels), LABELS_MAX),
        ("features of sampled rows", len(batch.features), FEATURES_MAX),
    ):
        if count > limit:
            raise TooLargeError(what, count, limit)
    sizes = (len(batch.features), len(batch.rows), len(batch.labels))
    parts = [_BODY.pack(batch.artifact, batch.stream, batch.share, *sizes)]
    for feature in batch.features:
        name = feature.name.encode()
        parts += (
            _NAME.pack(len(name)),
            name,
            _FEATURE.pack(feature.redaction, feature.step, feature.width),
        )
    rows, labels = batch.rows, batch.labels
    parts += [
        _pack("Q", [r.number for r in rows]),
        _pack("H", [r.row for r in rows]),
        _pack("Q", [r.at_ms for r in rows]),
        _pack("B", [r.reason for r in rows]),
        _pack("f", [r.predicted for r in rows]),
        _pack("f", [r.confidence for r in rows]),
    ]
    for feature, values in zip(batch.features, batch.values, strict=True):
        parts.append(_spread(values, _item_bytes(feature)))
    parts += [
        _pack("Q", [label.number for label in labels]),
        _pack("H", [label.row for label in labels]),
        _pack("d", [label.label for label in labels]),
    ]
    body = b"".join(parts)
    if len(body) > BODY_BYTES_MAX:
        raise TooLargeError("body of sampled rows", len(body), BODY_BYTES_MAX)
    packed = zlib.compress(body, 6)
    encoding, content = (_ZLIB, packed) if len(packed) < len(body) else (_PLAIN, body)
    if HEAD_BYTES + len(content) > MESSAGE_BYTES_MAX:
        raise TooLargeError("sampled rows", HEAD_BYTES + len(content), MESSAGE_BYTES_MAX)
    return struct.pack(">BI", encoding, len(body)) + content


def frame_batch(boot: int, sequence: int, encoded: bytes) -> bytes:
    """Put the number in front of what ``encode_batch`` made."""
    return struct.pack(">4sQQ", MAGIC, boot, sequence) + encoded


def decode_rows(payload: bytes) -> RowMessage:
    """Decode a message.

    Raises:
        TooLargeError: Beyond a bound, compressed or not.
        MalformedError: Wrong magic, lengths that do not add up, or a value out of range.
    """
    if len(payload) > MESSAGE_BYTES_MAX:
        raise TooLargeError("sampled rows", len(payload), MESSAGE_BYTES_MAX)
    if len(payload) < HEAD_BYTES:
        raise MalformedError(f"sampled rows of {len(payload)} bytes are shorter than their head")
    magic, boot, sequence, encoding, size = _FRAME.unpack_from(payload)
    if magic != MAGIC:
        raise MalformedError(f"sampled rows begin with {magic!r}, not {MAGIC!r}")
    if boot > _INTEGER_MAX or not 0 < sequence <= _INTEGER_MAX:
        raise MalformedError(f"sampled rows: boot {boot} or sequence {sequence} is out of range")
    body = _inflate(payload[HEAD_BYTES:], encoding, size)
    return RowMessage(boot=boot, sequence=sequence, batch=_read_batch(_Reader(body)))


def _inflate(content: bytes, encoding: int, size: int) -> bytes:
    if size > BODY_BYTES_MAX:
        raise TooLargeError("body of sampled rows", size, BODY_BYTES_MAX)
    if encoding == _PLAIN:
        body = content
    elif encoding == _ZLIB:
        inflater = zlib.decompressobj()
        try:
            body = inflater.decompress(content, size + 1)
        except zlib.error as error:
            raise MalformedError(f"sampled rows cannot be inflated: {error}") from error
        if not inflater.eof or inflater.unused_data:
            raise MalformedError("sampled rows: the compressed body does not end where it should")
    else:
        raise MalformedError(f"sampled rows: encoding {encoding} is none of 0, 1")
    if len(body) != size:
        raise MalformedError(f"sampled rows: the body has {len(body)} bytes, told were {size}")
    return body


class _Reader:
    """Takes a body apart from front to back."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._body):
            raise MalformedError("sampled rows end too early")
        found, self._at = self._body[self._at : end], end
        return found

    def numbers(self, kind: str, count: int) -> list[float]:
        size = array(kind).itemsize
        found: array[float] = array(kind, _gather(self.take(count * size), size))
        if sys.byteorder == "big":
            found.byteswap()
        return found.tolist()

    def integers(self, kind: str, count: int) -> list[int]:
        return [int(n) for n in self.numbers(kind, count)]

    def end(self) -> None:
        if self._at != len(self._body):
            raise MalformedError(
                f"sampled rows have {len(self._body) - self._at} bytes behind their end"
            )


def _read_batch(reader: _Reader) -> RowBatch:
    artifact, stream, share, feature_count, row_count, label_count = _BODY.unpack(
        reader.take(_BODY.size)
    )
    if not 0 <= share <= 1:
        raise MalformedError(f"sampled rows: share {share} is not from 0 to 1")
    for what, count, limit in (
        ("sampled rows", row_count, ROWS_MAX),
        ("labels of sampled rows", label_count, LABELS_MAX),
        ("features of sampled rows", feature_count, FEATURES_MAX),
    ):
        if count > limit:
            raise TooLargeError(what, count, limit)
    if not row_count and not label_count:
        raise MalformedError("sampled rows: neither rows nor labels")
    features = tuple(_read_feature(reader) for _ in range(feature_count))
    if len({feature.name for feature in features}) != len(features):
        raise MalformedError("sampled rows: a feature is named twice")
    rows = _read_heads(reader, row_count)
    values = tuple(
        _gather(reader.take(row_count * feature.row_bytes), _item_bytes(feature))
        for feature in features
    )
    labels = _read_labels(reader, label_count)
    reader.end()
    return RowBatch(
        artifact=artifact,
        stream=stream,
        share=share,
        features=features,
        rows=rows,
        values=values,
        labels=labels,
    )


def _read_feature(reader: _Reader) -> RowFeature:
    (length,) = _NAME.unpack(reader.take(_NAME.size))
    if not 1 <= length <= NAME_BYTES_MAX:
        raise MalformedError(f"sampled rows: a name of {length} bytes")
    try:
        name = reader.take(length).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"sampled rows: a name is not UTF-8: {error}") from error
    redaction, step, width = _FEATURE.unpack(reader.take(_FEATURE.size))
    if redaction not in list(Redaction) or width < 1 or name.startswith("_"):
        raise MalformedError(f"sampled rows: feature {name!r:.80} with {redaction}, {width}")
    is_step = math.isfinite(step) and (step > 0 if redaction == Redaction.ROUND else step == 0)
    if not is_step:
        raise MalformedError(f"sampled rows: step {step} of feature {name!r:.80}")
    return RowFeature(name=name, redaction=Redaction(redaction), step=step, width=width)


def _read_heads(reader: _Reader, count: int) -> tuple[RowHead, ...]:
    numbers, rows = reader.integers("Q", count), reader.integers("H", count)
    times, reasons = reader.integers("Q", count), reader.integers("B", count)
    predicted, confidence = reader.numbers("f", count), reader.numbers("f", count)
    if any(n > _INTEGER_MAX for n in (*numbers, *times)):
        raise MalformedError("sampled rows: a number or time is beyond 63 bits")
    if any(reason not in list(Reason) for reason in reasons):
        raise MalformedError("sampled rows: a reason is unknown")
    if not all(0 <= found <= 1 for found in confidence):
        raise MalformedError("sampled rows: a confidence is not from 0 to 1")
    return tuple(
        RowHead(number, row, at_ms, Reason(reason), value, sure)
        for number, row, at_ms, reason, value, sure in zip(
            numbers, rows, times, reasons, predicted, confidence, strict=True
        )
    )


def _read_labels(reader: _Reader, count: int) -> tuple[SampledLabel, ...]:
    numbers, rows = reader.integers("Q", count), reader.integers("H", count)
    labels = reader.numbers("d", count)
    if any(n > _INTEGER_MAX for n in numbers) or not all(map(math.isfinite, labels)):
        raise MalformedError("sampled rows: a label is out of range")
    return tuple(SampledLabel(*label) for label in zip(numbers, rows, labels, strict=True))


def _item_bytes(feature: RowFeature) -> int:
    return HASH_BYTES if feature.redaction is Redaction.HASH else _NUMBER_BYTES


def _pack(kind: str, items: Sequence[float]) -> bytes:
    packed = array(kind, items)
    if sys.byteorder == "big":
        packed.byteswap()
    return _spread(packed.tobytes(), packed.itemsize)


def _spread(items: bytes, size: int) -> bytes:
    """Put all first bytes of the items first, then all second ones, and so on."""
    return b"".join(items[k::size] for k in range(size)) if size > 1 else items


def _gather(planes: bytes, size: int) -> bytes:
    """Undo ``_spread``."""
    if size == 1:
        return planes
    count = len(planes) // size
    items = bytearray(len(planes))
    for k in range(size):
        items[k::size] = planes[k * count : (k + 1) * count]
    return bytes(items)
