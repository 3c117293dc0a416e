"""One client of the HTTP server: bytes in, answers out, in order, each wait with its deadline.

Small models are answered in the event loop itself, a thread hop would cost more than they do;
what is heavy goes to ``http_workers.py``, and large bodies wait for ``http_room.py``.
Invariants: answers come in the order of the requests; a client that sends faster than it is
answered, or does not read its answers, is not read from.
"""

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from edge_agent.adapters.http_parser import (
    CheckHead,
    HttpError,
    HttpLimits,
    Phase,
    Request,
    RequestParser,
    Response,
)
from edge_agent.adapters.http_room import BodyRoom
from edge_agent.adapters.http_workers import HeavyWork
from edge_agent.adapters.request_json import encode_json

REQUESTS_IN_A_ROW = 16
"""Pipelined requests answered before other connections have their turn."""
LARGE_BODY_BYTES = 131_072
"""A larger body is read only once there is room for it."""
SILENT_S = 1.0
"""A client that was never answered and says nothing whole for so long gives its place to others."""
LINGER_S = 2.0
"""After an error the client may still be sending: read on a little, or it never sees the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What clients may cost.

    Attributes:
        http: Of one request.
        connections_max: At once; one more takes the place of a client that never asked, else it
            is answered 503 and closed.
        bodies_bytes_max: Large bodies held at once, those of running requests included; further
            ones are not read until there is room, at most for ``body_s``, then answered 503.
        idle_s: Between requests.
        head_s: From the first byte of a request to the end of its headers.
        body_s: From there to the end of its body.
        write_s: Without the client reading its answer.
    """

    http: HttpLimits = field(default_factory=HttpLimits)
    connections_max: int = 64
    bodies_bytes_max: int = 8_388_608
    idle_s: float = 75.0
    head_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 30.0


class Application(Protocol):
    """What answers requests; a subclass gets one that batches and counts nothing."""

    def is_heavy(self, request: Request) -> bool:
        """Tell whether answering would hold up other connections."""

    def answer(self, request: Request) -> Response:
        """Answer; never raises; may be called from several threads."""

    def batch_key(self, request: Request) -> Hashable | None:  # noqa: ARG002 - of the interface
        """Return what heavy requests must share to be answered together; None for never."""
        return None

    def answer_many(self, requests: Sequence[Request]) -> list[Response]:
        """Answer heavy requests of one key, in order; never raises; called from threads."""
        return [self.answer(request) for request in requests]

    def count(self, response: Response, seconds: float) -> None:  # noqa: ARG002 - as above
        """Take note of an answer, ``seconds`` after its request was whole; in the event loop."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the connections of one server share."""

    application: Application
    limits: ServerLimits
    work: HeavyWork
    check_head: CheckHead
    room: BodyRoom
    connections: "set[Connection]" = field(default_factory=set)


def error_response(error: HttpError) -> Response:
    """Build the answer to a request that was not served."""
    body = encode_json({"error": str(error)}).encode()
    return Response(status=error.status, body=body, headers=error.headers)


class Connection(asyncio.Protocol):
    """One client: bytes in, answers out, in order."""

    def __init__(self, service: Service) -> None:
        self._application, self._limits = service.application, service.limits
        self._work, self._connections = service.work, service.connections
        self._room, self._held_bytes = service.room, 0
        self._parser = RequestParser(service.limits.http, service.check_head)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.IDLE
        self._deadline, self.made_at = 0.0, self._loop.time()
        self._is_busy = False  # a request is in the pool
        self._is_clogged = False  # the client does not read
        self._is_yielding = False  # more requests are buffered, others have their turn
        self._is_known = False  # it was answered once
        self._is_queued = False  # a large body waits for room
        self._is_ended = False  # the client has sent all it will
        self._is_last = False  # the next answer closes
        self._is_lingering = False  # answered and closed for writing

    # Called by asyncio --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse one connection too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server makes these
        self._transport = transport
        self._connections.add(self)
        self._expect(Phase.IDLE)
        if len(self._connections) > 2 * self._limits.connections_max:
            self.abort()  # too many even to be told
        elif len(self._connections) > self._limits.connections_max and not self._take_place():
            self._refuse(
                HttpError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"{self._limits.connections_max} connections are open, try again later",
                    {"Retry-After": "1"},
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """End."""
        self._connections.discard(self)
        self._transport = None
        self._leave_room()

    def data_received(self, data: bytes) -> None:
        """Answer what has come whole."""
        if self._is_lingering:
            return
        self._parser.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Answer what came whole before the client closed its side."""
        # False lets asyncio close when idle.
        self._is_ended = True
        return self._is_busy or self._is_yielding or self._is_clogged

    def pause_writing(self) -> None:
        """Stop reading: the client does not read its answers."""
        self._is_clogged = True
        self._deadline = self._loop.time() + self._limits.write_s
        self._set_reading(is_on=False)

    def resume_writing(self) -> None:
        """Go on reading."""
        self._is_clogged = False
        if not self._is_busy:
            self._leave_room()
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
        elif self._is_queued:
            words = "requests of others take all the room for large bodies, try again later"
            headers = {"Retry-After": "1"}
            self._refuse(HttpError(HTTPStatus.SERVICE_UNAVAILABLE, words, headers))
        else:
            what = "headers" if self._phase is Phase.HEAD else "body"
            self._refuse(HttpError(HTTPStatus.REQUEST_TIMEOUT, f"the {what} came too slowly"))

    @property
    def is_silent(self) -> bool:
        """Whether it was never answered, and is not about to be."""
        is_waited_for = self._is_known or self._is_busy or self._is_lingering
        return not is_waited_for and self._phase is not Phase.BODY

    def drain(self) -> None:
        """Close after the next answer, which tells the client so."""
        self._is_last = True

    def finish(self) -> None:
        """Close now when idle, else after the answer being made."""
        self._is_last = True
        if not self._is_busy:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        self._is_lingering = True
        if self._transport is not None:
            self._transport.abort()

    # Inside -------------------------------------------------------------------------------------

    def _take_place(self) -> bool:
        """End the silent client who came first; strangers must not keep everybody else out."""
        latest = self._loop.time() - SILENT_S
        silent = [one for one in self._connections if one.is_silent and one.made_at < latest]
        if not silent:
            return False
        min(silent, key=lambda one: one.made_at).abort()
        return True

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
                began = self._loop.time()
                self._send(self._application.answer(request), request, began)
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
        if not self._has_room():
            return
        if self._parser.take_continue() and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        phase = self._parser.phase
        # Idle begins with an answer, not with empty lines: they would hold a place for ever.
        if phase is not self._phase and phase is not Phase.IDLE:
            self._expect(phase)
        self._set_reading(is_on=True)

    def _has_room(self) -> bool:
        """Tell whether the body that is waited for may be read; if not, it is when it may."""
        size = self._parser.body_bytes
        if size <= LARGE_BODY_BYTES or self._held_bytes:
            return True
        if self._is_queued:
            return False
        if self._room.take(self, size, lambda: self._enter_room(size)):
            self._held_bytes = size
            return True
        self._is_queued = True
        self._expect(Phase.BODY)
        self._set_reading(is_on=False)
        return False

    def _enter_room(self, size: int) -> None:
        self._is_queued, self._held_bytes = False, size
        self._expect(Phase.BODY)
        self._loop.call_soon(self._advance)

    def _leave_room(self) -> None:
        if self._is_queued:
            self._is_queued = False
            self._room.forget(self)
        if self._held_bytes:
            size, self._held_bytes = self._held_bytes, 0
            self._room.give_back(size)

    def _answer_in_pool(self, request: Request) -> None:
        self._is_busy = True
        self._set_reading(is_on=False)
        began = self._loop.time()
        self._work.submit(request, lambda response: self._on_answered(request, response, began))

    def _on_answered(self, request: Request, response: Response, began: float) -> None:
        self._is_busy = False
        if self._transport is None:
            return
        self._send(response, request, began)
        if not self._is_clogged:  # which has a deadline of its own
            self._expect(self._parser.phase)
        self._advance()

    def _send(self, response: Response, request: Request, began: float) -> None:
        if self._transport is None:
            return
        now, self._is_known = self._loop.time(), True
        self._application.count(response, now - began)
        is_last = self._is_last or not request.is_persistent
        self._phase, self._deadline = Phase.IDLE, now + self._limits.idle_s
        has_body = request.method != "HEAD"
        self._transport.write(response.encode(is_last=is_last, has_body=has_body))
        if not self._is_clogged:
            self._leave_room()
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
        self._leave_room()
        self._parser = RequestParser(self._limits.http)  # what came is looked at no more
        response = error_response(error)
        self._application.count(response, 0.0)
        self._transport.write(response.encode(is_last=True))
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
