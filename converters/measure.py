"""Time graphs against each other: interleaved rounds, one row a call, the profile's threads.

The machine is shared and drifts, so rungs are compared round by round (``criteria.py``): the rounds
of one graph are the draws its interval comes from.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.criteria import Interval, find_median
from converters.request import MeasurementPlan
from converters.runtime import GraphRunner

Array = NDArray[Any]
ROWS_TIMED_MAX = 64
WARM_UP_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One row, one call, and what comes before the graph.

    Attributes:
        p50_ms: Median over rounds of the round's median.
        p95_ms: Median over rounds of the round's 95th percentile.
        ratio: p50 divided by the first graph's p50 of the same round, over the rounds.
        rounds_ms: The median of each round.
        runs: Calls a round.
    """

    p50_ms: float
    p95_ms: float
    ratio: Interval
    rounds_ms: Array
    runs: int


def measure_latencies(
    runners: Mapping[str, GraphRunner], rows: Array, plan: MeasurementPlan
) -> dict[str, Latency]:
    """Time every graph; the first one is the base of the ratios.

    Args:
        runners: Loaded graphs by name.
        rows: Rows to feed one by one, float32 [N, width].
        plan: Rounds and their length.
    """
    calls = {name: runner.bind(rows[:ROWS_TIMED_MAX]) for name, runner in runners.items()}
    runs = {name: _plan_runs(own, plan) for name, own in calls.items()}
    p50s: dict[str, list[float]] = {name: [] for name in runners}
    p95s: dict[str, list[float]] = {name: [] for name in runners}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(plan.rounds):
            for name, own in calls.items():
                times = _time_calls(own, runs[name])
                p50s[name].append(float(np.percentile(times, 50)) + plan.front_ms_p50)
                p95s[name].append(float(np.percentile(times, 95)) + plan.front_ms_p95)
    finally:
        if was_enabled:
            gc.enable()
    base = np.array(next(iter(p50s.values())))
    return {
        name: _summarise(np.array(p50s[name]), np.array(p95s[name]), base, runs[name])
        for name in runners
    }


def _summarise(p50s: Array, p95s: Array, base: Array, runs: int) -> Latency:
    return Latency(
        p50_ms=float(np.median(p50s)),
        p95_ms=float(np.median(p95s)),
        ratio=find_median(p50s / base),
        rounds_ms=p50s,
        runs=runs,
    )


def _plan_runs(calls: list[Callable[[], object]], plan: MeasurementPlan) -> int:
    """Warm up and choose how many calls fit into a round."""
    once_s = float(np.median(_time_calls(calls, WARM_UP_RUNS))) / 1e3
    return int(min(plan.runs_max, max(WARM_UP_RUNS, plan.round_s / max(once_s, 1e-9))))


def _time_calls(calls: list[Callable[[], object]], runs: int) -> Array:
    """Call in turn and give milliseconds of each."""
    times = np.empty(runs)
    clock = time.perf_counter_ns
    count = len(calls)
    for position in range(runs):
        call = calls[position % count]
        started = clock()
        call()
        times[position] = clock() - started
    milliseconds: Array = times / 1e6
    return milliseconds
