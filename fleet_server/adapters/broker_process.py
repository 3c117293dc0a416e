"""mosquitto as a child process: start, stop, reload, find and end an orphan.

The configuration is generated at every start (``broker_config.py``). The broker is a cache: what
a SIGKILL takes from it, the gateway publishes again from the database.

Call ``start`` from a thread that lives as long as the broker shall: where ``setpriv`` exists the
kernel ends the broker with the *thread* that started it, so a killed supervisor leaves none
behind. Elsewhere the pid file lets the next start find the orphan.
"""

import contextlib
import errno
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections import deque
from pathlib import Path
from threading import Event, Lock

from fleet_server.adapters.broker_config import (
    BrokerFiles,
    BrokerSettings,
    render_config,
    render_device_acl,
    render_passwords,
    render_server_acl,
)
from fleet_server.durable_files import write_durable
from fleet_server.errors import BusyError, FleetError, NotFoundError

START_S_MAX = 10.0
STOP_S_MAX = 15.0
LOG_BYTES_MAX = 16_777_216
_POLL_S = 0.02
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_TCP_LISTEN = "0A"


class BrokerError(FleetError):
    """The broker did not start."""


class BrokerProcess:
    """One mosquitto over one folder."""

    def __init__(
        self, directory: Path, settings: BrokerSettings, *, log_file: Path | None = None
    ) -> None:
        """Prepare; nothing is started.

        Args:
            directory: Generated files and the broker's state; made when missing.
            settings: Ports and certificates.
            log_file: Where its words go; ``broker.log`` in the directory when None.
        """
        self.settings = settings
        self._files = BrokerFiles(directory=directory)
        self._log_file = log_file or directory / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = Lock()

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        return self._process.pid if self._process is not None and self.is_alive() else None

    def start(self) -> None:
        """Start and wait until it answers and heeds signals; a running one is left alone.

        Raises:
            NotFoundError: mosquitto is not installed.
            BusyError: A port is in use; says which and by whom.
            BrokerError: It ended at once or does not answer; carries its last words.
        """
        with self._starting:
            if not self.is_alive():
                self._start()

    def stop(self) -> None:
        """End it with its state saved; SIGKILL after STOP_S_MAX seconds."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        self._files.pid.unlink(missing_ok=True)

    def reload(self) -> None:
        """Let it read revocation list, access rules and passwords again.

        A revoked device that is connected stays so until it reconnects; new connections are
        refused at once. Waits for a start that is under way.
        """
        self._signal(signal.SIGHUP)

    def save(self) -> None:
        """Let it write its state to disk now."""
        self._signal(signal.SIGUSR1)

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def _start(self) -> None:
        program = find_mosquitto()
        self._end_orphan()
        for host, port in (
            (self.settings.host, self.settings.port),
            ("127.0.0.1", self.settings.server_port),
        ):
            check_port_is_free(host, port)
        self._write_files()
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        if self._log_file.exists() and self._log_file.stat().st_size > LOG_BYTES_MAX:
            self._log_file.replace(self._log_file.with_suffix(".old.log"))
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program we located, no shell
                [*_die_with_parent(), program, "-c", str(self._files.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        write_durable(self._files.pid, f"{self._process.pid}\n".encode())
        self._wait_until_it_answers(self._process)

    def _signal(self, number: signal.Signals) -> None:
        with self._starting:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

    def _write_files(self) -> None:
        files = self._files
        files.state.mkdir(parents=True, exist_ok=True)
        files.directory.chmod(0o700)
        secret = load_server_secret(files.directory, is_created=True)
        is_root = os.geteuid() == 0
        write_durable(files.config, render_config(self.settings, files, is_root=is_root).encode())
        write_durable(files.device_acl, render_device_acl().encode())
        write_durable(files.server_acl, render_server_acl().encode())
        password = render_passwords(secret, secrets.token_bytes(12))
        write_durable(files.passwords, password.encode(), mode=0o600)

    def _end_orphan(self) -> None:
        """End a broker of this folder that outlived its supervisor."""
        try:
            pid = int(self._files.pid.read_text())
        except (OSError, ValueError):
            return
        if str(self._files.config) not in _command_line(pid):
            return  # the number belongs to somebody else by now
        wait = Event()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            for _ in range(int(STOP_S_MAX / 2 / _POLL_S)):
                if str(self._files.config) not in _command_line(pid):
                    return
                wait.wait(_POLL_S)
        raise BusyError(f"broker process {pid} of an earlier run does not end; kill it")

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        wait = Event()
        for _ in range(int(START_S_MAX / _POLL_S)):
            if process.poll() is not None:
                raise BrokerError(
                    f"the broker ended at once (exit {process.returncode}): {self._last_words()}"
                )
            ports = (self.settings.server_port, self.settings.port)
            host = _reachable(self.settings.host)
            places = zip(("127.0.0.1", host), ports, strict=True)
            if all(_answers(h, p) for h, p in places) and _heeds_hangups(process.pid):
                return
            wait.wait(_POLL_S)
        self.stop()
        raise BrokerError(
            f"the broker does not answer on port {self.settings.port} after {START_S_MAX:g} s:"
            f" {self._last_words()}"
        )

    def _last_words(self) -> str:
        try:
            with self._log_file.open(errors="replace") as file:
                words = " / ".join(line.strip() for line in deque(file, maxlen=3))
        except OSError:
            words = ""
        return f"{words[-600:]} (log: {self._log_file})"


def load_server_secret(directory: Path, *, is_created: bool = False) -> str:
    """Read the secret of the server listener; 43 printable characters.

    Raises:
        NotFoundError: There is none and ``is_created`` is False: the broker never ran here.
    """
    path = BrokerFiles(directory=directory).secret
    try:
        return path.read_text().strip()
    except FileNotFoundError as error:
        if not is_created:
            raise NotFoundError(
                f"{path} is missing; start the broker first, or write the files of an external one"
                " with `edgefleet keys broker-config`"
            ) from error
    secret = secrets.token_urlsafe(32)
    write_durable(path, secret.encode(), mode=0o600)
    return secret


def find_mosquitto() -> str:
    """Locate the program; daemons are often outside a user's PATH.

    Raises:
        NotFoundError: Not installed; says how to install it.
    """
    sbin = os.pathsep.join(_SBIN)
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=sbin)
    if program is None:
        raise NotFoundError("mosquitto is not installed: sudo apt-get install mosquitto")
    return program


def check_port_is_free(host: str, port: int) -> None:
    """Raise BusyError naming port and owner, or FleetError when the address is not ours."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise FleetError(
                    f"cannot listen on {host} port {port}: {error.strerror}"
                ) from error
            owner = find_port_owner(port) or "another process"
            raise BusyError(
                f"port {port} on {host} is in use by {owner};"
                " stop it, or choose another port in edgefleet.toml"
            ) from error


def find_port_owner(port: int) -> str | None:
    """Name the process that listens on a TCP port, None when it cannot be seen."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _TCP_LISTEN and int(columns[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in inodes:
                pid = int(descriptor.parts[2])
                return f"process {pid} ({_command_line(pid).strip()[:120]})"
    return None


def _command_line(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
    except OSError:
        return ""


def _die_with_parent() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _reachable(host: str) -> str:
    """Turn a wildcard address into one that can be connected to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _heeds_hangups(pid: int) -> bool:
    """Tell whether SIGHUP reaches a handler: mosquitto listens before it has one, and would end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # no Linux, or ended: the next look at the process says so
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 0.5).close()
    except OSError:
        return False
    return True
