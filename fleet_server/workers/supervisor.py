"""Keep the processes of one workspace running: broker, API, gateway, controller.

Broker, gateway and API read certificates when they start: they are started again when these change.

Each child that ends is started again after a back-off that doubles up to half a minute and
starts anew once the child has lived for a minute. Nothing the supervisor knows is needed to
recover: the database is the truth, and every child finds its own way back into its work.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType
from typing import IO, Protocol

from fleet_server.durable_files import write_durable
from fleet_server.errors import BusyError
from fleet_server.ports.clock import Clock
from fleet_server.run_state import read_run_file
from fleet_server.workspace import Workspace

WORKERS = ("gateway", "controller", "api")
TLS_WORKERS = ("gateway", "api")
INSECURE_FLAG = "--insecure-loopback"
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.5, 30.0
STABLE_S = 60.0
STOP_S_MAX = 10.0
POLL_S = 0.2
LOG_BYTES_MAX = 16_777_216


class Broker(Protocol):
    """The broker as the supervisor needs it (``adapters/broker_process.py``)."""

    def start(self) -> None:
        """Start and wait until it answers."""

    def stop(self) -> None:
        """End it, state saved."""

    def reload(self) -> None:
        """Read the revocation list again."""

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        ...


@dataclass(slots=True)
class Child:
    """One supervised worker and when it may be started again."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    start_again_at_s: float = 0.0
    backoff_s: float = BACKOFF_S_MIN
    restarts: int = 0
    log: IO[bytes] | None = field(default=None, repr=False)


class WorkspaceLock:
    """At most one ``edgefleet up`` on a workspace; the kernel frees it with the process."""

    def __init__(self, workspace: Workspace) -> None:
        self._path, self._run_file = workspace.lock_file, workspace.run_file
        self._file: IO[str] | None = None

    def __enter__(self) -> "WorkspaceLock":
        """Take the lock.

        Raises:
            BusyError: Another process runs this workspace; names its pid.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            pid = read_run_file(self._run_file).get("pid", "unknown")
            raise BusyError(
                f"{self._path.parent.parent} is already run by process {pid};"
                " stop that one first (Ctrl-C or SIGTERM)"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Free the lock."""
        if self._file is not None:
            self._file.close()


class Supervisor:
    """Starts, watches, restarts and stops the processes of one workspace."""

    def __init__(
        self,
        workspace: Workspace,
        broker: Broker,
        clock: Clock,
        *,
        say: Callable[[str], None],
        watched: Path,
        restarting: Sequence[Path] = (),
        is_insecure: bool = False,
        command_of: Callable[[str, Path], list[str]] | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            workspace: Whose processes.
            broker: Started before all workers, stopped after them.
            clock: Monotonic seconds are used.
            say: Takes one sentence for the person.
            watched: Revocation list; the broker reloads when it changes.
            restarting: Certificates; broker, gateway and API start anew when they change.
            is_insecure: No TLS; told to the workers and in the run file, nowhere else.
            command_of: Worker name and workspace folder to its command line.
        """
        self._workspace, self._broker, self._clock = workspace, broker, clock
        self._say, self._watched = say, watched
        self._is_insecure = is_insecure
        self._command_of = command_of or partial(worker_command, is_insecure=is_insecure)
        self._watched_stamp = _stamp(watched)
        self._restarting = tuple(restarting)
        self._restarting_stamps = self._restarting_seen = self._stamp_certificates()
        self._children = [Child(name) for name in WORKERS]
        self._broker_state = Child("broker")
        self.stop = Event()

    def start(self) -> None:
        """Start everything; raises what the broker's start raises."""
        self._broker.start()
        self._broker_state.started_at_s = self._clock.monotonic()
        for child in self._children:
            self._spawn(child)
        self._write_run_file()

    def run(self) -> None:
        """Watch until ``stop`` is set."""
        while not self.stop.wait(POLL_S):
            self.look()

    def look(self) -> None:
        """Look at every process once and start again what ended."""
        self._watch_certificates()
        self._watch_broker()
        for child in self._children:
            self._watch(child)

    def shut_down(self) -> None:
        """Stop workers first, so that they say their last words to a living broker."""
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        for child in self._children:
            if child.process is None:
                continue
            try:
                child.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._say(f"{child.name} did not stop within {STOP_S_MAX:g} s and was killed")
                child.process.kill()
                child.process.wait()
            if child.log is not None:
                child.log.close()
        self._broker.stop()
        self._workspace.run_file.unlink(missing_ok=True)

    def _watch_certificates(self) -> None:
        """Let those who hold former certificates start anew, once the files rest."""
        before, now = self._restarting_seen, self._stamp_certificates()
        self._restarting_seen = now
        if now == self._restarting_stamps or now != before:
            return
        self._restarting_stamps = now
        self._say("certificates changed: broker, gateway and API start anew")
        for child in self._children:
            if child.name in TLS_WORKERS and child.process is not None:
                child.process.terminate()
        self._broker.stop()

    def _stamp_certificates(self) -> tuple[int, ...]:
        return tuple(_stamp(path) for path in self._restarting)

    def _watch_broker(self) -> None:
        now, state = self._clock.monotonic(), self._broker_state
        if self._broker.is_alive():
            stamp = _stamp(self._watched)
            if stamp != self._watched_stamp:
                self._watched_stamp = stamp
                self._broker.reload()
            return
        if state.start_again_at_s == 0:
            self._plan_restart(state, "broker", now)
        elif now >= state.start_again_at_s:
            state.start_again_at_s, state.started_at_s = 0.0, now
            try:
                self._broker.start()
            except Exception as error:  # noqa: BLE001 - a port may be taken for a moment: try again
                self._say(f"broker did not start: {error}")
            self._write_run_file()

    def _watch(self, child: Child) -> None:
        now = self._clock.monotonic()
        if child.process is not None and child.process.poll() is not None:
            code = child.process.returncode
            child.process = None
            self._plan_restart(child, f"{child.name} (exit {code})", now)
        elif child.process is None and now >= child.start_again_at_s:
            self._spawn(child)
            self._write_run_file()

    def _plan_restart(self, child: Child, what: str, now: float) -> None:
        if now - child.started_at_s > STABLE_S:
            child.backoff_s = BACKOFF_S_MIN
        child.start_again_at_s = now + child.backoff_s
        child.restarts += 1
        self._say(
            f"{what} ended; starting it again in {child.backoff_s:g} s"
            f" (log: {self._workspace.log_dir / child.name}.log)"
        )
        child.backoff_s = min(child.backoff_s * 2, BACKOFF_S_MAX)

    def _spawn(self, child: Child) -> None:
        if child.log is not None:
            child.log.close()
        child.log = _open_log(self._workspace.log_dir / f"{child.name}.log")
        child.process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            self._command_of(child.name, self._workspace.root),
            stdin=subprocess.DEVNULL,
            stdout=child.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor, which stops in order
        )
        child.started_at_s, child.start_again_at_s = self._clock.monotonic(), 0.0

    def _write_run_file(self) -> None:
        config = self._workspace.config
        pids = {c.name: c.process.pid for c in self._children if c.process is not None}
        state = {
            "pid": os.getpid(),
            "broker_port": config.broker_port,
            "api_port": config.api_port,
            "is_insecure": self._is_insecure,
            "children": {**pids, "broker": self._broker.pid},
            "restarts": {c.name: c.restarts for c in (*self._children, self._broker_state)},
        }
        write_durable(self._workspace.run_file, json.dumps(state).encode())


def stop_on_signals(stop: Event) -> None:
    """Let SIGINT and SIGTERM set an event; for main threads."""

    def _set(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, _set)
    signal.signal(signal.SIGTERM, _set)


def worker_command(name: str, root: Path, *, is_insecure: bool = False) -> list[str]:
    """Build the command line of one worker."""
    module = f"fleet_server.workers.{name}"
    flags = [INSECURE_FLAG] if is_insecure and name in ("gateway", "api") else []
    return [*_die_with_parent(), sys.executable, "-m", module, "--workspace", str(root), *flags]


def _die_with_parent() -> list[str]:
    """A child must not outlive a supervisor that was killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".old.log"))
    return path.open("ab")


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
