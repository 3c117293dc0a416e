"""Serve requests over HTTP/1.1 from one thread with its own event loop.

Written by hand because the agent's footprint is a feature: the parser, the connection and this
file replace a web framework. Every connection has a deadline for what it is waiting for, so a
slow or silent client costs one file descriptor for a bounded time.

Left out: what a request means (``inference_routes.py``), who may ask (``http_access.py``).
Invariants: it does not start where other machines could ask unknown; at most
``connections_max`` connections, and twice as many in a TLS handshake.
"""

import asyncio
import errno
import logging
import socket
import threading
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from edge_agent.adapters.http_access import HttpAccess
from edge_agent.adapters.http_connection import Application, Connection, ServerLimits, Service
from edge_agent.adapters.http_room import BodyRoom
from edge_agent.adapters.http_workers import HeavyWork
from edge_agent.adapters.listening import ListenError, listen

if TYPE_CHECKING:
    import ssl

SWEEP_S = 0.5
STOP_S = 5.0
HANDSHAKE_S = 5.0
GOODBYE_S = 1.0
"""For a TLS client to close its side, after the agent closed its own."""
ACCEPT_AGAIN_S = 0.2
"""After the system has refused another connection, for want of file descriptors mostly."""
TELL_AGAIN_S = 10.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPTING_TURNS = 4
"""Turns of the loop from accepting a client to its ``Connection``: asyncio forgets those whom it
has accepted when its server is closed before that."""
_LOG = logging.getLogger(__name__)


class HttpInferenceServer:
    """A server that is started once and stopped once."""

    def __init__(
        self,
        application: Application,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: ServerLimits | None = None,
        access: HttpAccess | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Prepare to serve.

        Args:
            application: Answers requests.
            host: Address to bind; loopback, or ``access`` must tell who may ask.
            port: TCP port; 0 takes a free one.
            limits: What clients may cost.
            access: Who may ask; without it everybody on this machine.
            sockets: Listen already on that host; ``stop`` closes them.

        Raises:
            SettingsError: Other machines could ask, and nothing tells who may.
        """
        self._access = access or HttpAccess()
        self._access.check_host(host)
        self._host, self._port, self._limits = host, port, limits or ServerLimits()
        self._sockets = tuple(sockets)
        self._work = HeavyWork(application)
        self._service = Service(
            application=application,
            limits=self._limits,
            work=self._work,
            check_head=self._access.check_head,
            room=BodyRoom(self._limits.bodies_bytes_max),
        )
        self._connections = self._service.connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._drain_s = self._tell_again_at = 0.0

    def start(self) -> int:
        """Bind and serve in a thread; return the port.

        Raises:
            ListenError: The address is in use or not ours.
        """
        try:
            sockets = self._sockets or listen(self._host, self._port)
        except ListenError:
            self._work.stop()
            raise
        port, begun = int(sockets[0].getsockname()[1]), Future[None]()
        self._thread = threading.Thread(
            target=lambda: _run(self._serve(sockets, begun)), name="http", daemon=True
        )
        self._thread.start()
        begun.result()
        return port

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Take no more requests, finish those begun (at most STOP_S), end the thread.

        Args:
            drain_s: Clients that stay connected have so long to ask once more; the answer tells
                them to connect anew, to whoever listens in this server's place.
        """
        self._drain_s = drain_s
        loop, stopping, thread = self._loop, self._stopping, self._thread
        if loop is None or stopping is None or thread is None:
            for each in self._sockets:  # never started
                each.close()
            return
        try:
            loop.call_soon_threadsafe(stopping.set)
        except RuntimeError:  # the loop has ended already
            _LOG.debug("the HTTP server had already ended")
        thread.join(STOP_S + drain_s + 1)
        self._work.stop()

    async def _serve(self, sockets: Sequence[socket.socket], begun: "Future[None]") -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._on_fault)
        tls = self._access.tls
        closers = [
            await self._listen(each) if tls is None else self._listen_tls(each, tls)
            for each in sockets
        ]
        begun.set_result(None)
        sweep = self._loop.create_task(self._sweep())
        await self._stopping.wait()
        for each in sockets:
            self._loop.remove_reader(each)
        for _ in range(ACCEPTING_TURNS):
            await asyncio.sleep(0)
        for close in closers:
            close()
        for connection in tuple(self._connections):
            connection.drain()
        await self._wait_for_clients(self._drain_s)
        for connection in tuple(self._connections):
            connection.finish()
        await self._wait_for_clients(STOP_S)
        for connection in tuple(self._connections):
            connection.abort()
        sweep.cancel()

    def _on_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what nobody awaited; asyncio tells a want of file descriptors 100 times a second."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            loop.default_exception_handler(context)
        elif loop.time() >= self._tell_again_at:
            self._tell_again_at = loop.time() + TELL_AGAIN_S
            _LOG.warning("no further client can be taken: %s", error)

    async def _wait_for_clients(self, seconds: float) -> None:
        """Wait until all have gone, at most so long."""
        ends_at = asyncio.get_running_loop().time() + seconds
        while self._connections and asyncio.get_running_loop().time() < ends_at:
            await asyncio.sleep(0.01)

    async def _listen(self, listener: socket.socket) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self._service), sock=listener)
        return server.close

    def _listen_tls(self, listener: socket.socket, tls: "ssl.SSLContext") -> Callable[[], None]:
        listener.settimeout(0)
        accepting = asyncio.get_running_loop().create_task(self._accept_tls(listener, tls))

        def close() -> None:
            accepting.cancel()
            listener.close()

        return close

    async def _accept_tls(self, listener: socket.socket, tls: "ssl.SSLContext") -> None:
        """Accept clients; asyncio's own loop would let any number be in their handshakes."""
        loop = asyncio.get_running_loop()
        places = asyncio.Semaphore(2 * self._limits.connections_max)
        handshakes: set[asyncio.Task[None]] = set()
        while True:
            await places.acquire()
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                _LOG.warning("no further client can be taken: %s", error)
                places.release()
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            task = loop.create_task(self._shake_hands(client, tls))
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)
            task.add_done_callback(lambda _: places.release())

    async def _shake_hands(self, client: socket.socket, tls: "ssl.SSLContext") -> None:
        client.settimeout(0)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self._service),
                client,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except OSError as error:  # ssl.SSLError is one
            _LOG.info("a client is not let in: %s", error)
            client.close()

    async def _sweep(self) -> None:
        """End connections whose deadline has passed; sleeps long when there are none."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S if self._connections else 2 * SWEEP_S)
            now = loop.time()
            for connection in tuple(self._connections):
                connection.check_deadline(now)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Run a loop of sockets alone, without signals and child processes, until it is over."""
    with asyncio.Runner(loop_factory=BaseSelectorEventLoop) as runner:
        runner.run(serving)
