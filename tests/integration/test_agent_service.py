"""The systemd unit: what the supervisor hears, when the watchdog starves, what the walls bear."""

import contextlib
import ctypes.util
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.adapters.service_notifier import ServiceNotifier
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.agent_loop import AgentLoop
from edge_agent.cli import main
from edge_agent.core.agent_state import AgentState
from edge_agent.local_control import LocalControl
from tests.support.agent_device import enrolled_device
from tests.support.clock import FakeClock
from tests.support.trust_fleet import make_fleet

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "edge-agent.service"
EXPOSURE_MAX = 1.5
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here"
)
needs_seccomp = pytest.mark.skipif(
    ctypes.util.find_library("seccomp") is None or shutil.which("systemd-analyze") is None,
    reason="libseccomp or systemd-analyze is not installed here",
)


class Supervisor:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}

    def hear(self) -> str:
        return self.socket.recv(4_096).decode()

    def hear_until(self, word: str) -> list[str]:
        heard = [self.hear()]
        while heard[-1] != word:
            heard.append(self.hear())
        return heard

    def hear_rest(self, seconds: float) -> list[str]:
        self.socket.settimeout(seconds)
        heard = []
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append(self.hear())
        return heard


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "notify")
    yield supervisor
    supervisor.socket.close()


class PlayedAgent:
    """Turns well, until it is told to be stuck or to fail."""

    def __init__(self) -> None:
        self.state = AgentState()
        self.refusal = None
        self.turns = 0
        self.is_failing = False
        self.stuck, self.go_on = threading.Event(), threading.Event()

    def tick(self) -> float:
        self.turns += 1
        if self.stuck.is_set():
            self.go_on.wait(20)
        if self.is_failing:
            raise RuntimeError("the state is not what it should be")
        return 0.01

    def handle(self, item: object) -> None:
        raise AssertionError(item)


@contextlib.contextmanager
def turning(agent: PlayedAgent, supervisor: Supervisor) -> Iterator[None]:
    clock, stop = SystemClock(), threading.Event()
    notifier = ServiceNotifier(clock, supervisor.environment)
    control = LocalControl(agent=agent, clock=clock, count_windows=dict)
    loop = AgentLoop(agent, queue.Queue(), control, notifier)
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        agent.go_on.set()
        thread.join()
        notifier.close()


def test_a_loop_that_turns_feeds_the_watchdog(supervisor: Supervisor) -> None:
    with turning(PlayedAgent(), supervisor):
        heard = supervisor.hear_until("WATCHDOG=1") + supervisor.hear_until("WATCHDOG=1")
    assert heard[0] == "READY=1"
    assert "STATUS=not connected" in heard


def test_a_loop_that_is_stuck_feeds_nothing_though_other_threads_live(
    supervisor: Supervisor,
) -> None:
    agent = PlayedAgent()
    with turning(agent, supervisor):
        supervisor.hear_until("WATCHDOG=1")
        agent.stuck.set()
        supervisor.hear_rest(0.15)  # what was under way
        assert supervisor.hear_rest(0.5) == []


def test_a_loop_that_fails_in_every_turn_feeds_nothing(supervisor: Supervisor) -> None:
    agent = PlayedAgent()
    with turning(agent, supervisor):
        supervisor.hear_until("WATCHDOG=1")
        agent.is_failing = True
        supervisor.hear_rest(0.15)
        turns = agent.turns
        assert supervisor.hear_rest(0.5) == []
        assert agent.turns > turns


def test_without_a_supervisor_nothing_is_said(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": str(tmp_path / "x")}):
        notifier = ServiceNotifier(FakeClock(), {**environment, "WATCHDOG_USEC": "1"})
        notifier.say_ready()
        notifier.beat()
        notifier.say_stopping()
        notifier.close()
    assert ServiceNotifier(FakeClock(), {"WATCHDOG_USEC": "1000000"}).watchdog_s is None


def test_another_process_is_watched_not_this_one(supervisor: Supervisor) -> None:
    for pid, watched in ((str(os.getpid()), 0.2), ("1", None)):
        environment = {**supervisor.environment, "WATCHDOG_PID": pid}
        assert ServiceNotifier(FakeClock(), environment).watchdog_s == watched


def test_an_abstract_socket_is_found() -> None:
    name = f"edge-agent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(f"\0{name}")
        there.settimeout(5)
        notifier = ServiceNotifier(FakeClock(), {"NOTIFY_SOCKET": f"@{name}"})
        notifier.say_status("one\ntwo")
        notifier.close()
        assert there.recv(100) == b"STATUS=one?two"


# The unit -------------------------------------------------------------------------------------


@needs_analyze
def test_the_unit_is_in_order_and_as_hardened_as_the_page_says(tmp_path: Path) -> None:
    # The program is there once it is installed; here a stand-in is.
    text = UNIT.read_text().replace("/opt/edge-agent/current/bin/edge-agent", "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    command = ["systemd-analyze", "--no-pager"]
    done = subprocess.run([*command, "verify", unit], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    command += ["security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(unit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for edge-agent.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert (done.returncode, float(found[1]) <= EXPOSURE_MAX) == (0, True)
    page = (ROOT / "docs" / "agent.md").read_text()
    assert f"exposure level {found[1]}" in page


def behind_walls(*command: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.walls", str(UNIT), *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_seccomp
def test_the_walls_hold() -> None:
    program = (
        "import ctypes, errno, mmap, socket\n"
        "def fails(do):\n"
        "    try: do()\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "print(fails(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),"
        " fails(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),"
        " fails(lambda: __import__('os').chroot('/')))"
    )
    done = behind_walls(sys.executable, "-c", program, environment={})
    out, err = done.communicate(timeout=30)
    assert (out.strip(), done.returncode) == ("EPERM EAFNOSUPPORT EPERM", 0), err


@needs_seccomp
def test_the_agent_runs_and_loads_its_runtime_behind_the_units_walls(
    tmp_path: Path, supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = make_fleet(tmp_path / "fleet", FakeClock())
    directory = enrolled_device(tmp_path / "agent")
    keys = fleet.workspace.keys_dir
    for name, pem in (("ca.pem", "ca.pem"), ("device.pem", "api.pem"), ("device.key", "api.key")):
        (directory / "identity" / name).write_bytes((keys / pem).read_bytes())
    fleet.engine.dispose()
    (directory / "agent.toml").write_text('log_level = "debug"\nlog_file = "agent.log"\n')
    program = str(Path(sys.executable).with_name("edge-agent"))
    process = behind_walls(
        program, "run", "--http-port=0", "--dir", str(directory), environment=supervisor.environment
    )
    try:
        heard = supervisor.hear_until("WATCHDOG=1")
        assert heard[0] == "READY=1"
        assert main(["status", "--dir", str(directory)]) == 0
        assert f"running as process {process.pid} since" in capsys.readouterr().out
        process.send_signal(signal.SIGTERM)
        assert "STOPPING=1" in supervisor.hear_until("STOPPING=1")
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "ended in good order" in err
    assert "Operation not permitted" not in err
    assert (directory / "agent.log").read_text() in err
    for line in (directory / "identity" / "device.key").read_text().splitlines()[1:-1]:
        assert line not in err
    doctor = behind_walls(program, "doctor", "--dir", str(tmp_path / "none"), environment={})
    out, err = doctor.communicate(timeout=60)
    assert re.search(r"ok   runtime +onnxruntime [\d.]+ runs here", out), out + err
