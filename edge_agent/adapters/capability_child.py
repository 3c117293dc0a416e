"""The child of the capability probe: prints what the runtime is, or dies of it."""

import contextlib
import json
import resource
import signal
import sys
from pathlib import Path

from edge_agent.adapters.capability_probe import TIMEOUTS_S, find_runtime_facts
from edge_agent.adapters.execution_providers import ProviderWish
from edge_agent.adapters.files import tell_kernel

LATE_S = 5


def main() -> int:
    """Print the facts as one line of JSON; the argument is the wanted execution providers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not handled on purpose: the default action ends even a process stuck in native code.
    signal.alarm(int(max(TIMEOUTS_S)) + LATE_S)
    with contextlib.suppress(OSError):  # not Linux, or not allowed: a courtesy, not a guard
        tell_kernel(Path("/proc/self/oom_score_adj"), "1000")
    wish = ProviderWish.from_json(json.loads(sys.argv[1])) if sys.argv[1:] else ProviderWish()
    sys.stdout.write(json.dumps(find_runtime_facts(wish)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
