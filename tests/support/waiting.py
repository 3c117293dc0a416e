"""Waiting on a condition, with a limit."""

import time
from collections.abc import Callable


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 20.0, what: str = "") -> None:
    end = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > end:
            raise AssertionError(f"not true within {timeout_s:g} s: {what or is_true}")
        time.sleep(0.02)
