"""The one place of the agent that asks for the time."""

import time
from datetime import UTC, datetime


class SystemClock:
    """Clock over the operating system."""

    def now(self) -> datetime:
        """Return the time of day, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since an arbitrary instant; never goes back."""
        return time.monotonic()
