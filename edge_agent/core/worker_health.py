"""Judge the process that serves by what can be seen of it, and say when to start it again.

Pure: the caller brings the seconds and the bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.contract.codes import Code

STABLE_S = 60.0
"""A worker that lived this long has not failed at starting; the next failure is a first one."""
WAIT_BASE_S = 1.0
WAIT_CAP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What the process that serves may cost before it is ended.

    Attributes:
        rss_bytes_max: Resident memory for each slot that answers, of the device profile.
        turn_s: Longest time until it says how it does.
        load_s: The same while it starts or loads a model.
        request_s: Longest time for one request.
        rss_samples: So many looks in a row, a second apart, must find too much memory: what a
            large request takes for a moment is no leak.
    """

    rss_bytes_max: int
    turn_s: float = 10.0
    load_s: float = 60.0
    request_s: float = 30.0
    rss_samples: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSight:
    """What is seen of a worker.

    Attributes:
        silent_s: Since it was asked something it has not answered.
        is_loading: It starts, or was told to load a model.
        request_s: Age of the oldest request it is answering.
        rss_bytes: The newest looks at its memory, oldest first.
        slots: Slots that are to answer.
    """

    silent_s: float
    is_loading: bool
    request_s: float
    rss_bytes: Sequence[int]
    slots: int


@dataclass(frozen=True, slots=True)
class WorkerFault:
    """Why a worker was, or must be, ended: a code of a failed probation, and a sentence."""

    code: Code
    detail: str


def find_fault(sight: WorkerSight, limits: WorkerLimits) -> WorkerFault | None:
    """Tell whether a worker must be ended.

    >>> sight = WorkerSight(silent_s=11, is_loading=False, request_s=0, rss_bytes=(), slots=1)
    >>> find_fault(sight, WorkerLimits(rss_bytes_max=2**27)).code
    <Code.PROBATION_HANG: 'probation-hang'>
    """
    silent_s_max = limits.load_s if sight.is_loading else limits.turn_s
    if sight.silent_s > silent_s_max:
        return WorkerFault(
            Code.PROBATION_HANG,
            f"the process that serves said nothing for {silent_s_max:.0f} s",
        )
    if sight.request_s > limits.request_s:
        return WorkerFault(
            Code.PROBATION_HANG, f"a request was not answered in {limits.request_s:.0f} s"
        )
    bytes_max = limits.rss_bytes_max * max(1, sight.slots)
    newest = sight.rss_bytes[-limits.rss_samples :]
    if len(newest) == limits.rss_samples and min(newest) > bytes_max:
        return WorkerFault(
            Code.PROBATION_MEMORY,
            f"the process that serves holds {newest[-1] / 2**20:.0f} MiB of memory,"
            f" the profile allows {bytes_max / 2**20:.0f} MiB for {max(1, sight.slots)} slots",
        )
    return None


def count_failures(failures: int, lived_s: float) -> int:
    """Return the failures in a row, the one after ``lived_s`` included.

    >>> count_failures(4, 2.0), count_failures(4, 61.0)
    (5, 1)
    """
    return 1 if lived_s >= STABLE_S else failures + 1


def restart_wait_s(failures: int) -> float:
    """Return how long to wait before the next start, seconds; the first failure costs none.

    >>> [restart_wait_s(n) for n in (0, 1, 2, 3, 99)]
    [0.0, 0.0, 1.0, 2.0, 30.0]
    """
    if failures < 2:
        return 0.0
    return min(WAIT_CAP_S, WAIT_BASE_S * 2.0 ** min(failures - 2, 16))
