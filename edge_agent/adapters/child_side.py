"""What a long-lived child of the agent does to itself before anything else."""

import contextlib
import ctypes
import resource
import signal
from pathlib import Path

from edge_agent.adapters.files import tell_kernel

_PR_SET_PDEATHSIG = 1


def settle_as_child(*, oom_score: int) -> None:
    """End with the parent, leave no core file, and go before it when memory runs out.

    Args:
        oom_score: 0 to 1000; the higher, the earlier the kernel ends this process.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the closed channel ends it
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # not Linux, or not allowed: a courtesy, not a guard
        tell_kernel(Path("/proc/self/oom_score_adj"), str(oom_score))
