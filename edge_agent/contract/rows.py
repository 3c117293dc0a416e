"""``up/rows``: a few sampled rows for retraining, as far as their device lets them out.

A message is one batch of one package in one slot: which features it carries and how each was
redacted, rows with what was answered, and labels of rows sampled before. Batches are numbered
within a boot and sent in order, one at a time; the server keeps a number once and acknowledges
with ``rows`` ranges in ``down/telack``.

Message: ``EFR1`` · boot u64 · sequence u64 · encoding u8 (0 plain, 1 zlib; 2 and 3 likewise where
answers have names) · length u32 of the plain body · body. Body: artifact 8 bytes · stream u16 ·
share f64 · features u16 · rows u16 · labels u16; a feature: name length u16 · name · redaction u8 ·
step f64 · width u32; where answers have names their count u16 and, each, length u16 · name; then
arrays. The head is big-endian, arrays are spread by bytes (``planes.py``). A server that does not
know names takes no such message; it waits on its device.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.outputs import TARGET_CHARS_MAX, TARGETS_MAX
from edge_agent.contract.planes import PlaneReader, gather, pack_numbers, spread

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
_PLAIN, _ZLIB, _NAMED = 0, 1, 2
_NAMED_ENCODINGS = (_NAMED | _PLAIN, _NAMED | _ZLIB)


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
        predicted: Index of the class, or the value; 0 where answers have names.
        confidence: Highest probability, of several labels that of the least sure one; 0 of a
            regression.
    """

    number: int
    row: int
    at_ms: int
    reason: Reason
    predicted: float
    confidence: float


class SampledLabel(NamedTuple):
    """What turned out to be true of a row that was sampled: index of a class, or a value.

    ``name`` is the index of what it is of among the names of its batch; 0 where there are none.
    """

    number: int
    row: int
    label: float
    name: int = 0


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
        names: Of the several targets or labels of an answer, in order; empty where it is one.
        predicted: For each name its answers of all rows, float32 little-endian: indices of
            classes, or values.
    """

    artifact: bytes
    stream: int
    share: float
    features: tuple[RowFeature, ...] = ()
    rows: tuple[RowHead, ...] = ()
    values: tuple[bytes, ...] = ()
    labels: tuple[SampledLabel, ...] = ()
    names: tuple[str, ...] = ()
    predicted: tuple[bytes, ...] = ()


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


def row_bytes(features: Sequence[RowFeature], names: int = 0) -> int:
    """Bytes one row adds to a body, before compression; ``names`` of answers, 0 for a single."""
    return 23 + _NUMBER_BYTES * max(1, names) + sum(feature.row_bytes for feature in features)


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
        told = _FEATURE.pack(feature.redaction, feature.step, feature.width)
        parts += (_pack_name(feature.name), told)
    if batch.names:
        parts += (_NAME.pack(len(batch.names)), *map(_pack_name, batch.names))
    rows, labels = batch.rows, batch.labels
    parts += [
        pack_numbers("Q", [r.number for r in rows]),
        pack_numbers("H", [r.row for r in rows]),
        pack_numbers("Q", [r.at_ms for r in rows]),
        pack_numbers("B", [r.reason for r in rows]),
        *(spread(answers, _NUMBER_BYTES) for answers in batch.predicted),
        pack_numbers("f", [] if batch.names else [r.predicted for r in rows]),
        pack_numbers("f", [r.confidence for r in rows]),
    ]
    for feature, values in zip(batch.features, batch.values, strict=True):
        parts.append(spread(values, _item_bytes(feature)))
    parts += [
        pack_numbers("Q", [label.number for label in labels]),
        pack_numbers("H", [label.row for label in labels]),
        pack_numbers("H", [label.name for label in labels] if batch.names else []),
        pack_numbers("d", [label.label for label in labels]),
    ]
    body = b"".join(parts)
    if len(body) > BODY_BYTES_MAX:
        raise TooLargeError("body of sampled rows", len(body), BODY_BYTES_MAX)
    packed = zlib.compress(body, 6)
    encoding, content = (_ZLIB, packed) if len(packed) < len(body) else (_PLAIN, body)
    encoding |= _NAMED if batch.names else 0
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
    has_names = encoding in _NAMED_ENCODINGS
    body = _inflate(payload[HEAD_BYTES:], encoding - _NAMED if has_names else encoding, size)
    reader = PlaneReader(body, what="sampled rows")
    batch = _read_batch(reader, has_names=has_names)
    return RowMessage(boot=boot, sequence=sequence, batch=batch)


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
        raise MalformedError(f"sampled rows: encoding {encoding} is none of 0 to 3; upgrade")
    if len(body) != size:
        raise MalformedError(f"sampled rows: the body has {len(body)} bytes, told were {size}")
    return body


def _read_batch(reader: PlaneReader, *, has_names: bool) -> RowBatch:
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
    names = _read_names(reader) if has_names else ()
    rows, predicted = _read_heads(reader, row_count, len(names))
    values = tuple(
        gather(reader.take(row_count * feature.row_bytes), _item_bytes(feature))
        for feature in features
    )
    labels = _read_labels(reader, label_count, len(names))
    reader.end()
    return RowBatch(
        artifact=artifact,
        stream=stream,
        share=share,
        features=features,
        rows=rows,
        values=values,
        labels=labels,
        names=names,
        predicted=predicted,
    )


def _pack_name(name: str) -> bytes:
    encoded = name.encode()
    return _NAME.pack(len(encoded)) + encoded


def _read_name(reader: PlaneReader) -> str:
    (length,) = _NAME.unpack(reader.take(_NAME.size))
    if not 1 <= length <= NAME_BYTES_MAX:
        raise MalformedError(f"sampled rows: a name of {length} bytes")
    try:
        return reader.take(length).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"sampled rows: a name is not UTF-8: {error}") from error


def _read_names(reader: PlaneReader) -> tuple[str, ...]:
    (count,) = _NAME.unpack(reader.take(_NAME.size))
    if not 2 <= count <= TARGETS_MAX:
        raise MalformedError(f"sampled rows: {count} names of answers, must be 2 to {TARGETS_MAX}")
    names = tuple(_read_name(reader) for _ in range(count))
    if len(set(names)) != count or any(len(name) > TARGET_CHARS_MAX for name in names):
        raise MalformedError(
            f"sampled rows: a name of an answer is there twice, or longer than {TARGET_CHARS_MAX}"
        )
    return names


def _read_feature(reader: PlaneReader) -> RowFeature:
    name = _read_name(reader)
    redaction, step, width = _FEATURE.unpack(reader.take(_FEATURE.size))
    if redaction not in list(Redaction) or width < 1 or name.startswith("_"):
        raise MalformedError(f"sampled rows: feature {name!r:.80} with {redaction}, {width}")
    is_step = math.isfinite(step) and (step > 0 if redaction == Redaction.ROUND else step == 0)
    if not is_step:
        raise MalformedError(f"sampled rows: step {step} of feature {name!r:.80}")
    return RowFeature(name=name, redaction=Redaction(redaction), step=step, width=width)


def _read_heads(
    reader: PlaneReader, count: int, names: int
) -> tuple[tuple[RowHead, ...], tuple[bytes, ...]]:
    """Read rows and, where answers have names, the answers of each."""
    numbers, places = reader.integers("Q", count), reader.integers("H", count)
    times, reasons = reader.integers("Q", count), reader.integers("B", count)
    size = count * _NUMBER_BYTES
    named = tuple(gather(reader.take(size), _NUMBER_BYTES) for _ in range(names))
    predicted = [0.0] * count if named else reader.numbers("f", count)
    confidence = reader.numbers("f", count)
    if any(n > _INTEGER_MAX for n in (*numbers, *times)):
        raise MalformedError("sampled rows: a number or time is beyond 63 bits")
    if any(reason not in list(Reason) for reason in reasons):
        raise MalformedError("sampled rows: a reason is unknown")
    if not all(0 <= found <= 1 for found in confidence):
        raise MalformedError("sampled rows: a confidence is not from 0 to 1")
    rows = tuple(
        RowHead(number, place, at_ms, Reason(reason), value, sure)
        for number, place, at_ms, reason, value, sure in zip(
            numbers, places, times, reasons, predicted, confidence, strict=True
        )
    )
    return rows, named


def _read_labels(reader: PlaneReader, count: int, names: int) -> tuple[SampledLabel, ...]:
    numbers, rows = reader.integers("Q", count), reader.integers("H", count)
    of = reader.integers("H", count) if names else [0] * count
    labels = reader.numbers("d", count)
    if names and any(n >= names for n in of):
        raise MalformedError(f"sampled rows: a label is of name {max(of)} of {names}")
    if any(n > _INTEGER_MAX for n in numbers) or not all(map(math.isfinite, labels)):
        raise MalformedError("sampled rows: a label is out of range")
    return tuple(SampledLabel(*label) for label in zip(numbers, rows, labels, of, strict=True))


def _item_bytes(feature: RowFeature) -> int:
    return HASH_BYTES if feature.redaction is Redaction.HASH else _NUMBER_BYTES
