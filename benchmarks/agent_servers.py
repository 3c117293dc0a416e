"""The processes that ``bench_agent`` measures: real agents of a real fleet, the floor, MLServer."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agent_memory import descendants
from benchmarks.bench_predict import Connection
from device_profiles import catalog
from device_profiles.profile import Serving
from edge_agent.contract.package import MODEL, unpack_members
from fleet_server.free_ports import find_free_ports
from tests.support.agent_fleet import PROFILE, AgentLab
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
WIDTH = 20
MLSERVER_START_S = 60.0
FLOOR = """
import sys, time
import numpy, onnxruntime, paho.mqtt.client
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
model = open(sys.argv[1], "rb").read()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
rows = {"features": numpy.ones((1, int(sys.argv[2])), "float32")}
session.run(None, rows)
print("ready", flush=True)
for line in sys.stdin:
    ends_at = time.perf_counter() + float(line)
    while time.perf_counter() < ends_at:
        session.run(None, rows)
    print("done", flush=True)
"""
"""What a program that serves one model from one process cannot do without."""


class Lab(AgentLab):
    """A workspace with broker and gateway; agents run in the agent's own environment."""

    def __init__(self, root: Path, python: Path) -> None:
        """Start it; the agent's modules are compiled before, as an installation has them.

        A process that compiles what it imports holds a megabyte of what that took.
        """
        self.python = python
        modules = [str(ROOT / name) for name in ("edge_agent", "device_profiles")]
        subprocess.run([str(python), "-m", "compileall", "-q", *modules], check=True)
        super().__init__(root)

    def run_agent(self, directory: Path, *options: str) -> "subprocess.Popen[bytes]":
        with (directory / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                [str(self.python), "-m", "edge_agent", "run", "--dir", str(directory), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        self.agents.append(agent)
        return agent

    def join_as(self, place: Serving) -> Path:
        """Enrol a device whose profile serves in that place."""
        directory = self.join(f"bench-{place.replace('_', '-')}")
        shipped = Path(catalog.__file__).parent / "data" / f"{PROFILE}.toml"
        own = directory / "profiles" / f"{PROFILE}.toml"
        own.parent.mkdir()
        kept = [x for x in shipped.read_text().splitlines(keepends=True) if "serving" not in x]
        own.write_text(f'serving = "{place}"\n' + "".join(kept))
        return directory


class Device:
    """One agent that has joined and runs."""

    def __init__(self, lab: Lab, place: Serving) -> None:
        self._lab, self.place = lab, place
        self.directory = lab.join_as(place)
        self.id = self.directory.name
        (self.port,) = find_free_ports(1)
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, again on the same port."""
        self.process = self._lab.run_agent(self.directory, "--http-port", str(self.port))
        return self.process

    def stop(self) -> None:
        """End it in good order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def pids(self) -> list[int]:
        """Return the process and all below it."""
        return descendants(self.process.pid)

    def wait_until_inside(self) -> None:
        """Wait until no process but the agent's own answers."""
        wait_until(lambda: not any(is_serving(pid) for pid in self.pids()))


def is_serving(pid: int) -> bool:
    """Tell whether a process is one that serves."""
    try:
        return b"edge_agent.serving_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def floor_process(python: Path, blob: bytes, folder: Path) -> Iterator["Floor"]:
    """Run the floor."""
    model = folder / "floor.onnx"
    model.write_bytes(unpack_members(blob)[MODEL])
    with subprocess.Popen(
        [str(python), "-c", FLOOR, str(model), str(WIDTH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            process.stdout.readline()
            yield Floor(process)
        finally:
            process.stdin.close()


class Floor:
    """The floor, ready."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process, self.pid = process, process.pid

    def run(self, seconds: float) -> None:
        """Let it run the session for so long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


@contextmanager
def mlserver(python: Path, blob: bytes, folder: Path, request: bytes) -> Iterator[tuple[int, int]]:
    """Run MLServer with the same graph; give its process id and port once it answers."""
    home = folder / "mlserver"
    home.mkdir()
    (home / "model.onnx").write_bytes(unpack_members(blob)[MODEL])
    port, grpc_port, metrics_port = find_free_ports(3)
    (home / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": port,
                "grpc_port": grpc_port,
                "metrics_port": metrics_port,
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    (home / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "lr20",
                "implementation": "benchmarks.agent_mlserver_runtime.OnnxModel",
                "parameters": {"uri": str(home / "model.onnx")},
            }
        )
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python.parent / "mlserver"), "start", str(home)],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    try:
        wait_for_answer(port, request, MLSERVER_START_S, process)
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(home)


def wait_for_answer(
    port: int, request: bytes, timeout_s: float, process: "subprocess.Popen[bytes]"
) -> None:
    """Wait for the first answer 200; raises RuntimeError when there is none."""
    ends_at = time.perf_counter() + timeout_s
    while time.perf_counter() < ends_at and process.poll() is None:
        try:
            connection = Connection(port)
        except OSError:
            time.sleep(0.005)
            continue
        try:
            connection.time_request(request)
        except (OSError, AssertionError):
            time.sleep(0.005)
        else:
            return
        finally:
            connection.close()
    raise RuntimeError(f"nobody answered on port {port} in {timeout_s:.0f} s")


@contextmanager
def pinned(pids: Sequence[int]) -> Iterator[None]:
    """Let processes run on the first core and this one on the others, where there are several."""
    cores = sorted(os.sched_getaffinity(0))
    theirs, mine = ({cores[0]}, set(cores[1:])) if len(cores) > 1 else (set(cores), set(cores))
    _pin(pids, theirs)
    os.sched_setaffinity(0, mine)
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(cores))
        _pin(pids, set(cores))


def _pin(pids: Sequence[int], cores: set[int]) -> None:
    for pid in pids:
        for each in descendants(pid):
            for task in Path(f"/proc/{each}/task").glob("*"):
                os.sched_setaffinity(int(task.name), cores)
