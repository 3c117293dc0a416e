"""Which rows are sampled by chance: each with the same probability, at no cost a row passed over.

Not every row is asked: how many are passed over until the next one is drawn at once (a geometric
distribution), so ten thousand rows that nobody wants cost one subtraction.
"""

import math
from collections.abc import Callable

_NEVER = 2**62


class RowChoice:
    """Draws among an endless sequence of rows."""

    def __init__(self, share: float, jitter: Callable[[], float]) -> None:
        """Begin.

        Args:
            share: Probability of each row, 0 to 1.
            jitter: Numbers in [0, 1).
        """
        self._share, self._jitter = share, jitter
        self._passed_over = self._draw()

    def take(self, count: int) -> list[int]:
        """Return which of the next ``count`` rows are taken, ascending from 0.

        >>> RowChoice(1.0, lambda: 0.5).take(3)
        [0, 1, 2]
        >>> RowChoice(0.0, lambda: 0.5).take(3)
        []
        """
        taken = []
        at = self._passed_over
        while at < count:
            taken.append(at)
            at += 1 + self._draw()
        self._passed_over = at - count
        return taken

    def _draw(self) -> int:
        if self._share >= 1:
            return 0
        if self._share <= 0:
            return _NEVER
        drawn = math.log1p(-self._jitter()) / math.log1p(-self._share)
        return int(min(drawn, _NEVER))
