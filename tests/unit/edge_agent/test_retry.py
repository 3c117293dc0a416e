"""Waits between tries: full jitter, a cap, and a back-off that only a stable session resets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.retry import (
    RECONNECT_CAP_S,
    SLOW_RECONNECT_S,
    Reconnection,
    full_jitter_s,
    note_connected,
    plan_reconnect,
)

ALMOST_ONE = 0.999999


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0, ALMOST_ONE))
def test_a_wait_is_never_negative_and_never_beyond_the_cap(tries: int, jitter: float) -> None:
    assert 0 <= full_jitter_s(tries, base_s=5, cap_s=900, jitter=jitter) <= 900


@pytest.mark.parametrize(("tries", "longest_s"), [(0, 5), (1, 10), (2, 20), (7, 640), (8, 900)])
def test_the_longest_wait_doubles_up_to_the_cap(tries: int, longest_s: float) -> None:
    assert full_jitter_s(tries, base_s=5, cap_s=900, jitter=1.0) == longest_s


def test_failures_in_a_row_wait_longer_and_longer() -> None:
    state, longest = Reconnection(), []
    for _ in range(12):
        state, wait_s = plan_reconnect(state, now=0, jitter=1.0)
        longest.append(wait_s)
    assert longest[:4] == [1, 2, 4, 8]
    assert longest[-1] == RECONNECT_CAP_S


def test_a_session_of_less_than_a_minute_does_not_reset_the_back_off() -> None:
    state = note_connected(Reconnection(failures=4), now=100)
    state, wait_s = plan_reconnect(state, now=159.9, jitter=1.0)
    assert wait_s == 16
    assert state.failures == 5


def test_a_stable_session_resets_it_and_the_next_wait_is_the_spread() -> None:
    state = note_connected(Reconnection(failures=4, spread_s=50), now=100)
    state, wait_s = plan_reconnect(state, now=160, jitter=0.5)
    assert wait_s == 25
    assert state.failures == 0
    assert state.connected_at is None


def test_an_unwelcome_identity_comes_back_slowly() -> None:
    _, wait_s = plan_reconnect(Reconnection(), now=0, jitter=0.0, is_unwelcome=True)
    assert wait_s == SLOW_RECONNECT_S
