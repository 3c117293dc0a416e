"""Serve requests over HTTP/1.1 from one thread with its own event loop.

Written by hand because the agent's footprint is a feature: the parser and this file replace a web
framework. Small models are answered in the loop itself, a thread hop would cost more than they
do; what is heavy goes to a small pool. Every connection has a deadline for what it is waiting
for, so a slow or silent client costs one file descriptor for a bounded time.

Left out: TLS and authentication; it binds to loopback unless told otherwise.
Invariants: answers of a connection come in the order of its requests; at most
``connections_max`` connections; a connection that sends faster than it is answered, or does not
read its answers, is not read from.
"""

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from edge_agent.adapters.http_parser import (
    HttpError,
    HttpLimits,
    Phase,
    Request,
    RequestParser,
    Response,
)
from edge_agent.adapters.inference_routes import error_response
from edge_agent.errors import AgentError

REQUESTS_IN_A_ROW = 16
"""Pipelined requests answered before other connections have their turn."""
HEAVY_THREADS = 2
SWEEP_S = 0.5
LINGER_S = 2.0
"""After an error the client may still be sending: read on a little, or it never sees the answer."""
STOP_S = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What clients may cost.

    Attributes:
        http: Of one request.
        connections_max: At once; one more is answered 503 and closed.
        idle_s: Between requests.
        head_s: From the first byte of a request to the end of its headers.
        body_s: From there to the end of its body.
        write_s: Without the client reading its answer.
    """

    http: HttpLimits = field(default_factory=HttpLimits)
    connections_max: int = 64
    idle_s: float = 75.0
    head_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 30.0


class ListenError(AgentError):
    """The address cannot be bound; says which one and what to do."""


class Application(Protocol):
    """What answers requests."""

    def is_heavy(self, request: Request) -> bool:
        """Tell whether answering would hold up other connections."""

    def answer(self, request: Request) -> Response:
        """Answer; never raises; may be called from several threads."""


class HttpInferenceServer:
    """A server that is started once and stopped once."""

    def __init__(
        self,
        application: Application,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: ServerLimits | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            application: Answers requests.
            host: Address to bind; loopback unless the operator opens it.
            port: TCP port; 0 takes a free one.
            limits: What clients may cost.
        """
        self._application, self._host, self._port = application, host, port
        self._limits = limits or ServerLimits()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._connections: set[_Connection] = set()
        self._pool = ThreadPoolExecutor(HEAVY_THREADS, thread_name_prefix="infer")

    def start(self) -> int:
        """Bind and serve in a thread; return the port.

        Raises:
            ListenError: The address is in use or not ours.
        """
        bound: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(bound)), name="http", daemon=True
        )
        self._thread.start()
        try:
            return bound.result()
        except (OSError, OverflowError) as error:
            self._pool.shutdown()
            raise ListenError(
                f"cannot listen on {self._host} port {self._port}: {error};"
                " choose another port or stop what uses it"
            ) from error

    def stop(self) -> None:
        """Take no more requests, finish those begun (at most STOP_S), end the thread."""
        loop, stopping, thread = self._loop, self._stopping, self._thread
        if loop is None or stopping is None or thread is None:
            return
        try:
            loop.call_soon_threadsafe(stopping.set)
        except RuntimeError:  # the loop has ended already
            _LOG.debug("the HTTP server had already ended")
        thread.join(STOP_S + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, bound: "Future[int]") -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await self._loop.create_server(
                lambda: _Connection(self._application, self._limits, self._pool, self._connections),
                self._host,
                self._port,
                backlog=self._limits.connections_max,
            )
        except (OSError, OverflowError) as error:
            bound.set_exception(error)
            return
        bound.set_result(server.sockets[0].getsockname()[1])
        sweep = self._loop.create_task(self._sweep())
        await self._stopping.wait()
        server.close()
        ends_at = self._loop.time() + STOP_S
        for connection in tuple(self._connections):
            connection.finish()
        while self._connections and self._loop.time() < ends_at:
            await asyncio.sleep(0.01)
        for connection in tuple(self._connections):
            connection.abort()
        sweep.cancel()

    async def _sweep(self) -> None:
        """End connections whose deadline has passed; sleeps long when there are none."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S if self._connections else 2 * SWEEP_S)
            now = loop.time()
            for connection in tuple(self._connections):
                connection.check_deadline(now)


class _Connection(asyncio.Protocol):
    """One client: bytes in, answers out, in order."""

    def __init__(
        self,
        application: Application,
        limits: ServerLimits,
        pool: ThreadPoolExecutor,
        connections: "set[_Connection]",
    ) -> None:
        self._application, self._limits = application, limits
        self._pool, self._connections = pool, connections
        self._parser = RequestParser(limits.http)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.IDLE
        self._deadline = 0.0
        self._is_busy = False  # a request is in the pool
        self._is_clogged = False  # the client does not read
        self._is_yielding = False  # more requests are buffered, others have their turn
        self._is_ended = False  # the client has sent all it will
        self._is_last = False  # the next answer closes
        self._is_lingering = False  # answered and closed for writing

    # Called by asyncio --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server makes these
        self._transport = transport
        self._connections.add(self)
        self._expect(Phase.IDLE)
        if len(self._connections) > 2 * self._limits.connections_max:
            self.abort()  # too many even to be told
        elif len(self._connections) > self._limits.connections_max:
            self._refuse(
                HttpError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"{self._limits.connections_max} connections are open, try again later",
                    {"Retry-After": "1"},
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        self._parser.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        # Half-closed: what came whole is still answered (False lets asyncio close when idle).
        self._is_ended = True
        return self._is_busy or self._is_yielding or self._is_clogged

    def pause_writing(self) -> None:
        self._is_clogged = True
        self._deadline = self._loop.time() + self._limits.write_s
        self._set_reading(is_on=False)

    def resume_writing(self) -> None:
        self._is_clogged = False
        self._expect(self._parser.phase)
        self._advance()

    # Called by the server -----------------------------------------------------------------------

    def check_deadline(self, now: float) -> None:
        """End the connection if what it waits for is late."""
        if now < self._deadline or self._is_busy or self._transport is None:
            return
        if self._is_lingering or self._is_clogged:
            self.abort()
        elif self._phase is Phase.IDLE:
            self._close()
        else:
            what = "headers" if self._phase is Phase.HEAD else "body"
            self._refuse(HttpError(HTTPStatus.REQUEST_TIMEOUT, f"the {what} came too slowly"))

    def finish(self) -> None:
        """Close now when idle, else after the answer being made."""
        self._is_last = True
        if not self._is_busy:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Inside -------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Answer what has come whole, as far as this turn allows."""
        for _ in range(REQUESTS_IN_A_ROW):
            if self._is_busy or self._is_clogged or self._is_lingering or self._transport is None:
                return
            try:
                request = self._parser.next_request()
            except HttpError as error:
                self._refuse(error)
                return
            if request is None:
                self._wait_for_more()
                return
            if self._application.is_heavy(request):
                self._answer_in_pool(request)
            else:
                self._send(self._application.answer(request), is_last=not request.is_persistent)
        if not self._is_yielding:
            self._is_yielding = True
            self._set_reading(is_on=False)
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._is_yielding = False
        self._advance()

    def _wait_for_more(self) -> None:
        if self._is_ended:
            self._close()
            return
        if self._parser.take_continue() and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        phase = self._parser.phase
        if phase is not self._phase or phase is Phase.IDLE:
            self._expect(phase)
        self._set_reading(is_on=True)

    def _answer_in_pool(self, request: Request) -> None:
        self._is_busy = True
        self._set_reading(is_on=False)
        future = self._loop.run_in_executor(self._pool, self._application.answer, request)
        future.add_done_callback(lambda done: self._on_answered(request, done))

    def _on_answered(self, request: Request, done: "asyncio.Future[Response]") -> None:
        self._is_busy = False
        if done.cancelled() or self._transport is None:
            return
        self._send(done.result(), is_last=not request.is_persistent)
        self._expect(self._parser.phase)
        self._advance()

    def _send(self, response: Response, *, is_last: bool) -> None:
        if self._transport is None:
            return
        is_last = is_last or self._is_last
        self._transport.write(response.encode(is_last=is_last))
        self._phase = Phase.IDLE
        if is_last:
            self._close()

    def _close(self) -> None:
        """Close once what was written has been read, at most ``write_s`` from now."""
        if self._transport is not None:
            self._is_lingering = True
            self._deadline = self._loop.time() + self._limits.write_s
            self._transport.close()

    def _refuse(self, error: HttpError) -> None:
        """Answer, then read on without looking until the client has seen it."""
        if self._transport is None or self._is_lingering:
            return
        self._is_lingering = True
        self._deadline = self._loop.time() + LINGER_S
        self._transport.write(error_response(error).encode(is_last=True))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._set_reading(is_on=True)

    def _expect(self, phase: Phase) -> None:
        """Set the deadline of what is waited for."""
        limits = self._limits
        seconds = {Phase.IDLE: limits.idle_s, Phase.HEAD: limits.head_s, Phase.BODY: limits.body_s}
        self._phase = phase
        self._deadline = self._loop.time() + seconds[phase]

    def _set_reading(self, *, is_on: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or transport.is_reading() == is_on:
            return
        if is_on:
            transport.resume_reading()
        else:
            transport.pause_reading()
