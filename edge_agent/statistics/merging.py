"""Add up two windows of one slot, package and reference: coarser in time, nothing lost."""

import numpy as np

from edge_agent.contract.errors import ContractError
from edge_agent.contract.windows import MERGED_SPAN_MS_MAX, Window
from edge_agent.statistics.varint import decode_counters, encode_counters

_ROWS_MAX = 2**32 - 1


def merge_windows(older: Window, newer: Window, sequence: int) -> Window | None:
    r"""Return one window that counts what both count; None when they cannot become one.

    Args:
        older: Either of the two; its stream is kept.
        newer: The other one.
        sequence: Number of the new window; the caller sees to it that nobody has it.

    >>> a = Window(0, 1, 100, 200, b"r" * 8, b"a" * 8, 2, bytes([1, 1]))
    >>> b = Window(0, 2, 200, 300, b"r" * 8, b"a" * 8, 3, bytes([3, 0]))
    >>> merge_windows(a, b, 9)[1:4], merge_windows(a, b, 9).rows, merge_windows(a, b, 9).counters
    ((9, 100, 300), 5, b'\x04\x01')
    """
    if (older.stream, older.reference, older.artifact) != (
        newer.stream,
        newer.reference,
        newer.artifact,
    ):
        return None
    t0_ms, t1_ms = min(older.t0_ms, newer.t0_ms), max(older.t1_ms, newer.t1_ms)
    rows = older.rows + newer.rows
    if t1_ms - t0_ms > MERGED_SPAN_MS_MAX or rows > _ROWS_MAX:
        return None
    size = _count_numbers(older.counters)
    try:
        counters = decode_counters(older.counters, size) + decode_counters(newer.counters, size)
        encoded = encode_counters(counters)
    except (ContractError, ValueError):  # other layouts, or a sum beyond 63 bits
        return None
    return Window(
        stream=older.stream,
        sequence=sequence,
        t0_ms=t0_ms,
        t1_ms=t1_ms,
        reference=older.reference,
        artifact=older.artifact,
        rows=rows,
        counters=encoded,
    )


def _count_numbers(counters: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(counters, np.uint8) < 0x80))
