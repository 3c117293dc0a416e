"""The child that measures the reference graphs: ``… calibration_child THREADS`` prints JSON."""

import json
import resource
import signal
import sys
import time
from functools import partial

import onnxruntime

from device_profiles.reference_session import load_graph
from device_profiles.reference_suite import measure_suite
from edge_agent.adapters.calibration_file import TIMEOUT_S

LATE_S = 5


def main() -> int:
    """Measure and print the figures as one line of JSON."""
    threads = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not handled on purpose: the default action ends even a process stuck in native code.
    signal.alarm(int(TIMEOUT_S) + LATE_S)
    found = measure_suite(
        partial(load_graph, threads),
        time.perf_counter,
        onnxruntime=str(onnxruntime.__version__),
        threads=threads,
    )
    sys.stdout.write(json.dumps(found.to_json()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
