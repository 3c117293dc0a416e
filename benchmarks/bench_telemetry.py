"""What telemetry costs a device: ``make bench NAME=telemetry``.

A row of 20 features at batch 1: from ``record`` to counted in the window, answers remembered for
late labels included, beside a bare ``tobytes`` of the same arrays, which is its floor: on a busy
machine both grow, their ratio does not. The bytes of its windows on the wire. How long a full
outbox of 8 MiB takes to make room. Times are of the processor, the least of many slices: what
other programs take away is none of telemetry's cost. The same row where rows are sampled for
retraining: hardly any, which is what a row passed over costs; and one of a hundred and every
uncertain one, those that are taken included.
"""

import argparse
import itertools
import json
import random
import sys
import time

import numpy as np

from benchmarks.bench_predict import build_lr20
from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.recent_answers import RecentAnswers
from edge_agent.adapters.row_sampler import RowPool, RowSampler
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.telemetry_recorder import TelemetryRecorder, WindowLimits
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.windows import Window, encoded_size
from edge_agent.row_settings import RowSettings

ROW_US_GOAL = 2.0
ROW_RATIO_GOAL = 5.5
PASSED_RATIO_GOAL, SAMPLED_RATIO_GOAL = 1.1, 1.5
WINDOW_BYTES_GOAL = 600.0
ROOM_MS_GOAL = 1_000.0
WINDOW_ROWS = 10_000


def main() -> int:
    """Measure and print; 0 when every goal is met."""
    parser = argparse.ArgumentParser(prog="make bench NAME=telemetry", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    rows = parser.parse_args().rows
    windows: list[Window] = []
    row_us, passed_us, sampled_us, floor_us = measure_row(rows, windows)
    sizes = [encoded_size(window) for window in windows]
    room_ms = measure_room(windows[0])
    figures = [
        ("telemetry.row_us", row_us, ROW_US_GOAL, {"floor": round(floor_us, 3)}),
        ("telemetry.row_ratio", row_us / floor_us, ROW_RATIO_GOAL, {}),
        ("telemetry.row_passed_over_ratio", passed_us / row_us, PASSED_RATIO_GOAL, {}),
        ("telemetry.row_sampled_ratio", sampled_us / row_us, SAMPLED_RATIO_GOAL, {}),
        ("telemetry.window_bytes", float(np.median(sizes)), WINDOW_BYTES_GOAL, {}),
        ("telemetry.room_ms", room_ms, ROOM_MS_GOAL, {}),
    ]
    for name, value, goal, more in figures:
        line = {"name": name, "value": round(value, 3), "goal": goal, "ok": value <= goal}
        print(json.dumps({**line, **more}))
    worst = max(figures, key=lambda figure: figure[1] / figure[2])
    ratio = worst[1] / worst[2]
    print(json.dumps({"name": "telemetry", "value": worst[1], "ratio": round(ratio, 3)}))
    return 0 if ratio <= 1 else 1


def make_sampler(model: LoadedModel, share: float, confidence_max: float) -> RowSampler | None:
    """Let out the whole row, one feature hashed and one rounded."""
    names = [feature.name for feature in model.schema.features]
    rules = dict.fromkeys(names[:18], "keep") | {names[18]: "hash", names[19]: "round 0.1"}
    clock = SystemClock()
    pool = RowPool(
        RowSettings.from_section(
            {
                "share": share,
                "confidence_max": confidence_max,
                "models": {model.schema.model: rules},
            }
        ),
        Outbox(None),
        UplinkMeter(10**12, clock, {}, name="rows"),
        boot=1,
        key=bytes(32),
        clock=clock,
        jitter=random.Random(1).random,
    )
    return pool.sampler_of(model.schema, bytes(8), 0)


def measure_row(rows: int, windows: list[Window]) -> tuple[float, float, float, float]:
    """Return microseconds a row of three recorders and of a bare copy; windows are appended.

    The recorders: without sampling, with hardly any row sampled, with many.
    """
    subject = build_lr20()
    model = LoadedModel.from_package(subject.blob, subject.sha256, RuntimeOptions())
    recorders = [
        TelemetryRecorder(
            model,
            stream=0,
            sequence=itertools.count(),
            limits=WindowLimits(window_s=3_600, window_rows_max=WINDOW_ROWS),
            clock=SystemClock(),
            emit=windows.append,
            recent=RecentAnswers(),
            sampler=sampler,
        )
        for sampler in (
            None,
            make_sampler(model, share=1e-5, confidence_max=0),
            make_sampler(model, share=0.01, confidence_max=0.55),
        )
    ]
    parts = [subject.rows[n : n + 1].copy() for n in range(len(subject.rows))]
    answers = [model.session_run(model.output_names, {"features": p}, None) for p in parts]
    pairs = list(itertools.islice(itertools.cycle(zip(parts, answers, strict=True)), 2_560))
    least = [float("inf")] * (len(recorders) + 1)
    for _ in range(max(1, rows // len(pairs))):
        for n, recorder in enumerate(recorders):
            began = time.thread_time()
            for number, (features, outputs) in enumerate(pairs):
                recorder.record(features, outputs, 0.05, number)
            least[n] = min(least[n], time.thread_time() - began)
        began = time.thread_time()
        for features, outputs in pairs:
            features.tobytes(), outputs[0].tobytes(), outputs[-1].tobytes()
        least[-1] = min(least[-1], time.thread_time() - began)
    without, passed, sampled, floor = (seconds / len(pairs) * 1e6 for seconds in least)
    return without, passed, sampled, floor


def measure_room(window: Window) -> float:
    """Return milliseconds of one append to a full outbox of 8 MiB, the slowest of its kind."""
    outbox, size = Outbox(None), encoded_size(window)
    count = 8_388_608 // size
    for first in range(0, count, 1_000):
        outbox.append(
            [
                (1, window._replace(sequence=n, t0_ms=n, t1_ms=n + 1))
                for n in range(first, min(first + 1_000, count))
            ]
        )
    began = time.thread_time()
    outbox.append([(1, window._replace(sequence=count, t0_ms=count, t1_ms=count))])
    taken = time.thread_time() - began
    merged = outbox.counts()["merged"]
    outbox.close()
    if not merged:
        raise SystemExit("the outbox was not full: nothing was merged")
    return taken * 1e3


if __name__ == "__main__":
    sys.exit(main())
