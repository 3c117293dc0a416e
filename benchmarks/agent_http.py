"""A client for servers of one protocol: many connections, one thread, as little work as can be.

Each connection asks again as soon as it was answered. A connection that the server says it closes
is made anew; anything but an answer 200 is a failure and is counted.
"""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

ANSWER_S = 10.0
READ_BYTES = 65_536


@dataclass(slots=True, kw_only=True)
class Seen:
    """What one load saw.

    Attributes:
        seconds: How long it lasted.
        latencies_s: Of every answer.
        gap_s: Longest time in which no connection was answered.
        failures: Requests without an answer 200.
        reasons: Of the first of them.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    gap_s: float = 0.0
    failures: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds

    def fail(self, reason: str) -> None:
        self.failures += 1
        if len(self.reasons) < 5:
            self.reasons.append(reason)


@dataclass(slots=True)
class _Client:
    connected: socket.socket
    asked_at: float = 0.0
    data: bytes = b""


def load(port: int, request: bytes, *, connections: int, is_over: Callable[[float], bool]) -> Seen:
    """Ask until ``is_over``, given the seconds since the beginning, says so."""
    asking = _Asking(port, request)
    try:
        return asking.run(connections, is_over)
    finally:
        asking.close()


class _Asking:
    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._seen, self._poll = Seen(), select.epoll()
        self._clients: dict[int, _Client] = {}
        self._answered_at = 0.0

    def run(self, connections: int, is_over: Callable[[float], bool]) -> Seen:
        for _ in range(connections):
            self._connect()
        seen = self._seen
        began = self._answered_at = time.perf_counter()
        while not is_over(time.perf_counter() - began):
            for number, _ in self._poll.poll(ANSWER_S):
                self._take(self._clients[number])
            if time.perf_counter() - self._answered_at > ANSWER_S:
                seen.fail(f"no answer for {ANSWER_S:.0f} s")
                break
        seen.seconds = time.perf_counter() - began
        return seen

    def close(self) -> None:
        for client in self._clients.values():
            client.connected.close()
        self._poll.close()

    def _take(self, client: _Client) -> None:
        try:
            data = client.connected.recv(READ_BYTES)
        except OSError as error:
            self._fail(client, repr(error))
            return
        if not data:
            self._fail(client, "the connection was closed without an answer")
            return
        client.data += data
        if not _is_whole(client.data):
            return
        self._note(client, time.perf_counter())
        is_last = b"\r\nconnection: close" in client.data[:400].lower()
        client.data = b""
        if is_last:
            self._connect_anew(client)
        else:
            self._ask(client)

    def _note(self, client: _Client, now: float) -> None:
        seen = self._seen
        seen.gap_s = max(seen.gap_s, now - self._answered_at)
        self._answered_at = now
        seen.latencies_s.append(now - client.asked_at)
        if not client.data.startswith(b"HTTP/1.1 200"):
            seen.fail(client.data[:200].decode(errors="replace"))

    def _fail(self, client: _Client, reason: str) -> None:
        self._seen.fail(reason)
        self._connect_anew(client)

    def _connect_anew(self, client: _Client) -> None:
        self._poll.unregister(client.connected)
        del self._clients[client.connected.fileno()]
        client.connected.close()
        self._connect()

    def _connect(self) -> None:
        connected = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = self._clients[connected.fileno()] = _Client(connected)
        self._poll.register(connected, select.EPOLLIN)
        self._ask(client)

    def _ask(self, client: _Client) -> None:
        client.asked_at = time.perf_counter()
        try:
            client.connected.sendall(self._request)
        except OSError as error:
            self._fail(client, repr(error))


def load_for(port: int, request: bytes, *, connections: int, seconds: float) -> Seen:
    """Ask for so long."""
    return load(port, request, connections=connections, is_over=lambda passed: passed >= seconds)


def _is_whole(data: bytes) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    at = head.find(b"content-length:")
    return at >= 0 and len(data) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
