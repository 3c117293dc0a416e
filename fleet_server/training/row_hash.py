"""Hash rows by their content: the side of the split, and a digest that no order changes.

Two 64-bit lanes of a plain integer mix over the columns, stable across machines and library
versions. The digest of a table is the sum of its row hashes modulo 2^128, so tables add up.
Not a defence against somebody who forges rows: packages are protected by sha256.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Lanes = NDArray[np.uint64]
_START = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_FACTOR = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SUM_BITS = 128


def hash_rows(
    features: NDArray[Any], target: Lanes, texts: Mapping[int, Lanes] | None = None
) -> Lanes:
    """Hash each row of features and target.

    Args:
        features: Numbers [rows, width]; -0 counts as 0, every NaN as one value.
        target: From ``hash_words`` or ``hash_numbers``, [rows, 2].
        texts: By column, from ``hash_words``: a category counts by its text, not by its code,
            which changes with the list.

    Returns:
        uint64 [rows, 2]; the first lane decides sides.
    """
    lanes = []
    with np.errstate(over="ignore"):
        for lane, (start, factor, last) in enumerate(zip(_START, _FACTOR, target.T, strict=True)):
            state = np.full(len(features), start, np.uint64)
            for place, column in enumerate(features.T):
                text = (texts or {}).get(place)
                bits = hash_numbers(column)[:, 0] if text is None else text[:, lane]
                state = _stir(state, bits, factor)
            lanes.append(_finish(_stir(state, last, factor)))
    return np.stack(lanes, axis=1)


def hash_numbers(values: NDArray[Any]) -> Lanes:
    """Give the bits of numbers as float64, [rows, 2]; -0 counts as 0."""
    plain = np.ascontiguousarray(values, np.float64) + 0.0
    plain[np.isnan(plain)] = np.nan
    bits = plain.view(np.uint64)
    return np.stack([bits, bits], axis=1)


def hash_words(codes: NDArray[np.int64], words: Sequence[str]) -> Lanes:
    """Give two numbers a row from the text of its word, whatever its code."""
    table = np.array(
        [np.frombuffer(hashlib.sha256(word.encode()).digest()[:16], "<u8") for word in words],
        np.uint64,
    )
    return np.asarray(table.reshape(-1, 2)[codes], np.uint64)


def choose_test_rows(lanes: Lanes, *, share: float, seed: int) -> NDArray[np.bool_]:
    """Tell which rows are held out; equal rows are on the same side.

    Args:
        lanes: From ``hash_rows``.
        share: Of the rows, between 0 and 1.
        seed: Another seed gives an unrelated choice.
    """
    with np.errstate(over="ignore"):
        salted = lanes[:, 0] ^ _finish(np.array([seed], np.uint64) + np.uint64(_START[1]))
        place = (_finish(salted) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.asarray(place < share)


def order_rows(lanes: Lanes) -> NDArray[np.int64]:
    """Give an order of the rows that depends on their content alone."""
    return np.lexsort((lanes[:, 1], lanes[:, 0]))


def digest_rows(columns: Sequence[str], target: str, lanes: Lanes) -> str:
    """Give the version of the data: sha256 of the columns, the row count and the sum of hashes.

    Args:
        columns: Of the features, in order.
        target: Column of the answer; a JSON array of several.
        lanes: From ``hash_rows``.
    """
    total = 0
    for lane in lanes.T:
        high = int((lane >> np.uint64(32)).sum(dtype=np.uint64))
        low = int((lane & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
        total = (total << 64) + (high << 32) + low
    manifest = {
        "format": 1,
        "columns": list(columns),
        "target": target,
        "rows": len(lanes),
        "row_sum": f"{total % 2**_SUM_BITS:032x}",
    }
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _stir(state: Lanes, value: Lanes, factor: int) -> Lanes:
    mixed = (state ^ value) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))


def _finish(state: Lanes) -> Lanes:
    """Spread every input bit over every output bit (the last rounds of splitmix64)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FACTOR[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_FACTOR[1])
    return np.asarray(state ^ (state >> np.uint64(31)))
