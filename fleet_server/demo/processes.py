"""Real processes of a small fleet: server, agents, simulated devices, and commands.

Everything goes through the installed commands, as a person would; used by the demo and by the
end-to-end tests. Each process writes its own log; nothing is left running at the end.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import IO, Any

COMMAND_S_MAX = 120.0
POLL_S = 0.2
Reader = Callable[[list[str], Mapping[str, str]], tuple[int, str]]
"""Takes arguments and environment; returns exit code and what was printed."""


class StepFailedError(Exception):
    """A command or a process did not do what it says."""


@dataclass(slots=True)
class Background:
    """A process that runs until it is told to stop."""

    name: str
    command: list[str]
    log_path: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, its words appended to the log."""
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal and, for SIGKILL, wait for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            if number == signal.SIGKILL:
                self.process.wait()

    def stop(self, timeout_s: float = 20.0) -> int | None:
        """End it with SIGTERM, then SIGKILL; return its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._log is not None:
            self._log.close()
        return self.process.returncode

    def last_words(self, lines: int = 15) -> str:
        """Return the end of its log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class FleetProcesses:
    """One workspace, its server and its agents."""

    def __init__(self, root: Path, read: Reader | None = None) -> None:
        """Prepare; nothing is started.

        Args:
            root: Empty or absent folder; holds ``fleet/``, ``devices/`` and ``log/``.
            read: Runs a reading command in this process; None starts a process for each. What is
                awaited is asked again and again, and an interpreter a time would take a core
                from the fleet.
        """
        self._read = read
        self.root = root
        self.workspace = root / "fleet"
        self.log_dir = root / "log"
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "EDGEFLEET_WORKSPACE": str(self.workspace),
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }
        self.started: list[Background] = []
        self._wait, self._reading = Event(), Lock()

    # Commands -----------------------------------------------------------------------------------

    def run(
        self, *arguments: str, program: str = "edgefleet", expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end.

        Args:
            arguments: Behind the program's name.
            program: An installed command of this distribution.
            expect: Exit code that is wanted; None takes any.

        Raises:
            StepFailedError: Another exit code; carries what the command said.
        """
        done = subprocess.run(  # noqa: S603 - our own commands, no shell
            [self.find_command(program), *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            env=self.environment,
            check=False,
        )
        if expect is not None and done.returncode != expect:
            raise StepFailedError(
                f"`{program} {' '.join(arguments)}` ended with {done.returncode}, not {expect}:\n"
                f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done

    def find_command(self, program: str) -> str:
        """Locate what ``run`` starts."""
        return command_path(program)

    def json(self, *arguments: str) -> Any:
        """Run a reader with ``--json`` and return what it printed.

        Raises:
            StepFailedError: It did not end with 0; carries what it said.
        """
        if self._read is None:
            return json.loads(self.run(*arguments, "--json").stdout)
        with self._reading:
            code, text = self._read([*arguments, "--json"], self.environment)
        if code:
            raise StepFailedError(f"`edgefleet {' '.join(arguments)}` ended with {code}: {text}")
        return json.loads(text)

    # Processes ----------------------------------------------------------------------------------

    def start(self, name: str, *command: str) -> Background:
        """Start a background process; the first word is an installed command."""
        background = Background(
            name=name,
            command=[command_path(command[0]), *command[1:]],
            log_path=self.log_dir / f"{name}.log",
            environment=self.environment,
        )
        background.start()
        self.started.append(background)
        return background

    def start_server(self, *options: str) -> Background:
        """Start ``edgefleet up`` and wait until it says that it is ready."""
        log = self.log_dir / "server.log"
        before = log.stat().st_size if log.exists() else 0
        server = self.start("server", "edgefleet", "up", *options)
        self.wait(
            lambda: b"ready in" in log.read_bytes()[before:],
            what="the server to be ready",
            alive=server,
        )
        return server

    def start_agent(
        self, device_id: str, profile: str, *options: str, labels: tuple[str, ...] = ()
    ) -> Background:
        """Add a device, join it and run its agent; options go to ``edge-agent run``."""
        directory = self.root / "devices" / device_id
        labelled = [word for label in labels for word in ("--label", label)]
        added = self.run("device", "add", device_id, "--profile", profile, *labelled)
        join_string = next(w for w in added.stdout.split() if w.startswith("ef1:"))
        self.run("join", join_string, "--dir", str(directory), program="edge-agent")
        return self.start(device_id, "edge-agent", "run", "--dir", str(directory), *options)

    def wait(
        self,
        is_true: Callable[[], object],
        *,
        what: str,
        timeout_s: float = 60.0,
        alive: Background | None = None,
    ) -> None:
        """Wait until a condition holds.

        Raises:
            StepFailedError: Not within ``timeout_s``, or ``alive`` ended meanwhile.
        """
        for _ in range(int(timeout_s / POLL_S)):
            if is_true():
                return
            if alive is not None and not alive.is_alive:
                raise StepFailedError(f"{alive.name} ended:\n{alive.last_words()}")
            self._wait.wait(POLL_S)
        raise StepFailedError(f"waited {timeout_s:g} s for {what}, in vain")

    def stop_all(self) -> None:
        """Stop agents first, the server last."""
        for background in reversed(self.started):
            background.stop()


def command_path(program: str) -> str:
    """Locate an installed command beside the running interpreter."""
    return str(Path(sys.executable).parent / program)
