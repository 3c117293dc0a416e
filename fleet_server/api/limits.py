"""Bounds and headers of every answer: how large a body may be, what browsers may do with it."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet_server.api.problems import problem

BODY_BYTES_MAX = 1_048_576
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""For programs' answers; a page that is shown to people sets its own and keeps them."""
TLS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}


class SecurityHeaders:
    """Put HEADERS on every answer that does not carry its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add them when the answer starts."""
        wanted = HEADERS | (TLS_HEADERS if scope.get("scheme") == "https" else {})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in wanted.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class BodyTooLargeError(Exception):
    """More arrived than BODY_BYTES_MAX."""


class BodyLimit:
    """Refuse bodies beyond BODY_BYTES_MAX before they are read, chunked ones included.

    Compressed ones are refused as such: nothing here inflates what somebody sends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body as it arrives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            await _refuse(
                scope, receive, send, 415, "compressed bodies are not read; send it plain"
            )
            return
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 12 or int(declared) > BODY_BYTES_MAX:
            await _refuse(scope, receive, send)
            return
        seen, has_started, is_over = 0, False, False

        async def counted() -> Message:
            nonlocal seen, is_over
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_BYTES_MAX:
                is_over = True
                raise BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal has_started
            if is_over and not has_started:
                return  # what the application says of a body that broke off
            has_started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except BodyTooLargeError:
            pass
        finally:
            if is_over and not has_started:
                await _refuse(scope, receive, send)


async def _refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int = 413,
    sentence: str = f"the body is larger than {BODY_BYTES_MAX} bytes; send less",
) -> None:
    answer = problem(status, sentence)
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)
