"""The HTTP server around the API: nobody holds it by being slow.

uvicorn ends connections that rest between two requests, but waits for ever on a request that
never ends. Here every part of a request has its time, one address may hold half of the connections
at most, and a handshake that stalls is cut before it counts as a connection.
"""

import asyncio
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

KEEP_ALIVE_S = 15
CONCURRENCY_MAX = 256
BACKLOG = 256
HEAD_BYTES_MAX = 16_384
HANDSHAKE_S = 10.0
STOP_S = 5
FILES_WANTED = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long a client may take, in seconds, and how much it may hold.

    Attributes:
        head_s: From the first byte, or the connection, to the end of the headers.
        body_s: From there to the end of the body.
        answer_s: From there to the end of the answer, read by the client.
        per_address: Connections from one address at once.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    answer_s: float = 120.0
    per_address: int = CONCURRENCY_MAX // 2


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 in which each part of a request ends in time or the connection does."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._watched: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Refuse one too many of an address; start the time of the first headers."""
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        same = sum(
            1
            for other in self.connections
            if (address := getattr(other, "client", None)) and address[0] == host
        )
        if same > self.bounds.per_address:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take data, then look in which part of a request this is."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Rest until the next request; resting has uvicorn's own limit."""
        super().on_response_complete()
        if self._part()[0] == "head":
            self._unwatch()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._unwatch()
        super().connection_lost(exc)

    def _part(self) -> tuple[str, int]:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            return "head", id(cycle)
        return ("body" if cycle.more_body else "answer"), id(cycle)

    def _watch(self) -> None:
        """Start a part's time when it begins; bytes that trickle in do not prolong it."""
        part = self._part()
        if part == self._watched or self.transport.is_closing():
            return
        self._unwatch()
        self._watched = part
        limits = self.bounds
        times = {"head": limits.head_s, "body": limits.body_s, "answer": limits.answer_s}
        self._timer = self.loop.call_later(times[part[0]], self._cut)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._watched = None

    def _cut(self) -> None:
        self.transport.abort()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose TLS servers give a handshake HANDSHAKE_S."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:
        if kwargs.get("ssl"):
            kwargs = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": 5.0, **kwargs}
        return await super().create_server(*args, **kwargs)


def make_loop() -> asyncio.AbstractEventLoop:
    """Give the server's event loop; uvicorn imports it by name."""
    return _Loop()


def make_server(
    app: FastAPI, *, host: str, port: int, certificate: Path | None, key: Path | None
) -> uvicorn.Server:
    """Build the server; ``run`` serves until SIGTERM.

    Args:
        app: Of ``create_app``.
        host: To listen on.
        port: To listen on; 0 for a free one.
        certificate: Chain as PEM; None for plain HTTP, which the caller allows on loopback only.
        key: Of the certificate, PEM.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            loop=f"{__name__}:make_loop",
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # who asks is who connected, whatever a header says
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            limit_concurrency=CONCURRENCY_MAX,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
    )


def allow_files() -> None:
    """Raise this process's limit of open files: handshakes that stall hold one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
