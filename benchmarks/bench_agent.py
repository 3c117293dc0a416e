"""What the agent costs a device and how it answers: ``make bench NAME=agent``.

Real agents (a real workspace with mosquitto and gateway; updates signed, fetched, self-tested and
confirmed) run in an environment of ``requirements/agent.txt``, one for each place where models may
answer; the floor is a process of the same environment with onnxruntime, numpy, paho and one
session. MLServer runs in an environment of its own with the same graph in the same runtime and is
asked the same by the same client; where it cannot be installed those figures are left out, and
standard error says so.

Sizes and memory hardly depend on what else the machine does; times do, so each is beside its floor
of the same run, in alternating slices. The environments are kept in ``build/bench-agent``.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import bench_predict, bench_telemetry
from benchmarks.agent_figures import Figure, Goal, say
from benchmarks.agent_http import load_for
from benchmarks.agent_installs import environment, measure_sizes
from benchmarks.agent_memory import MEBI, cpu_s, group_bytes
from benchmarks.agent_servers import Device, Floor, Lab, floor_process, wait_for_answer
from benchmarks.agent_traffic import check, measure_http, measure_swaps
from device_profiles.profile import Serving
from edge_agent.contract.windows import Window, encoded_size

LINGER_S = 23.0
"""The process that verifies ends when nothing was asked for 20 s."""
IDLE_S = 10.0
LOADED_S = 3.0
STARTS = 5
SWAPS = 4
ROWS = 200_000
MEMORY_GOAL, PREDICT_GOAL, ROW_US_GOAL, WINDOW_BYTES_GOAL = 1.35, 1.3, 2.0, 600.0


def main() -> int:
    """Measure and print; 0 when every goal is met."""
    parser = argparse.ArgumentParser(prog="make bench NAME=agent", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each slice of requests")
    seconds = parser.parse_args().seconds
    folder = Path(tempfile.mkdtemp(prefix="bench-agent-"))
    say(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    missed = []
    try:
        for figure in measure(folder, seconds):
            print(figure.line(), flush=True)
            missed += [] if figure.is_met else [figure.name]
    finally:
        shutil.rmtree(folder)
    say(f"load after: {os.getloadavg()[0]:.1f}; missed: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


def measure(folder: Path, seconds: float) -> Iterator[Figure]:
    """Give the figures as they are found."""
    subject, other = bench_predict.build_lr20(), bench_predict.build_lr20(seed=1)
    request = bench_predict.infer_request(subject.rows[:1]).replace(b"/main/", b"/lr20/")
    python = environment("agent")
    size, floor_size = measure_sizes(python)
    yield Figure("agent.installed_mb", size / MEBI, floor_size / MEBI)
    with ExitStack() as stack:
        lab = Lab(folder / "workspace", python)
        stack.callback(lab.stop)
        agents = {place: Device(lab, place) for place in Serving}
        target = lab.release("lr20", 1, subject.blob)
        for agent in agents.values():
            lab.wish(agent.id, target)
        for agent in agents.values():
            lab.wait_for_slot(agent.id, "confirmed", target, timeout_s=60)
        agents[Serving.IN_PROCESS].wait_until_inside()
        yield from measure_starts(agents, request, python, subject.blob, folder)
        time.sleep(LINGER_S)
        floor = stack.enter_context(floor_process(python, subject.blob, folder))
        yield from measure_memory(agents, floor, request)
        yield from measure_http(agents, subject.blob, folder, request, seconds)
        for number, agent in enumerate(agents.values(), 1):
            blobs = [other.blob, subject.blob] * (SWAPS // 2)
            yield from measure_swaps(lab, agent, blobs, 10 * number, request)
    yield from measure_predictions(subject, 2 * seconds)


def measure_starts(
    agents: Mapping[Serving, Device], request: bytes, python: Path, blob: bytes, folder: Path
) -> Iterator[Figure]:
    """From the start of a process to its first answer; the floor runs its session once."""
    took: dict[str, list[float]] = {name: [] for name in (*agents, "floor")}
    for _ in range(STARTS):
        for place, agent in agents.items():
            agent.stop()
            began = time.perf_counter()
            agent.start()
            wait_for_answer(agent.port, request, 60, agent.process)
            took[place].append(time.perf_counter() - began)
        began = time.perf_counter()
        with floor_process(python, blob, folder):
            took["floor"].append(time.perf_counter() - began)
    for place in agents:
        own, other = (float(np.median(took[name])) * 1e3 for name in (place, "floor"))
        yield Figure(f"agent.cold_start_ms.{place}", own, other)


def measure_memory(
    agents: Mapping[Serving, Device], floor: Floor, request: bytes
) -> Iterator[Figure]:
    """Idle, and after 16 connections have asked for a while; shared pages count once."""
    for place, agent in agents.items():
        idle = group_bytes(agent.pids()), group_bytes([floor.pid])
        yield Figure(f"agent.memory_mb.{place}.idle", *in_mb(idle), Goal(limit=MEMORY_GOAL))
    for place, agent in agents.items():
        pids = agent.pids()
        before = cpu_s(pids)
        time.sleep(IDLE_S)
        yield Figure(f"agent.idle_cpu_percent.{place}", (cpu_s(pids) - before) / IDLE_S * 100)
    floor.run(LOADED_S)
    for place, agent in agents.items():
        check(load_for(agent.port, request, connections=16, seconds=LOADED_S), place)
        loaded = group_bytes(agent.pids()), group_bytes([floor.pid])
        yield Figure(f"agent.memory_mb.{place}.loaded", *in_mb(loaded), Goal(limit=MEMORY_GOAL))


def in_mb(sizes: tuple[int, int]) -> tuple[float, float]:
    """Return megabytes of bytes."""
    return sizes[0] / MEBI, sizes[1] / MEBI


def measure_predictions(subject: bench_predict.Subject, seconds: float) -> Iterator[Figure]:
    """What a prediction and a row cost inside a process; ``predict`` and ``telemetry`` say more."""
    found = bench_predict.measure_inprocess(subject, seconds)
    yield Figure("agent.predict_us", found.value, found.floor, Goal(limit=PREDICT_GOAL))
    windows: list[Window] = []
    row_us, *_, copy_us = bench_telemetry.measure_row(ROWS, windows)
    yield Figure("agent.row_us", row_us, copy_us, Goal(limit=ROW_US_GOAL, is_ratio=False))
    size = float(np.median([encoded_size(window) for window in windows]))
    yield Figure("agent.window_bytes", size, None, Goal(limit=WINDOW_BYTES_GOAL, is_ratio=False))


if __name__ == "__main__":
    sys.exit(main())
