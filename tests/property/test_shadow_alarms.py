"""How often a candidate that keeps the goal in shadow is stopped, looked at after every report."""

from datetime import UTC, datetime

import numpy as np
import pytest

from fleet_server.core.rollout_gate import Verdict
from fleet_server.core.shadow_gate import ShadowCounts, count_compared, judge_shadow
from fleet_server.core.shadow_limits import DisagreementTest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEST = DisagreementTest()
SEED = 20_260_101
LOOKS, ROWS = 8, 25


def play(devices: int, rate: float, likeness: float, runs: int = 300) -> dict[Verdict, float]:
    """Share of the runs by verdict: devices whose own rates scatter, ROWS more rows a look."""
    rng = np.random.default_rng(SEED)
    spread = 1 / likeness - 1
    ends = []
    for _ in range(runs):
        own = rng.beta(rate * spread, (1 - rate) * spread, devices)
        found = rng.binomial(ROWS, own[:, None], (devices, LOOKS)).cumsum(axis=1)
        ends.append(play_once(found))
    return {verdict: ends.count(verdict) / runs for verdict in Verdict}


def play_once(found: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> Verdict:
    settled, devices = None, len(found)
    verdict = Verdict.WAIT
    for look in range(LOOKS):
        compared = count_compared((ROWS * (look + 1), int(n)) for n in found[:, look])
        is_over = look == LOOKS - 1
        counts = ShadowCounts(
            compared=compared,
            through=devices if is_over else 0,
            to_come=0 if is_over else devices,
        )
        judged = judge_shadow(counts, TEST, settled, now=NOW)
        verdict, settled = judged.verdict, judged.settled
        if verdict is Verdict.HALT:
            break
    return verdict


@pytest.mark.parametrize("devices", [2, 10, 30])
@pytest.mark.parametrize("likeness", [0.01, 0.05])
def test_a_candidate_that_keeps_the_goal_is_rarely_stopped(devices: int, likeness: float) -> None:
    assert play(devices, TEST.goal, likeness)[Verdict.HALT] <= TEST.alpha * 1.2 + 0.02


@pytest.mark.parametrize("devices", [2, 10, 30])
def test_a_candidate_far_above_the_limit_is_stopped(devices: int) -> None:
    ends = play(devices, 0.3, 0.05)
    assert ends[Verdict.HALT] >= 0.9
    assert ends[Verdict.ADVANCE] <= 0.02
