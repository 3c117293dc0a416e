"""Room for large bodies: what many clients send at once must not fill a small device's memory.

A connection takes room before it reads a large body and gives it back when its answer is with the
client; who finds none is not read from until there is some, first come, first served.
Called from the event loop only. Invariant: what is held is at most ``bytes_max``, or one body.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """Who waits for how much, and is called when it has it."""

    who: Hashable
    size: int
    on_room: Callable[[], None]


class BodyRoom:
    """The room of one server."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max, self._held = bytes_max, 0
        self._waiting: deque[_Waiting] = deque()

    def take(self, who: Hashable, size: int, on_room: Callable[[], None]) -> bool:
        """Take room for ``size`` bytes now, or be called once it was taken for ``who``."""
        if not self._waiting and self._fits(size):
            self._held += size
            return True
        self._waiting.append(_Waiting(who, size, on_room))
        return False

    def give_back(self, size: int) -> None:
        """Let those have it who wait."""
        self._held -= size
        self._serve()

    def forget(self, who: Hashable) -> None:
        """Let somebody wait no longer."""
        self._waiting = deque(w for w in self._waiting if w.who != who)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0].size):
            first = self._waiting.popleft()
            self._held += first.size
            first.on_room()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self._bytes_max
