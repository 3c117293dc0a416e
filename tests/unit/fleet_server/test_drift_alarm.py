from collections.abc import Sequence

import numpy as np
import pytest

from fleet_server.core.drift_alarm import (
    AlarmEvent,
    AlarmMemory,
    AlarmState,
    Look,
    step_alarm,
)

W = 60_000


def walk(looks: Sequence[Look]) -> tuple[AlarmMemory | None, list[str]]:
    memory, events = None, []
    for look in looks:
        memory, event = step_alarm(memory, look)
        events.append(str(event))
    return memory, events


def look(
    step: float, windows: int = 0, *, quiet: bool | None = False, folded: bool = False
) -> Look:
    return Look(
        newest_ms=int(step * W),
        window_ms=W,
        case_windows=windows,
        is_confirmed=windows >= 4,
        is_quiet=quiet,
        is_folded=folded,
    )


def quiet(step: float) -> Look:
    return look(step, quiet=True)


@pytest.mark.parametrize(
    ("looks", "events", "state"),
    [
        ([quiet(1)], ["none"], None),
        ([look(1, 4)], ["opened"], "open"),
        ([look(1, 64)], ["opened"], "open"),
        ([look(1, 1)], ["none"], "pending"),
        ([look(1, 1), look(2, 1)], ["none", "opened"], "open"),
        ([look(1, 1), look(2), look(3, 1)], ["none", "none", "opened"], "open"),
        ([look(1, 1), look(2), look(3), look(4)], ["none"] * 3 + ["dropped"], None),
        ([look(1, 1), look(1, 1), look(1.9, 1)], ["none"] * 3, "pending"),
        ([look(1, 1), look(1.5, 4)], ["none", "opened"], "open"),
        ([look(1, 4), quiet(2)], ["opened", "none"], "closing"),
        (
            [look(1, 4), quiet(2), quiet(3), quiet(4)],
            ["opened", "none", "none", "closed"],
            "closed",
        ),
        (
            [look(1, 4), quiet(2), quiet(2), quiet(2), quiet(2)],
            ["opened"] + ["none"] * 4,
            "closing",
        ),
        ([look(1, 4), quiet(2), look(3), quiet(4), quiet(5)], ["opened"] + ["none"] * 4, "closing"),
        (
            [look(1, 4), *[look(k, quiet=None) for k in range(2, 9)]],
            ["opened"] + ["none"] * 7,
            "open",
        ),
        ([look(1, 4, folded=True)], ["none"], None),
        ([look(1, 4), look(2, folded=True)], ["opened", "folded"], "closed"),
        ([look(1, 1), look(2, folded=True)], ["none", "dropped"], None),
    ],
)
def test_the_table_of_states(looks: list[Look], events: list[str], state: str | None) -> None:
    memory, seen = walk(looks)
    assert seen == events
    assert (None if memory is None else str(memory.state)) == state


def test_an_alarm_seen_over_many_windows_needs_as_long_a_quiet() -> None:
    memory, events = walk([look(0, 64), *[quiet(k) for k in range(1, 17)]])
    assert events == ["opened"] + ["none"] * 15 + ["closed"]
    assert memory is not None
    assert memory.quiet_since_ms == (1 - 4) * W


def test_a_quiet_alarm_closes_although_long_sums_still_show_the_shift() -> None:
    looks = [look(0, 4), *[look(k, 64, quiet=True) for k in range(1, 4)]]
    assert walk(looks)[1][-1] == str(AlarmEvent.CLOSED)


def test_a_shift_right_at_the_threshold_does_not_flap() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        looks = []
        for step in range(200):
            crosses = rng.random() < 0.5
            # What only just crosses is never quiet: the floor to close is far below.
            looks.append(look(step, int(rng.choice([1, 4, 16])) if crosses else 0))
        events = [e for e in walk(looks)[1] if e != "none"]
        assert events.count("opened") == 1
        assert "closed" not in events


def test_a_memory_survives_its_encoding() -> None:
    memory = AlarmMemory(state=AlarmState.CLOSING, stepped_ms=5, quiet_steps=2, quiet_since_ms=3)
    assert AlarmMemory.from_json(memory.to_json()) == memory
