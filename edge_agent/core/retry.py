"""How long to wait before trying again: full jitter, with a back-off a flapping link cannot reset.

Randomness comes in as ``jitter``, a number in [0, 1).
"""

from dataclasses import dataclass, replace

RECONNECT_BASE_S = 1.0
RECONNECT_CAP_S = 300.0
SLOW_RECONNECT_S = 120.0
"""Before the next try after the broker said that this identity is not welcome."""
STABLE_SESSION_S = 60.0
"""A session must stand this long before the back-off starts anew."""
SPREAD_S_MAX = 3_600.0


def full_jitter_s(tries: int, *, base_s: float, cap_s: float, jitter: float) -> float:
    """Return a wait between 0 and ``min(cap_s, base_s * 2**tries)`` seconds.

    Args:
        tries: Failures so far, 0 and up.
        base_s: Longest first wait.
        cap_s: Longest wait ever.
        jitter: In [0, 1).

    >>> full_jitter_s(3, base_s=1, cap_s=300, jitter=0.5)
    4.0
    """
    return jitter * min(cap_s, base_s * 2.0 ** min(tries, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnection:
    """What the next wait depends on.

    Attributes:
        failures: Sessions in a row that failed or broke before they were stable.
        connected_at: Monotonic instant of the standing session, None without one.
        spread_s: The first reconnect after a stable session waits up to this long.
    """

    failures: int = 0
    connected_at: float | None = None
    spread_s: float = 10.0


def note_connected(state: Reconnection, *, now: float) -> Reconnection:
    """Record that a session stands."""
    return replace(state, connected_at=now)


def plan_reconnect(
    state: Reconnection, *, now: float, jitter: float, is_unwelcome: bool = False
) -> tuple[Reconnection, float]:
    """Record that a session ended or never began; return the state and the wait in seconds.

    >>> plan_reconnect(Reconnection(connected_at=0), now=100, jitter=0.5)[1]
    5.0
    """
    was_stable = state.connected_at is not None and now - state.connected_at >= STABLE_SESSION_S
    if was_stable:
        wait_s = jitter * state.spread_s
    else:
        wait_s = full_jitter_s(
            state.failures, base_s=RECONNECT_BASE_S, cap_s=RECONNECT_CAP_S, jitter=jitter
        )
    if is_unwelcome:
        wait_s = SLOW_RECONNECT_S * (1 + jitter)
    failures = 0 if was_stable else state.failures + 1
    return replace(state, failures=failures, connected_at=None), wait_s
