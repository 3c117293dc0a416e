"""Tells systemd how the agent does: the datagrams of ``sd_notify``, standard library only.

Without ``NOTIFY_SOCKET`` (started by hand, or by another supervisor) every call does nothing. A
datagram that is not taken is not tried again: the next one says the same or something newer, and
a supervisor that is gone must not stop an agent.

Invariant: ``beat`` is called by the agent's loop after a whole turn and by nothing else, so a loop
that is stuck, or that fails in every turn, is not kept alive by a thread that is well.
"""

import os
import socket
from collections.abc import Mapping

from edge_agent.ports import Clock

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE = "WATCHDOG_USEC", "WATCHDOG_PID"
STATUS_CHARS_MAX = 200


class ServiceNotifier:
    """One service's words to its supervisor; not thread-safe, the loop's own."""

    def __init__(self, clock: Clock, environment: Mapping[str, str] = os.environ) -> None:
        """Read where to say it and how often the watchdog wants to hear."""
        self._clock = clock
        self._address = _find_address(environment.get(SOCKET_VARIABLE, ""))
        self._interval_s = _find_interval_s(environment) if self._address else None
        self._beat_at = 0.0
        self._status = ""
        self._socket: socket.socket | None = None

    @property
    def watchdog_s(self) -> float | None:
        """How long the loop may be silent, None when nobody watches."""
        return None if self._interval_s is None else self._interval_s * 2

    def say_ready(self) -> None:
        """Say that the agent answers local applications and is about to connect."""
        self._send("READY=1")

    def say_stopping(self) -> None:
        """Say that the agent is ending in good order."""
        self._send("STOPPING=1")

    def say_status(self, status: str) -> None:
        """Show one line in ``systemctl status``; nothing is sent when it says nothing new."""
        if status != self._status:
            self._status = status
            line = "".join(c if c.isprintable() else "?" for c in status[:STATUS_CHARS_MAX])
            self._send(f"STATUS={line}")

    def beat(self) -> None:
        """Feed the watchdog when half of its time is over; to be called after each turn."""
        if self._interval_s is None:
            return
        now = self._clock.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self._interval_s
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            if self._socket is None:
                kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                self._socket = socket.socket(socket.AF_UNIX, kind)
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            self.close()


def _find_address(name: str) -> str:
    """Return the address to send to; empty for what is not one of a Unix socket."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _find_interval_s(environment: Mapping[str, str]) -> float | None:
    """Return half of the watchdog's time, None when this process is not watched."""
    microseconds = environment.get(WATCHDOG_VARIABLE, "")
    process = environment.get(WATCHDOG_PID_VARIABLE, str(os.getpid()))
    if not microseconds.isdigit() or int(microseconds) == 0 or process != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000
