"""Make the features of sampled rows less telling, as the device's settings say.

A hash is HMAC-SHA256 with a key that never leaves the device, so who reads it cannot try all
values of a small domain; equal values have equal hashes wherever the key is the same.
"""

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.rows import HASH_BYTES, Redaction, RowFeature


def redact(
    rows: NDArray[np.float32], features: Sequence[RowFeature], key: bytes
) -> tuple[bytes, ...]:
    """Return the values of each feature, as ``RowBatch.values`` has them.

    Args:
        rows: The features' columns one behind the other, float32 [rows, width of all].
        features: With the rule of each.
        key: Of hashes.
    """
    found, first = [], 0
    for feature in features:
        part = rows[:, first : first + feature.width].astype("<f4")
        first += feature.width
        if feature.redaction is Redaction.HASH:
            found.append(b"".join(_hash(feature.name, row, key) for row in part))
        elif feature.redaction is Redaction.ROUND:
            rounded = np.round(part.astype(np.float64) / feature.step) * feature.step
            found.append(rounded.astype("<f4").tobytes())
        else:
            found.append(part.tobytes())
    return tuple(found)


def _hash(name: str, row: NDArray[np.float32], key: bytes) -> bytes:
    # One zero and one NaN: what compares equal hashes equal.
    plain = np.where(np.isnan(row), np.float32(np.nan), row + np.float32(0)).astype("<f4")
    digest = hmac.new(key, name.encode() + b"\0" + plain.tobytes(), hashlib.sha256).digest()
    return digest[:HASH_BYTES]
