"""The child that measures the reference graphs: ``… calibration_child THREADS`` prints JSON."""

import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime

from device_profiles.reference_suite import Feed, list_inputs, measure_suite
from edge_agent.adapters.calibration_file import TIMEOUT_S

LATE_S = 5
_LOG_FATAL = 4


def main() -> int:
    """Measure and print the figures as one line of JSON."""
    threads = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not handled on purpose: the default action ends even a process stuck in native code.
    signal.alarm(int(TIMEOUT_S) + LATE_S)
    found = measure_suite(
        partial(_load, threads),
        time.perf_counter,
        onnxruntime=str(onnxruntime.__version__),
        threads=threads,
    )
    sys.stdout.write(json.dumps(found.to_json()) + "\n")
    return 0


def _load(threads: int, model: bytes, feed: Feed) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = np.array(list_inputs(feed), np.float32).reshape(feed)
    return partial(session.run, None, {"x": rows})


if __name__ == "__main__":
    sys.exit(main())
