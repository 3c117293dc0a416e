"""Counters as LEB128 varints, all at once: a window's counters are mostly below 128.

Only the shortest form of a number is accepted, so a window's bytes and its counters are one to
one. Numbers are 0 to 2**63 - 1: at most 9 bytes each.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.windows import COUNTER_BYTES_MAX

_GROUPS_MAX = 9
_LIMITS = np.array([1 << (7 * k) for k in range(1, _GROUPS_MAX)], dtype=np.int64)


def encode_counters(counters: NDArray[np.int64]) -> bytes:
    """Encode.

    Raises:
        ValueError: A negative counter or not one dimension.
        TooLargeError: More bytes than a window may carry.

    >>> encode_counters(np.array([0, 127, 128, 300])).hex()
    '007f8001ac02'
    """
    values = np.asarray(counters, dtype=np.int64)
    if values.ndim != 1 or (values.size and values.min() < 0):
        raise ValueError("counters must be one row of numbers from 0 up")
    lengths = np.searchsorted(_LIMITS, values, side="right") + 1
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if values.size else 0
    if total > COUNTER_BYTES_MAX:
        raise TooLargeError("counters of a window", total, COUNTER_BYTES_MAX)
    within = np.arange(total) - np.repeat(ends - lengths, lengths)
    groups = (np.repeat(values, lengths) >> (7 * within)) & 0x7F
    groups[within < np.repeat(lengths, lengths) - 1] |= 0x80
    return groups.astype(np.uint8).tobytes()


def decode_counters(payload: bytes, size: int) -> NDArray[np.int64]:
    """Decode exactly ``size`` counters.

    Raises:
        MalformedError: Another number of counters, a number cut off, too long or not in its
            shortest form.

    >>> decode_counters(bytes.fromhex("007f8001ac02"), 4).tolist()
    [0, 127, 128, 300]
    """
    if len(payload) > COUNTER_BYTES_MAX:
        raise MalformedError(f"{len(payload)} counter bytes, the limit is {COUNTER_BYTES_MAX}")
    raw = np.frombuffer(payload, dtype=np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) != size or (len(raw) and (not size or ends[-1] != len(raw) - 1)):
        raise MalformedError(f"counters: {len(ends)} whole numbers in the bytes, need {size}")
    if not size:
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _GROUPS_MAX:
        raise MalformedError("counters: a number has more than 63 bits")
    if np.any((raw[ends] == 0) & (lengths > 1)):
        raise MalformedError("counters: a number is not in its shortest form")
    within = np.arange(len(raw)) - np.repeat(starts, lengths)
    groups = (raw & 0x7F).astype(np.int64) << (7 * within)
    return np.asarray(np.add.reduceat(groups, starts), dtype=np.int64)
