"""Installed commands as processes that begin warm: forked, not started.

Interpreter and imports are a second of every ``edgefleet`` command, and the stories run dozens.
``python -m tests.support.warm_commands SOCKET`` imports what the commands need and then forks one
process a command, which has the arguments, environment, folder, mask and open files of its caller,
and ends as the installed command would. ``WarmCommands`` starts that process and makes a folder of
small programs named as the commands are, for a PATH.

To import all that takes as long as a dozen commands, so the workers of one run share one such
process: the first that needs it starts it, and it ends, with all it forked, when the run does.

Long-running ones (``edgefleet up``, ``edge-agent run``) are not started this way: their memory and
their descendants are theirs.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from fleet_server.demo.processes import FleetProcesses
from tests.support.waiting import wait_until

COMMANDS = {"edgefleet": "fleet_server.cli", "edge-agent": "edge_agent.cli"}
PACKAGES = ("cli", "wiring", "adapters", "adapters.database", "services", "training")
MODULES = ("edge_agent.doctor", "rich.traceback", "sklearn.neural_network", "skl2onnx")
STARTS_THREADS = "onnxruntime"
"""Begins threads when it is imported, which no fork has: left to the commands that need it."""
CUT_OFF = 70
"""Exit code when no status came."""
PROGRAM = """#!{python} -IS
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
mask = os.umask(0)
os.umask(mask)
job = json.dumps([sys.argv, os.getcwd(), dict(os.environ), mask]).encode()
socket.send_fds(line, [len(job).to_bytes(4, "big")], [0, 1, 2])
line.sendall(job)
status = line.recv(1)
sys.exit(status[0] if status else {cut_off})
"""


class WarmCommands:
    """The process that forks them, and the folder with their names.

    Args:
        folder: The same for all that share it.
        run: Process id of the run: the commands end with it.
    """

    def __init__(self, folder: Path, run: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._address = folder / "bin", folder / "warm"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.folder.exists():
                self._start(run)

    def _start(self, run: int) -> None:
        self.folder.mkdir()
        for name in COMMANDS:
            program = self.folder / name
            program.write_text(
                PROGRAM.format(python=sys.executable, address=str(self._address), cut_off=CUT_OFF)
            )
            program.chmod(0o755)
        subprocess.Popen(
            [sys.executable, "-m", __name__, self._address, str(run)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        ).returncode = 0  # nobody waits for it: it ends after the workers

    def wait(self) -> None:
        """Wait until they can be run."""
        wait_until(self._address.exists, timeout_s=120, what="the warm process")


class WarmFleet(FleetProcesses):
    """A fleet whose commands that end begin warm."""

    def __init__(self, root: Path, commands: WarmCommands, **options: Any) -> None:
        super().__init__(root, **options)
        self._commands = commands

    def find_command(self, program: str) -> str:
        path = self._commands.folder / program
        return str(path) if path.exists() else super().find_command(program)


def serve(address: str, run: int) -> int:
    """Fork a process for each that asks; gives, in such a process, the command's exit code.

    Ends with the run, and everything forked with it.
    """
    whole_run = os.pidfd_open(run)
    preload()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    Path(f"{address}.new").rename(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener.fileno(), whole_run], [], [])
        if whole_run in ready:
            os.killpg(0, signal.SIGKILL)
        line, _ = listener.accept()
        if os.fork():
            line.close()
            continue
        listener.close()
        os.close(whole_run)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return attend(line)


def preload() -> None:
    names = [*MODULES, *COMMANDS.values()]
    for package in PACKAGES:
        folder = importlib.import_module(f"fleet_server.{package}")
        names += [m.name for m in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}.")]
    modules: dict[str, Any] = sys.modules
    modules[STARTS_THREADS] = None
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del modules[STARTS_THREADS]
    gc.freeze()  # what is shared is not looked at, and so not copied, when a fork ends


def attend(line: socket.socket) -> int:
    """Run one command and tell its caller how it ended; a caller that is gone ends it."""
    size, files, _, _ = socket.recv_fds(line, 4, 3)
    job = b""
    while len(job) < int.from_bytes(size, "big"):
        job += line.recv(65_536)
    child = os.fork()
    if not child:
        line.close()
        return become(json.loads(job), files)
    watched = os.pidfd_open(child)
    ready, _, _ = select.select([line.fileno(), watched], [], [])
    if watched not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if watched in ready:
        line.send(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def become(job: Any, files: list[int]) -> int:
    """Be the command in all that it can tell; give its exit code."""
    arguments, folder, environment, mask = job
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    try:
        code: int | None = importlib.import_module(COMMANDS[Path(arguments[0]).name]).main()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    return code or 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2])))
