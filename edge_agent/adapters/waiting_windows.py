"""Closed windows on their way to the disk; bounded, what does not fit is counted."""

import threading
from collections import deque
from typing import NamedTuple

from edge_agent.contract.windows import Window

WINDOWS_WAITING_MAX = 256
"""Closed windows kept in memory while the disk refuses them."""


class Lost(NamedTuple):
    """Windows that did not fit, and the rows they counted."""

    windows: int = 0
    rows: int = 0


class WaitingWindows:
    """A bounded queue; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: deque[Window] = deque()
        self._lost = Lost()

    def add(self, window: Window) -> None:
        """Take a closed window."""
        with self._lock:
            self._windows.append(window)
            self._trim()

    def take(self) -> tuple[Lost, list[Window]]:
        """Return and forget what waits and what was lost."""
        with self._lock:
            lost, windows = self._lost, list(self._windows)
            self._lost = Lost()
            self._windows.clear()
        return lost, windows

    def put_back(self, lost: Lost, windows: list[Window]) -> None:
        """Give back what could not be written, in front of what came since."""
        with self._lock:
            self._lost = Lost(self._lost.windows + lost.windows, self._lost.rows + lost.rows)
            self._windows.extendleft(reversed(windows))
            self._trim()

    def _trim(self) -> None:
        while len(self._windows) > WINDOWS_WAITING_MAX:
            rows = self._windows.popleft().rows
            self._lost = Lost(self._lost.windows + 1, self._lost.rows + rows)
