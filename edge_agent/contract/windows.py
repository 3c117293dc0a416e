"""Telemetry windows on the wire: a compact binary frame of one or more windows.

A window's bytes never change between re-sends, ``t0_ms`` included: the server's unique key
begins with it. The counters are LEB128 varints whose layout the drift reference fixes
(``edge_agent/statistics/layout.py``); here they are opaque bytes.

Frame: ``EFW1`` · boot u64 · count u16, then per window: stream u16 · sequence u32 · t0 u64 ·
t1 u64 · reference 8 bytes · artifact 8 bytes · rows u32 · length u32 · counters. Big-endian.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_agent.contract.errors import MalformedError, TooLargeError

FRAME_BYTES_MAX = 262_144
WINDOWS_PER_FRAME_MAX = 512
COUNTER_BYTES_MAX = 65_536
MERGED_SPAN_MS_MAX = 86_400_000
"""A merged window covers a day at most: the server files it under its beginning."""
MAGIC = b"EFW1"
_HEAD = struct.Struct(">4sQH")
_WINDOW = struct.Struct(">HIQQ8s8sII")
INTEGER_MAX = 2**63 - 1


class Window(NamedTuple):
    """Counters of one slot over one stretch of time; a tuple, as servers make millions of them.

    Attributes:
        stream: Number of the slot within this boot, 0 to 65,535.
        sequence: Counts the windows of this boot and stream from 0.
        t0_ms: Start, epoch milliseconds by the device's clock.
        t1_ms: End, epoch milliseconds.
        reference: First 8 bytes of the sha256 of the drift reference that fixed the bins.
        artifact: First 8 bytes of the sha256 of the package that answered.
        rows: Rows summarised.
        counters: LEB128 varints.
    """

    stream: int
    sequence: int
    t0_ms: int
    t1_ms: int
    reference: bytes
    artifact: bytes
    rows: int
    counters: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFrame:
    """``up/tel``: windows of one boot, oldest first."""

    boot: int
    windows: tuple[Window, ...]


def encode_windows(boot: int, windows: Sequence[Window]) -> bytes:
    """Encode one frame.

    Raises:
        TooLargeError: More windows or bytes than a frame may have.
    """
    if len(windows) > WINDOWS_PER_FRAME_MAX:
        raise TooLargeError("windows in a frame", len(windows), WINDOWS_PER_FRAME_MAX)
    parts = [_HEAD.pack(MAGIC, boot, len(windows))]
    for w in windows:
        parts.append(
            _WINDOW.pack(
                w.stream,
                w.sequence,
                w.t0_ms,
                w.t1_ms,
                w.reference,
                w.artifact,
                w.rows,
                len(w.counters),
            )
        )
        parts.append(w.counters)
    frame = b"".join(parts)
    if len(frame) > FRAME_BYTES_MAX:
        raise TooLargeError("telemetry frame", len(frame), FRAME_BYTES_MAX)
    return frame


def encoded_size(window: Window) -> int:
    """Bytes one window adds to a frame."""
    return _WINDOW.size + len(window.counters)


def frame_size(windows: Sequence[Window]) -> int:
    """Bytes of the frame that carries them."""
    return _HEAD.size + sum(encoded_size(w) for w in windows)


def decode_windows(payload: bytes) -> WindowFrame:
    """Decode one frame.

    Raises:
        TooLargeError: Beyond the frame's bound.
        MalformedError: Wrong magic, lengths that do not add up, or a value out of range.
    """
    if len(payload) > FRAME_BYTES_MAX:
        raise TooLargeError("telemetry frame", len(payload), FRAME_BYTES_MAX)
    if len(payload) < _HEAD.size:
        raise MalformedError(f"telemetry frame of {len(payload)} bytes is shorter than its head")
    magic, boot, count = _HEAD.unpack_from(payload)
    if magic != MAGIC:
        raise MalformedError(f"telemetry frame begins with {magic!r}, not {MAGIC!r}")
    if boot > INTEGER_MAX or not 1 <= count <= WINDOWS_PER_FRAME_MAX:
        raise MalformedError(f"telemetry frame: boot {boot} or count {count} is out of range")
    offset, windows = _HEAD.size, []
    for _ in range(count):
        if offset + _WINDOW.size > len(payload):
            raise MalformedError("telemetry frame ends inside a window")
        stream, sequence, t0, t1, ref, artifact, rows, length = _WINDOW.unpack_from(payload, offset)
        offset += _WINDOW.size
        end = offset + length
        if length > COUNTER_BYTES_MAX or end > len(payload):
            raise MalformedError(f"telemetry window {sequence}: {length} counter bytes do not fit")
        if not t0 <= t1 <= INTEGER_MAX:
            raise MalformedError(f"telemetry window {sequence}: times {t0}..{t1} are not in order")
        windows.append(
            Window(
                stream=stream,
                sequence=sequence,
                t0_ms=t0,
                t1_ms=t1,
                reference=ref,
                artifact=artifact,
                rows=rows,
                counters=payload[offset:end],
            )
        )
        offset = end
    if offset != len(payload):
        raise MalformedError(f"telemetry frame has {len(payload) - offset} bytes behind its end")
    return WindowFrame(boot=boot, windows=tuple(windows))
