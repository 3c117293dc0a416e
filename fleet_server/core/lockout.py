"""How long a name or an address that failed to log in must wait. Pure.

The wait doubles with every failure beyond the free ones, up to a limit that a person who was
locked out by somebody else can sit out.
"""

from dataclasses import dataclass

TRIES_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutPolicy:
    """When waiting starts and how it grows.

    Attributes:
        free_tries: Failures in a row without a wait, 1 or more.
        lock_s_min: The first wait, seconds above 0.
        lock_s_max: The longest wait.
    """

    free_tries: int
    lock_s_min: float
    lock_s_max: float

    def find_lock_s(self, failures: int) -> float:
        """Give the seconds to wait after so many failures in a row.

        >>> [PER_NAME.find_lock_s(n) for n in (4, 5, 6, 10, 11)]
        [0.0, 30.0, 60.0, 900.0, 900.0]
        """
        beyond = failures - self.free_tries
        if beyond < 0:
            return 0.0
        if beyond >= 32:
            return self.lock_s_max
        return min(self.lock_s_max, self.lock_s_min * float(2**beyond))


PER_NAME = LockoutPolicy(free_tries=5, lock_s_min=30.0, lock_s_max=900.0)
"""At most 5 guesses at once, then 4 an hour: 35,000 a year against one name."""
PER_ADDRESS = LockoutPolicy(free_tries=20, lock_s_min=5.0, lock_s_max=300.0)
"""Wider than per name: a whole office may come from one address."""
