"""Each member of a family is judged by itself: the bad one is found, good ones hardly ever."""

import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet_server.core.member_gate import (
    MIXTURE,
    MemberCounts,
    MemberTest,
    find_bad_members,
    weigh_member,
)

GOAL = 0.02
Counts = NDArray[np.int64]


@cache
def evidence_table(most: int, goal: float = GOAL) -> NDArray[np.float64]:
    """Evidence by finished and failed; where more failed than finished, none."""
    table = np.full((most + 1, most + 1), -np.inf)
    for finished in range(most + 1):
        for failed in range(finished + 1):
            counts = MemberCounts(finished=finished, failed=failed)
            table[finished, failed] = weigh_member(counts, goal)
    return table


def is_ever_out(random: np.random.Generator, sizes: Counts, rate: float) -> NDArray[np.bool_]:
    """Simulate members of these sizes, each looked at after every device."""
    most = int(sizes.max())
    fails = random.random((len(sizes), most)) < rate
    failed = np.cumsum(fails, axis=1)
    seen = evidence_table(most)[np.arange(1, most + 1), failed]
    is_there = np.arange(most) < sizes[:, None]
    highest: NDArray[np.float64] = np.where(is_there, seen, -np.inf).max(axis=1)
    return highest >= MemberTest(members=len(sizes)).halt_at


@pytest.mark.parametrize("rate", [0.005, GOAL])
def test_any_good_member_is_taken_out_in_at_most_a_twentieth_of_rollouts(rate: float) -> None:
    random = np.random.default_rng(4)
    sizes = random.integers(1, 40, 200)
    rollouts = 200
    false_alarms = sum(bool(is_ever_out(random, sizes, rate).any()) for _ in range(rollouts))
    assert false_alarms / rollouts <= 0.05


def test_failures_that_come_before_any_confirmation_condemn_no_good_member() -> None:
    random = np.random.default_rng(6)
    devices, members, rollouts = 20, 1_000, 40
    test = MemberTest(members=members)
    false_alarms = 0
    for failed in random.binomial(devices, GOAL, (rollouts, members)):
        counts = {
            str(number): MemberCounts(finished=count, failed=count, in_flight=devices - count)
            for number, count in enumerate(failed.tolist())
        }
        false_alarms += bool(find_bad_members(counts, test, GOAL))
    assert false_alarms / rollouts <= 0.05


@pytest.mark.parametrize(
    ("devices", "rate", "found_min"),
    [(3, 1.0, 1.0), (8, 0.9, 0.95), (12, 0.5, 0.75), (40, 0.3, 0.9)],
)
def test_one_bad_member_in_a_thousand_is_found(devices: int, rate: float, found_min: float) -> None:
    random = np.random.default_rng(5)
    sizes = np.full(1_000, devices)
    trials = [is_ever_out(random, sizes[:1_000], rate).mean() for _ in range(2)]
    assert np.mean(trials) >= found_min, "each of the thousand is the bad one once"


def test_the_mixture_is_a_bet_that_starts_at_one() -> None:
    assert sum(weight for _, weight in MIXTURE) == pytest.approx(1.0)
    assert weigh_member(MemberCounts(finished=0, failed=0), GOAL) == pytest.approx(0.0)
    for finished in (1, 4):
        expected = sum(
            math.comb(finished, failed)
            * GOAL**failed
            * (1 - GOAL) ** (finished - failed)
            * math.exp(weigh_member(MemberCounts(finished=finished, failed=failed), GOAL))
            for failed in range(finished + 1)
        )
        assert expected == pytest.approx(1.0), "under the goal nobody gains on average"


def test_one_more_failure_is_never_kinder_and_one_more_success_never_harsher() -> None:
    table = evidence_table(30)
    for finished in range(1, 30):
        own = table[finished, : finished + 1]
        assert (np.diff(own) > 0).all()
        assert (table[finished + 1, : finished + 1] < own).all()


def test_the_worst_is_named_first_and_who_failed_nowhere_never() -> None:
    counts = {
        "line-a": MemberCounts(finished=4, failed=3),
        "line-b": MemberCounts(finished=5, failed=5),
        "line-c": MemberCounts(finished=400, failed=0),
        "line-d": MemberCounts(finished=2, failed=1),
    }
    assert find_bad_members(counts, MemberTest(members=4), GOAL) == ["line-b", "line-a"]
    assert find_bad_members(counts, MemberTest(members=30_000), GOAL) == ["line-b"]


def test_limits_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="got nan"):
        MemberTest(alpha=math.nan)
    with pytest.raises(ValueError, match="1 or more, got 0"):
        MemberTest(members=0)
    with pytest.raises(ValueError, match="failed 3 of finished 2"):
        MemberCounts(finished=2, failed=3)
    with pytest.raises(ValueError, match="got -1"):
        MemberCounts(finished=2, failed=1, in_flight=-1)
