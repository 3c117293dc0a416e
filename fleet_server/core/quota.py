"""How often something may happen per key, in bounded memory.

A window of fixed length begins with a key's first event. Keys are forgotten when their window is
over, or, when too many are remembered, the oldest first: so an attacker with many names buys
himself new windows, but no memory.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class _Window:
    began_s: float
    taken: int = 0
    refused: int = 0


class Quota:
    """At most ``count_max`` events of one key in ``period_s`` seconds."""

    def __init__(self, *, count_max: int, period_s: float, keys_max: int = 10_000) -> None:
        """Begin with nothing counted.

        Args:
            count_max: Events let through per key and window, 1 and up.
            period_s: Length of a window, seconds.
            keys_max: Keys remembered at once.
        """
        self._count_max, self._period_s, self._keys_max = count_max, period_s, keys_max
        self._windows: dict[str, _Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, key: str, now_s: float) -> bool:
        """Count one event; tell whether it is within the quota.

        >>> quota = Quota(count_max=1, period_s=60)
        >>> quota.take("a", 0), quota.take("a", 59), quota.take("a", 60)
        (True, False, True)
        """
        window = self._find(key, now_s)
        if window.taken >= self._count_max:
            window.refused += 1
            return False
        window.taken += 1
        return True

    def give_back(self, key: str) -> None:
        """Uncount one event that turned out well."""
        window = self._windows.get(key)
        if window is not None and window.taken:
            window.taken -= 1

    def wait_s(self, key: str, now_s: float) -> float:
        """Return seconds until the key's window ends, 0 when it has none."""
        window = self._windows.get(key)
        return max(0.0, window.began_s + self._period_s - now_s) if window is not None else 0.0

    def take_refused(self, key: str) -> int:
        """Return how many events of a key were refused since this was last asked, and forget it."""
        window = self._windows.get(key)
        if window is None:
            return 0
        refused, window.refused = window.refused, 0
        return refused

    def _find(self, key: str, now_s: float) -> _Window:
        window = self._windows.get(key)
        if window is not None and now_s < window.began_s + self._period_s:
            return window
        refused = window.refused if window is not None else 0
        self._windows.pop(key, None)
        while self._windows and len(self._windows) >= self._keys_max:
            del self._windows[next(iter(self._windows))]  # the oldest: they are in order of begin
        fresh = _Window(now_s, refused=refused)
        self._windows[key] = fresh
        return fresh
