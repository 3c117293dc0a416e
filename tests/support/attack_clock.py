"""A clock on the wall that may be turned, beside one that never goes back."""

from datetime import datetime

from tests.support.clock import FakeClock


class WallClock(FakeClock):
    """``turn_to`` sets the time of day, as a user or a flat battery does."""

    def turn_to(self, now: datetime) -> None:
        self._now = now
