"""Builders and fakes of the agent: releases, a world in memory, a way to cut its power."""

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import Release

GOOD_STATS = ProbationStats(requests=100, rows=100, latency_ms_p95=1.0, output_shift=0.05)


def a_release(number: int, *, rollout: int = 0) -> Release:
    return Release(
        target=f"model/{number}/camera.tar",
        sha256=f"{number:064x}",
        size_bytes=200_000,
        chunks="c" * 64,
        schema="d" * 64,
        rollout=rollout,
        probation=ProbationPolicy(duration_s=60, rows_min=30, timeout_s=600),
    )
