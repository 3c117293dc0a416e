"""Time as the services see it."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """A clock that tests and the rehearsal can replace."""

    def now(self) -> datetime:
        """Return the present instant, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...
