"""One process that serves, as its parent sees it: a channel, its log lines, its memory, its end.

Called by one thread, but for ``kill``; the kernel ends the child with the thread that started it.
Invariants: the child leads a session of its own; ``end`` leaves no zombie; a line of its log is
bounded and goes into the agent's log.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edge_agent.adapters.child_process import SMALL, kill_group, say_status
from edge_agent.adapters.worker_channel import SEND_S, Channel

LINE_BYTES_MAX = 8_192
END_S = 2.0
"""A child whose channel is closed is on its way out; then it is killed."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LEVELS = logging.getLevelNamesMapping()
_LOG = logging.getLogger("edge_agent.serving_worker")


class WorkerChild:
    """A running child."""

    def __init__(
        self,
        command: Sequence[str],
        sockets: Sequence[socket.socket],
        *,
        send_s: float = SEND_S,
    ) -> None:
        """Start it.

        Args:
            command: Program; the numbers of the channel and of the sockets are added to it.
            sockets: Listen; the child takes connections from them.
            send_s: A child that does not read for this long is as good as gone.

        Raises:
            OSError: It could not be started.
        """
        mine, theirs = socket.socketpair()
        mine.settimeout(send_s)
        numbers = (theirs.fileno(), *(each.fileno() for each in sockets))
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=numbers,
                start_new_session=True,
                env=os.environ | SMALL,
            )
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        if self._process.stderr is None:
            raise OSError("no pipe for the log of the process that serves")
        self._log = self._process.stderr
        os.set_blocking(self._log.fileno(), False)
        self._is_log_open = True
        self._line = b""
        self._last_line = ""
        self.pid = self._process.pid
        self.channel = Channel(mine)

    def wait(self, timeout_s: float, wake: int) -> bool:
        """Wait until a message comes, ``wake`` is readable or time is over; log what it says.

        Returns:
            Whether the channel can be read.
        """
        watched = [self.channel.fileno(), wake]
        if self._is_log_open:
            watched.append(self._log.fileno())
        readable, _, _ = select.select(watched, [], [], max(0.0, timeout_s))
        if self._is_log_open and self._log.fileno() in readable:
            self._relay_log()
        return self.channel.fileno() in readable

    def rss_bytes(self) -> int | None:
        """Return its resident memory; None when it cannot be told."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
            return int(fields[1]) * _PAGE_BYTES
        except (OSError, IndexError, ValueError):
            return None

    @property
    def status(self) -> int | None:
        """Exit status; negative: the signal it died of; None while it runs."""
        return self._process.returncode

    def cpu_s(self) -> float | None:
        """Return the processor time it has used; None when it cannot be told."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        except (OSError, IndexError, ValueError):
            return None

    def end(self, wait_s: float = END_S) -> str:
        """End it, by force after ``wait_s``; return what became of it."""
        try:
            status = self._process.wait(wait_s)
            said = say_status(status)
        except subprocess.TimeoutExpired:
            said = "was ended by force"
        kill_group(self._process)  # also what it may have started
        self._relay_log()
        self._log.close()
        self.channel.close()
        words = f": {self._last_line}" if self._last_line and self._process.returncode > 0 else ""
        return f"{said}{words}"

    def kill(self) -> None:
        """End it by force, from any thread; whoever waits for it there sees it gone."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _relay_log(self) -> None:
        data = None
        with contextlib.suppress(BlockingIOError, ValueError):
            data = os.read(self._log.fileno(), 65_536)
        if data is None:
            return
        self._is_log_open = bool(data)
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-LINE_BYTES_MAX:]
        for line in lines:
            self._relay_line(line[:LINE_BYTES_MAX].decode(errors="replace"))

    def _relay_line(self, line: str) -> None:
        level, _, words = line.partition(" ")
        number = _LEVELS.get(level)
        if line.strip():
            self._last_line = line[:300]
        if number is None:
            number, words = logging.WARNING, line
        if words.strip():
            _LOG.log(number, "%s", words)
