"""The child of the self-test: ``python -m edge_agent.adapters.self_test_child REQUEST``.

It limits itself before it touches the package: memory (so that an allocation fails here and not
in the agent), output size, time (should its parent die). It volunteers to be killed first when
the device's memory runs out.
"""

import contextlib
import math
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_agent.adapters.execution_providers import ProviderWish
from edge_agent.adapters.files import tell_kernel
from edge_agent.adapters.self_test import encode_result
from edge_agent.contract.codes import Code
from edge_agent.contract.fields import Fields, parse_object
from edge_agent.ports import SelfTestLimits, SelfTestResult

REQUEST_BYTES_MAX = 16_384
MEMORY_HEADROOM_BYTES = 536_870_912
"""Mapped but untouched memory (thread stacks, arenas) counts in the limit and not in the RSS."""
OUTPUT_BYTES_MAX = 1_048_576
LATE_S = 5


def main() -> int:
    """Test what the one argument says and print the finding."""
    what = "self-test request"
    fields = Fields(
        parse_object(sys.argv[1].encode(), what=what, limit_bytes=REQUEST_BYTES_MAX), what=what
    )
    limits = SelfTestLimits(
        latency_ms_p95_max=fields.number("latency_ms_p95_max"),
        rss_bytes_max=fields.integer("rss_bytes_max"),
        timeout_s=fields.number("timeout_s"),
    )
    path = Path(fields.text("path", chars_max=4_096))
    sha256, threads = fields.text("sha256"), fields.integer("threads", low=1, high=1_024)
    providers = fields.optional("providers")
    _limit_myself(limits)
    result = _test(path, sha256, limits, threads, providers)
    sys.stdout.buffer.write(encode_result(result) + b"\n")
    sys.stdout.flush()
    return 0


def _test(
    path: Path, sha256: str, limits: SelfTestLimits, threads: int, providers: Any
) -> SelfTestResult:
    from edge_agent.adapters.package_check import check_package  # loads numpy: limits first

    wish = ProviderWish.from_json(providers) if providers else ProviderWish()
    try:
        result = check_package(path.read_bytes(), sha256, limits, threads, wish)
    except OSError as error:
        return SelfTestResult(ok=False, code=Code.DISK_ERROR, detail=f"{path}: {error}")
    except MemoryError:
        result = SelfTestResult(
            ok=False, code=Code.SELFTEST_MEMORY, detail="memory ran out in the self-test"
        )
    rss_bytes = _peak_bytes()
    if result.ok and rss_bytes > limits.rss_bytes_max:
        return SelfTestResult(
            ok=False,
            code=Code.SELFTEST_MEMORY,
            detail=f"{rss_bytes / 2**20:.0f} MiB of memory, the profile allows"
            f" {limits.rss_bytes_max / 2**20:.0f} MiB",
            latency_ms_p95=result.latency_ms_p95,
            rss_bytes=rss_bytes,
        )
    return replace(result, rss_bytes=rss_bytes)


def _limit_myself(limits: SelfTestLimits) -> None:
    _lower(resource.RLIMIT_DATA, limits.rss_bytes_max + MEMORY_HEADROOM_BYTES)
    _lower(resource.RLIMIT_FSIZE, OUTPUT_BYTES_MAX)
    _lower(resource.RLIMIT_CORE, 0)
    # Not handled on purpose: the default action ends even a process stuck in native code.
    signal.alarm(math.ceil(limits.timeout_s) + LATE_S)
    with contextlib.suppress(OSError):  # not Linux, or not allowed: a courtesy, not a guard
        tell_kernel(Path("/proc/self/oom_score_adj"), "1000")


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _peak_bytes() -> int:
    """Give the most memory this program had: the kernel's own maximum counts its parent's, too."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) * 1024


if __name__ == "__main__":
    sys.exit(main())
