"""Times of the reference graphs on the machine that builds, once a process, threads and plan.

They are what makes a latency measured here mean something on a device: the server scales by the
ratio of the two machines (``device_profiles/calibration.py``).
"""

import time
from functools import cache, partial

import onnxruntime

from converters.request import MeasurementPlan
from device_profiles.calibration import Calibration
from device_profiles.reference_session import load_graph
from device_profiles.reference_suite import ROUNDS, measure_suite

ROUND_S_MAX = 0.005
"""Half of what a device takes: a build must not wait for it."""


@cache
def measure_here(threads: int, plan: MeasurementPlan) -> Calibration:
    """Time the reference graphs, once; about 0.3 s of work, less for a plan of less.

    Args:
        threads: Of one request.
        plan: Of the build: its rounds and their length are the most that is spent here.
    """
    return measure_suite(
        partial(load_graph, threads),
        time.perf_counter,
        onnxruntime=str(onnxruntime.__version__),
        threads=threads,
        rounds=min(ROUNDS, plan.rounds),
        round_s=min(ROUND_S_MAX, plan.round_s),
    )
