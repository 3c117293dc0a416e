"""How many devices a bad release reaches, and how often a good one is stopped: the gate itself,
looked at after every report, on seeded stages."""

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


@dataclass(frozen=True)
class Tally:
    """Shares of the runs by how they ended, and the mean number of devices offered at a halt."""

    halted: float
    passed: float
    inconclusive: float
    exposed_mean: float


def play(size: int, failure_rate: float, runs: int = RUNS) -> Tally:
    rng = np.random.default_rng(SEED)
    ends = [play_once((rng.random(size) < failure_rate).tolist()) for _ in range(runs)]
    exposed = [offered for verdict, offered in ends if verdict is Verdict.HALT]
    share = {v: sum(1 for verdict, _ in ends if verdict is v) / runs for v in Verdict}
    return Tally(
        halted=share[Verdict.HALT],
        passed=share[Verdict.ADVANCE],
        inconclusive=share[Verdict.INCONCLUSIVE],
        exposed_mean=float(np.mean(exposed)) if exposed else 0.0,
    )


def play_once(failures: Sequence[bool]) -> tuple[Verdict, int]:
    """Let devices report one by one; AUTO_IN_FLIGHT are out at once until the stage has passed."""
    settled: Settled | None = None
    size, failed, verdict, offered = len(failures), 0, Verdict.WAIT, 0
    for finished, is_failure in enumerate(failures, start=1):
        in_flight = AUTO_IN_FLIGHT if settled is None else max(AUTO_IN_FLIGHT, finished)
        offered = max(offered, min(size, finished - 1 + in_flight))
        failed += is_failure
        counts = StageCounts(targeted=size, confirmed=finished - failed, failed=failed)
        found = judge_stage(counts, GatePolicy(), settled, now=NOW)
        verdict, settled = found.verdict, found.settled
        if verdict is Verdict.HALT:
            break
    return verdict, offered


def test_a_bad_release_reaches_at_most_forty_of_a_stage_of_a_hundred() -> None:
    bad = play(100, 0.10)
    assert bad.exposed_mean <= 40
    assert bad.halted >= 0.90
    assert bad.passed <= 0.05


def test_a_good_release_is_rarely_stopped() -> None:
    good = play(100, 0.02)
    assert good.halted <= 0.05
    assert good.passed >= 0.90


@pytest.mark.parametrize("size", [2, 6, 12, 20, 40])
def test_small_stages_stop_what_is_broken_and_pass_what_is_sound(size: int) -> None:
    broken, sound = play(size, 0.6, 400), play(size, 0.005, 400)
    assert broken.passed <= (0.4**size) + 0.02
    assert broken.halted + broken.inconclusive >= 1 - (0.4**size) - 0.02
    assert sound.halted <= 0.05
    assert sound.passed >= 0.80
