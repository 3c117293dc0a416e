"""Numbers nobody can foresee, from the system; ``secrets`` would load what they do not need."""

import os

_BITS = 53
"""Of a float's fraction."""


def random_bits(count: int) -> int:
    """Return a number of up to ``count`` random bits."""
    return int.from_bytes(os.urandom(-(-count // 8))) >> -count % 8


def random_bytes(count: int) -> bytes:
    """Return random bytes."""
    return os.urandom(count)


def random_share() -> float:
    """Return a number in [0, 1)."""
    return float(random_bits(_BITS)) / (1 << _BITS)
