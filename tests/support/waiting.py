"""Waiting on a condition, with a limit."""

import time
from collections.abc import Callable

FIRST_PAUSE_S, PAUSE_S_MAX, GROWTH = 0.01, 0.05, 1.2
"""What is long in coming is asked for less often: asking takes a core from what is waited for."""


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 60.0, what: str = "") -> None:
    end, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not is_true():
        if time.monotonic() > end:
            raise AssertionError(f"not true within {timeout_s:g} s: {what or is_true}")
        time.sleep(pause_s)
        pause_s = min(PAUSE_S_MAX, pause_s * GROWTH)
