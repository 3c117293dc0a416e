"""The rollout's states: the laws of the table."""

import pytest

from fleet_server.core.rollout_machine import (
    ACTIVE,
    FINAL,
    TABLE,
    RolloutEffect,
    RolloutEvent,
    RolloutState,
    TransitionError,
    step,
)

S, E, F = RolloutState, RolloutEvent, RolloutEffect


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([E.START, E.STAGE_PASSED, E.LAST_STAGE_PASSED], S.COMPLETED),
        ([E.START, E.PAUSE, E.RESUME], S.RUNNING),
        ([E.START, E.HALT, E.ROLL_BACK, E.ALL_RETURNED], S.ROLLED_BACK),
        ([E.START, E.PAUSE, E.HALT], S.HALTED),
        ([E.START, E.PAUSE, E.ABORT], S.ABORTED),
        ([E.ABORT], S.ABORTED),
        ([E.START, E.LAST_STAGE_PASSED, E.ROLL_BACK], S.ROLLING_BACK),
    ],
)
def test_walks(events: list[RolloutEvent], state: RolloutState) -> None:
    reached = S.DRAFT
    for event in events:
        reached, _ = step(reached, event)
    assert reached is state


def test_refuses_what_a_state_does_not_know_and_says_what_it_does() -> None:
    with pytest.raises(
        TransitionError, match="that is halted cannot resume; it can: abort, roll b"
    ):
        step(S.HALTED, E.RESUME)
    with pytest.raises(TransitionError, match="it is over"):
        step(S.ABORTED, E.ABORT)


def test_every_state_can_be_reached_and_can_end() -> None:
    reached = {S.DRAFT}
    while more := {to for (at, _), (to, _) in TABLE.items() if at in reached} - reached:
        reached |= more
    assert reached == set(S)
    ends = set(FINAL)
    while more := {at for (at, _), (to, _) in TABLE.items() if to in ends} - ends:
        ends |= more
    assert ends == set(S)


def test_only_a_finish_ends_and_every_end_is_a_finish() -> None:
    for (at, event), (to, effects) in TABLE.items():
        assert (F.FINISH in effects) == (to in FINAL), (at, event)


def test_only_running_opens_stages_and_whoever_ran_can_be_stopped() -> None:
    for to, effects in TABLE.values():
        assert F.OPEN_STAGE not in effects or to is S.RUNNING
    for state in ACTIVE - {S.ROLLING_BACK}:
        assert {E.ABORT, E.ROLL_BACK, E.HALT} <= {event for at, event in TABLE if at is state}
