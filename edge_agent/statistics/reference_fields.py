"""Readers and checks of single fields of ``reference.json``; each raises ContractError."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from edge_agent.contract.errors import MalformedError


def read_text(value: Any) -> str:
    """Read the name of a class or of a bin."""
    if not isinstance(value, str):
        raise MalformedError(f"reference.json: name {str(value)[:40]!r} is not text")
    return value


def read_number(value: Any) -> float:
    """Read a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError(f"reference.json: {str(value)[:40]!r} is not a number")
    return float(value)


def read_count(value: Any) -> int:
    """Read a number of rows."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise MalformedError(f"reference.json: {str(value)[:40]!r} is not a count")
    return value


def read_code(value: Any) -> int:
    """Read the bin of a category; -1 for none."""
    return -1 if value == -1 and not isinstance(value, bool) else read_count(value)


def check_edges(name: str, edges: Sequence[float]) -> None:
    """Check that edges are finite and ascend."""
    if any(not math.isfinite(e) for e in edges) or any(a >= b for a, b in pairwise(edges)):
        raise MalformedError(f"reference {name!r}: edges do not ascend")


def check_counts(name: str, counts: Sequence[int], size: int) -> None:
    """Check that there are ``size`` counts, none below 0."""
    if len(counts) != size or any(c < 0 for c in counts):
        raise MalformedError(f"reference {name!r}: needs {size} counts, got {len(counts)}")
