"""Times of the reference graphs on the machine that builds, once a process, threads and plan.

They are what makes a latency measured here mean something on a device: the server scales by the
ratio of the two machines (``device_profiles/calibration.py``).
"""

import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import onnxruntime

from converters.request import MeasurementPlan
from device_profiles.calibration import Calibration
from device_profiles.reference_suite import ROUNDS, Feed, list_inputs, measure_suite

ROUND_S_MAX = 0.005
"""Half of what a device takes: a build must not wait for it."""
_LOG_FATAL = 4


@cache
def measure_here(threads: int, plan: MeasurementPlan) -> Calibration:
    """Time the reference graphs, once; about 0.3 s of work, less for a plan of less.

    Args:
        threads: Of one request.
        plan: Of the build: its rounds and their length are the most that is spent here.
    """
    return measure_suite(
        partial(_load, threads),
        time.perf_counter,
        onnxruntime=str(onnxruntime.__version__),
        threads=threads,
        rounds=min(ROUNDS, plan.rounds),
        round_s=min(ROUND_S_MAX, plan.round_s),
    )


def _load(threads: int, model: bytes, feed: Feed) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = np.array(list_inputs(feed), np.float32).reshape(feed)
    return partial(session.run, None, {"x": rows})
