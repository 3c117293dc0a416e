"""One kept-alive HTTP connection a thread to the agent; a question goes out at most twice.

A connection that ends before the first byte of the answer is made anew once: so it ends when the
agent restarts or its HTTP server is exchanged. After the first byte nothing is repeated. Left out:
redirects, proxies, compression, answers without a length; the agent uses none of them.
Invariant: a connection whose answer was not read to its end is closed.
"""

import contextlib
import http.client
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.errors import ServingError, UnreachableError

ANSWER_BYTES_MAX = 67_108_864
"""The agent answers 2,097,152 numbers at most, each of some twenty characters as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an agent answers.

    Attributes:
        tls: What to speak; None for plain HTTP.
        prefix: Path before the agent's own, of a proxy; "" mostly.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """A whole answer, whatever its status; ``headers`` may be asked without regard to case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _NothingAnsweredError(ServingError):
    """The connection ended before the first byte of an answer."""


class _Response(http.client.HTTPResponse):
    """Tells a connection that ended unanswered from one that broke within the answer."""

    fp: Any

    def begin(self) -> None:
        try:
            first = self.fp.peek(1)
        except ConnectionError as error:
            raise _NothingAnsweredError(str(error)) from error
        if not first:
            raise _NothingAnsweredError("the connection was closed")
        super().begin()


class _Kept(threading.local):
    """What belongs to one thread of one process."""

    connection: http.client.HTTPConnection | None = None
    pid: int = 0


class AgentConnections:
    """Asks the agent; may be used from several threads, and after a fork."""

    def __init__(
        self,
        find_address: Callable[[], Address],
        *,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> None:
        """Prepare; nothing connects yet.

        Args:
            find_address: Asked at each new connection, because a restart may change the port.
            headers: Sent with every question.
            timeout_s: Longest wait for the agent to take or send anything.
        """
        self._find_address, self._headers, self._timeout_s = find_address, headers, timeout_s
        self._kept = _Kept()
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPConnection] = set()

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> RawAnswer:
        """Ask, and read the whole answer.

        Raises:
            UnreachableError: Nobody answers, too late, or not to the end.
            ServingError: The answer is longer than ANSWER_BYTES_MAX, or not the agent's.
        """
        sent = {**self._headers, **(headers or {})}
        for is_last in (False, True):
            try:
                return self._ask_once(method, path, body, sent)
            except _NothingAnsweredError as error:
                if is_last:
                    raise UnreachableError(f"{self._where()} hung up twice: {error}") from error
        raise AssertionError  # the second round returns or raises

    def close(self) -> None:
        """Close the connections of all threads; a later question opens a new one."""
        with self._lock:
            opened, self._open = self._open, set()
        for connection in opened:
            connection.close()

    def _ask_once(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> RawAnswer:
        connection, prefix = self._connection()
        is_whole = False
        try:
            # An agent that refuses a body hangs up before it has read it: its answer may be there.
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                connection.request(method, prefix + path, body or None, dict(headers))
            with connection.getresponse() as response:
                answer = self._read(response)
            is_whole = not response.will_close
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"{self._where()} did not answer {method} {path} within its time or to the end:"
                f" {error!r:.200}"
            ) from error
        finally:
            if not is_whole:
                self._drop(connection)
        return answer

    def _read(self, response: http.client.HTTPResponse) -> RawAnswer:
        size = response.length
        if size is None:
            raise UnreachableError(
                f"{self._where()} answers without a length: broken off, or no edge agent"
            )
        if size > ANSWER_BYTES_MAX:
            raise ServingError(
                f"{self._where()} answers {size} bytes, the limit is {ANSWER_BYTES_MAX};"
                " ask for fewer rows"
            )
        return RawAnswer(status=response.status, headers=response.headers, body=response.read())

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        kept, pid = self._kept, os.getpid()
        connection = kept.connection
        if kept.pid == pid and connection is not None and connection.sock is not None:
            return connection, connection.__dict__["prefix"]
        address = self._find_address()
        if address.tls is None:
            connection = http.client.HTTPConnection(
                address.host, address.port, timeout=self._timeout_s
            )
        else:
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=self._timeout_s, context=address.tls
            )
        connection.response_class = _Response
        connection.__dict__["prefix"] = address.prefix
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise UnreachableError(
                f"no agent answers on {address.host} port {address.port}: {error}; is it running?"
                " (edge-agent status)"
            ) from error
        kept.connection, kept.pid = connection, pid
        with self._lock:
            self._open.add(connection)
        return connection, address.prefix

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._kept.connection = None
        with self._lock:
            self._open.discard(connection)

    def _where(self) -> str:
        address = self._find_address()
        return f"the agent on {address.host} port {address.port}"
