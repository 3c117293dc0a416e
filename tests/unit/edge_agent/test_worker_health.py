"""When the process that serves must be ended, and when it is started again."""

from dataclasses import replace

import pytest

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.core.worker_health import (
    STABLE_S,
    WAIT_CAP_S,
    WorkerLimits,
    WorkerSight,
    count_failures,
    find_fault,
    restart_wait_s,
)

LIMITS = WorkerLimits(rss_bytes_max=100 * 2**20)
WELL = WorkerSight(
    silent_s=0.0, is_loading=False, request_s=0.0, rss_bytes=(50 * 2**20,) * 3, slots=1
)
OVER = 100 * 2**20 + 1


@pytest.mark.parametrize(
    "sight",
    [
        WELL,
        replace(WELL, silent_s=10.0),
        replace(WELL, silent_s=60.0, is_loading=True),
        replace(WELL, request_s=30.0),
        replace(WELL, rss_bytes=()),
        replace(WELL, rss_bytes=(OVER, OVER)),
        replace(WELL, rss_bytes=(OVER, OVER, OVER - 1)),
        replace(WELL, rss_bytes=(OVER, OVER - 1, OVER)),
        replace(WELL, rss_bytes=(2 * OVER - 2,) * 3, slots=2),
        replace(WELL, slots=0),
    ],
)
def test_up_to_its_limits_it_is_left_alone(sight: WorkerSight) -> None:
    assert find_fault(sight, LIMITS) is None


@pytest.mark.parametrize(
    ("sight", "code", "words"),
    [
        (replace(WELL, silent_s=10.1), Code.PROBATION_HANG, "said nothing for 10 s"),
        (
            replace(WELL, silent_s=60.1, is_loading=True),
            Code.PROBATION_HANG,
            "said nothing for 60 s",
        ),
        (replace(WELL, request_s=30.1), Code.PROBATION_HANG, "not answered in 30 s"),
        (replace(WELL, rss_bytes=(OVER,) * 3), Code.PROBATION_MEMORY, "100 MiB for 1 slots"),
        (replace(WELL, rss_bytes=(OVER,) * 3, slots=0), Code.PROBATION_MEMORY, "100 MiB"),
        (replace(WELL, rss_bytes=(1, OVER, OVER, OVER)), Code.PROBATION_MEMORY, "100 MiB"),
    ],
)
def test_past_a_limit_it_is_ended_and_the_reason_says_which(
    sight: WorkerSight, code: Code, words: str
) -> None:
    fault = find_fault(sight, LIMITS)
    assert fault is not None
    assert fault.code is code
    assert words in fault.detail
    assert class_of(fault.code) is FailureClass.BROKEN_HERE


def test_a_worker_that_lived_long_fails_for_the_first_time() -> None:
    assert count_failures(7, STABLE_S - 0.1) == 8
    assert count_failures(7, STABLE_S) == 1


def test_waits_grow_to_a_cap_and_the_first_is_none() -> None:
    waits = [restart_wait_s(failures) for failures in range(1, 40)]
    assert waits[:3] == [0.0, 1.0, 2.0]
    assert waits == sorted(waits)
    assert waits[-1] == WAIT_CAP_S
