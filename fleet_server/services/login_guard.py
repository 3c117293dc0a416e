"""Remember failed logins of addresses and of names that nobody has, within bounds.

In memory on purpose: what an attacker can invent must not fill the database. The failures of
people who exist are in their rows and survive a restart.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from fleet_server.core.lockout import LockoutPolicy
from fleet_server.ports.clock import Clock

KEYS_MAX = 10_000
FORGET_S = 3_600.0


@dataclass(slots=True)
class _Record:
    failures: int = 0
    until_s: float = 0.0
    last_s: float = 0.0


class FailureMemory:
    """Failures in a row by key; the key unused longest is forgotten first."""

    def __init__(self, policy: LockoutPolicy, clock: Clock, *, keys_max: int = KEYS_MAX) -> None:
        self._policy, self._clock, self._keys_max = policy, clock, keys_max
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lock = Lock()

    def find_wait_s(self, key: str) -> float:
        """Return the seconds this key must wait; 0 when it need not."""
        with self._lock:
            record = self._records.get(key)
            return max(0.0, record.until_s - self._clock.monotonic()) if record else 0.0

    def note_failure(self, key: str) -> float:
        """Count a failure; return the seconds to wait from now."""
        now_s = self._clock.monotonic()
        with self._lock:
            record = self._records.pop(key, None)
            if record is None or now_s - record.last_s > FORGET_S:
                record = _Record()
            record.failures += 1
            wait_s = self._policy.find_lock_s(record.failures)
            record.last_s, record.until_s = now_s, now_s + wait_s
            self._records[key] = record
            while len(self._records) > self._keys_max:
                self._records.popitem(last=False)
            return wait_s

    def forget(self, key: str) -> None:
        """Forget a key that succeeded."""
        with self._lock:
            self._records.pop(key, None)

    def __len__(self) -> int:
        with self._lock:
            return len(self._records)


class RowBudget:
    """How many audit rows failed logins may write: a burst, then so many an hour.

    What goes beyond is counted and told with the next row that is written.
    """

    def __init__(self, clock: Clock, *, burst: int = 100, per_hour: float = 100.0) -> None:
        self._clock, self._burst, self._per_s = clock, burst, per_hour / 3_600
        self._left, self._at_s = float(burst), clock.monotonic()
        self._suppressed = 0
        self._lock = Lock()

    def take(self) -> int | None:
        """Return how many rows were left out before this one; None when it is left out, too."""
        now_s = self._clock.monotonic()
        with self._lock:
            self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
            self._at_s = now_s
            if self._left < 1:
                self._suppressed += 1
                return None
            self._left -= 1
            suppressed, self._suppressed = self._suppressed, 0
            return suppressed


def find_network(address: str) -> str:
    """Give what one caller commands: the address, or the /64 of an IPv6 address.

    >>> find_network("2001:db8::1:2"), find_network("203.0.113.9")
    ('2001:db8::/64', '203.0.113.9')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed)
