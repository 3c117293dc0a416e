"""How many devices a bad release reaches, and how often a good one is stopped: the gate itself,
looked at after every report, on seeded stages. A device that fails says so in seconds, one that
holds after its probation."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest

from fleet_server.core.rollout_gate import Settled, StageCounts, Verdict, judge_stage
from fleet_server.core.rollout_limits import AUTO_IN_FLIGHT, GatePolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNS = 600
SEED = 20_260_101
FAILS_AFTER_S, HOLDS_AFTER_S = 5.0, 300.0


@dataclass(frozen=True)
class Tally:
    """Shares of the runs by how they ended, and the mean number of devices offered at a halt."""

    halted: float
    passed: float
    inconclusive: float
    exposed_mean: float


def play(
    size: int, failure_rate: float, runs: int = RUNS, in_flight_max: int = AUTO_IN_FLIGHT
) -> Tally:
    rng = np.random.default_rng(SEED)
    ends = [
        play_once((rng.random(size) < failure_rate).tolist(), in_flight_max) for _ in range(runs)
    ]
    exposed = [offered for verdict, offered in ends if verdict is Verdict.HALT]
    share = {v: sum(1 for verdict, _ in ends if verdict is v) / runs for v in Verdict}
    return Tally(
        halted=share[Verdict.HALT],
        passed=share[Verdict.ADVANCE],
        inconclusive=share[Verdict.INCONCLUSIVE],
        exposed_mean=float(np.mean(exposed)) if exposed else 0.0,
    )


def play_once(failures: Sequence[bool], in_flight_max: int) -> tuple[Verdict, int]:
    """Offer in order, so many at once until the stage has passed; judge each report.

    Returns:
        The last verdict, and how many devices were offered by then.
    """
    settled: Settled | None = None
    size, failed, confirmed, offered = len(failures), 0, 0, 0
    verdict, now_s = Verdict.WAIT, 0.0
    reports: list[tuple[float, int, bool]] = []
    while failed + confirmed < size and verdict is not Verdict.HALT:
        room = in_flight_max if settled is None else max(in_flight_max, confirmed)
        while offered < size and len(reports) < room:
            is_failure = failures[offered]
            lasts_s = FAILS_AFTER_S if is_failure else HOLDS_AFTER_S
            heapq.heappush(reports, (now_s + lasts_s, offered, is_failure))
            offered += 1
        now_s, _, is_failure = heapq.heappop(reports)
        failed, confirmed = failed + is_failure, confirmed + (not is_failure)
        counts = StageCounts(
            targeted=size, confirmed=confirmed, failed=failed, in_flight=len(reports)
        )
        found = judge_stage(counts, GatePolicy(), settled, now=NOW)
        verdict, settled = found.verdict, found.settled
    return verdict, offered


def test_a_bad_release_reaches_at_most_forty_of_a_stage_of_a_hundred() -> None:
    bad = play(100, 0.10)
    assert bad.exposed_mean <= 40
    assert bad.halted >= 0.90
    assert bad.passed <= 0.05


@pytest.mark.parametrize("in_flight_max", [AUTO_IN_FLIGHT, 25, 100])
def test_a_good_release_is_rarely_stopped_however_many_are_in_flight(in_flight_max: int) -> None:
    good = play(100, 0.02, 300, in_flight_max)
    assert good.halted <= 0.05
    assert good.passed >= 0.85


def test_a_release_that_fails_everywhere_is_stopped_long_before_any_device_could_hold() -> None:
    broken = play(1_000, 1.0, 1, in_flight_max=1_000)
    assert broken.halted == 1
    found = judge_stage(
        StageCounts(targeted=1_000, confirmed=0, failed=70, in_flight=930),
        GatePolicy(),
        None,
        now=NOW,
    )
    assert found.verdict is Verdict.HALT


@pytest.mark.parametrize("size", [2, 6, 12, 20, 40])
def test_small_stages_stop_what_is_broken_and_pass_what_is_sound(size: int) -> None:
    broken, sound = play(size, 0.6, 400), play(size, 0.005, 400)
    assert broken.passed <= (0.4**size) + 0.02
    assert broken.halted + broken.inconclusive >= 1 - (0.4**size) - 0.02
    assert sound.halted <= 0.05
    assert sound.passed >= 0.80
