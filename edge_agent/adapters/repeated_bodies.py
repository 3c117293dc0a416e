"""Bodies that differ from one that was read whole in their numbers alone.

A program that asks again and again writes the same JSON around other numbers. What stands around
them was checked once; here it is compared byte by byte, and only the numbers are read. Whatever is
not certain is left to the whole reading (``inference_json.py``), which also says what is wrong.
"""

import re

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.request_json import read_plain_list

_DATA = re.compile(rb'"data"\s*:\s*(?:\[\s*)+([-+0-9.eE,\s]+)\]')
_KEY = b'"data"'
KEPT_BYTES_MAX = 65_536
"""Of a body that is read so; what stands around its numbers is kept while its model is served."""
_EXACT_MAX = 2.0**53
"""Up to here every whole number is a float, however it was written."""


class RepeatedBody:
    """What stands before and behind the numbers of one body; immutable."""

    __slots__ = ("_after", "_before", "_count", "_shape", "_size_min")

    def __init__(self, before: bytes, after: bytes, shape: tuple[int, int]) -> None:
        self._before, self._after, self._shape = before, after, shape
        self._count = shape[0] * shape[1]
        self._size_min = len(before) + len(after)

    def read(self, body: bytes) -> NDArray[np.float32] | None:
        """Read the numbers of a body that is the same around them; None for any other.

        Returns:
            float32 [rows, width], as the whole reading gives them.
        """
        before, after = self._before, self._after
        if not self._size_min < len(body) <= KEPT_BYTES_MAX:  # larger ones are bounded elsewhere
            return None
        if not (body.startswith(before) and body.endswith(after)):
            return None
        numbers = read_plain_list(body[len(before) - 1 : len(body) - len(after) + 1])
        if numbers is None or len(numbers) != self._count:
            return None
        if not -_EXACT_MAX < min(numbers) <= max(numbers) < _EXACT_MAX:
            return None
        return np.array(numbers, np.float32).reshape(self._shape)


def learn_body(body: bytes, features: NDArray[np.float32]) -> RepeatedBody | None:
    """Remember what stands around the numbers of a body; None where these are not certain.

    Args:
        body: JSON of a request of one tensor of floats, read whole and found right.
        features: float32 [rows, width] of it.
    """
    # A backslash could spell the key in another way, a second one could be anything's.
    if len(body) > KEPT_BYTES_MAX or b"\\" in body or body.count(_KEY) != 1:
        return None
    found = _DATA.search(body)
    if found is None:
        return None
    rows, width = features.shape
    known = RepeatedBody(body[: found.start(1)], body[found.end(1) :], (rows, width))
    return known if known.read(body) is not None else None
