"""HTTP/1.1 requests out of bytes and responses into bytes: strict, bounded, no I/O, no clock.

Refused rather than guessed at, because every guess is a way to smuggle a request: chunked or
otherwise encoded transfers, two lengths, spaces before a colon, folded lines, bare line feeds,
absolute targets. Left out: HTTP/2, upgrades, trailers, ranges.
Invariant: after an error the connection's framing is unknown, so it must be closed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import NamedTuple

from edge_agent.errors import AgentError

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/(\d)\.(\d)")
# Possessive: what was taken is not given back, or a line of spaces would take hours to refuse.
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t -~\x80-\xff]*+)")
_SINGLE = frozenset({b"content-length", b"host", b"transfer-encoding", b"expect"})
_CONTENT_LENGTH_DIGITS_MAX = 12
_TLS_HANDSHAKE = 0x16


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one request may cost.

    Attributes:
        head_bytes_max: Request line and headers together.
        headers_max: Header lines.
        target_bytes_max: Path and query.
        body_bytes_max: Declared length of the body.
    """

    head_bytes_max: int = 16_384
    headers_max: int = 64
    target_bytes_max: int = 2_048
    body_bytes_max: int = 8_388_608


class HttpError(AgentError):
    """A request this server does not take.

    Attributes:
        status: To answer with.
        headers: To answer with, beside the sentence.
    """

    def __init__(
        self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class Request(NamedTuple):
    """One whole request; as a tuple it is made in a third of a dataclass's time.

    Attributes:
        path: Target without its query, still percent-encoded, ASCII.
        headers: Lower-case names; of a repeated header the last.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes
    is_persistent: bool


CheckHead = Callable[[str, str, Mapping[bytes, bytes]], None]
"""Method, path and headers of a request before its body is read; raises HttpError."""
JSON_TYPE = "application/json"
_NO_HEADERS: Mapping[str, str] = {}


class Response(NamedTuple):
    """One whole answer.

    Attributes:
        content_type: Of the body, when there is one.
        endpoint: What kind of request this answers; "" when none was recognised.
        slot: Which slot answered; "" when none did.
        rows: How many rows were answered.
    """

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    headers: Mapping[str, str] = _NO_HEADERS
    content_type: str = JSON_TYPE
    endpoint: str = ""
    slot: str = ""
    rows: int = 0

    def encode(self, *, is_last: bool = False, has_body: bool = True) -> bytes:
        """Encode.

        Args:
            is_last: The connection closes behind it.
            has_body: False for the answer to HEAD: it says what GET would give and gives it not.
        """
        head = [_STATUS_LINES[self.status]]
        if self.body:
            head.append(f"Content-Type: {self.content_type}\r\n")
        head.append(f"Content-Length: {len(self.body)}\r\n")
        head.extend(f"{name}: {value}\r\n" for name, value in self.headers.items())
        if is_last:
            head.append("Connection: close\r\n")
        head.append("\r\n")
        return "".join(head).encode("latin-1") + (self.body if has_body else b"")


class Phase(Enum):
    """What the parser waits for: each has its own deadline."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()


_STATUS_LINES = {status: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before a body."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    is_persistent: bool
    body_bytes: int
    wants_continue: bool


class RequestParser:
    """Bytes in, requests out, in order; holds at most one unfinished request and what follows."""

    def __init__(self, limits: HttpLimits, check_head: CheckHead | None = None) -> None:
        """Begin with nothing.

        Args:
            limits: What one request may cost.
            check_head: Refuses a request before its body is waited for.
        """
        self._limits, self._check_head = limits, check_head
        self._buffer = bytearray()
        self._searched = 0
        self._head: _Head | None = None
        self._wants_continue = False
        # Clients of a kept connection repeat their head byte for byte; it means the same again.
        self._former: tuple[bytes, _Head] | None = None

    @property
    def phase(self) -> Phase:
        """What is missing for the next request."""
        if self._head is not None:
            return Phase.BODY
        return Phase.HEAD if self._buffer else Phase.IDLE

    @property
    def body_bytes(self) -> int:
        """Length of the body that is waited for; 0 while none is."""
        return self._head.body_bytes if self._head is not None else 0

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next whole request, None when more bytes are needed.

        Raises:
            HttpError: Not a request this server takes.
        """
        if self._head is None:
            self._head = self._take_head()
            if self._head is None:
                return None
        head = self._head
        if len(self._buffer) < head.body_bytes:
            return None
        if len(self._buffer) == head.body_bytes:  # a slice would be a third copy of it
            body = bytes(self._buffer)
            self._buffer.clear()
        else:
            body = bytes(self._buffer[: head.body_bytes])
            del self._buffer[: head.body_bytes]
        self._head, self._wants_continue = None, False
        return Request(
            method=head.method,
            path=head.path,
            headers=head.headers,
            body=body,
            is_persistent=head.is_persistent,
        )

    def take_continue(self) -> bool:
        """Tell once whether the client waits for ``100 Continue`` before it sends its body."""
        wants, self._wants_continue = self._wants_continue, False
        return wants

    def _take_head(self) -> _Head | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # RFC 9112 2.2: empty lines before a request line
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if max(end, 0 if end >= 0 else len(buffer)) > self._limits.head_bytes_max:
            raise HttpError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"request line and headers exceed {self._limits.head_bytes_max} bytes",
            )
        if buffer and buffer != b"\r" and not 0x41 <= buffer[0] <= 0x5A:  # A to Z
            hint = "; ask with http://, this is TLS" if buffer[0] == _TLS_HANDSHAKE else ""
            raise HttpError(
                HTTPStatus.BAD_REQUEST, f"{bytes(buffer[:20])!r} begins no HTTP/1.1 request{hint}"
            )
        if end < 0:
            self._searched = len(buffer)
            return None
        raw = bytes(buffer[:end])
        del buffer[: end + 4]
        self._searched = 0
        if self._former is None or self._former[0] != raw:
            self._former = (raw, self._parse_head(raw.split(b"\r\n")))
        head = self._former[1]
        self._wants_continue = head.wants_continue
        return head

    def _parse_head(self, lines: list[bytes]) -> _Head:
        method, path, is_persistent = self._parse_request_line(lines[0])
        headers = self._parse_headers(lines[1:])
        if is_persistent and b"host" not in headers:
            raise HttpError(HTTPStatus.BAD_REQUEST, "header Host is missing")
        body_bytes = self._find_length(method, headers)
        expect = headers.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise HttpError(HTTPStatus.EXPECTATION_FAILED, "only Expect: 100-continue is known")
        if self._check_head is not None:
            self._check_head(method, path, headers)
        wants_continue = expect is not None and is_persistent
        tokens = headers.get(b"connection", b"").lower()
        is_persistent = is_persistent and b"close" not in tokens
        return _Head(method, path, headers, is_persistent, body_bytes, wants_continue)

    def _parse_request_line(self, line: bytes) -> tuple[str, str, bool]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise HttpError(
                HTTPStatus.BAD_REQUEST, f"{line[:80]!r} is not an HTTP/1.1 request line"
            )
        method, target, major, minor = match.groups()
        if major != b"1" or minor not in (b"0", b"1"):
            raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is served")
        if len(target) > self._limits.target_bytes_max:
            raise HttpError(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"target of {len(target)} bytes, the limit is {self._limits.target_bytes_max}",
            )
        # A client of HTTP/1.0 is answered and then let go.
        return method.decode(), target.partition(b"?")[0].decode(), minor == b"1"

    def _parse_headers(self, lines: list[bytes]) -> dict[bytes, bytes]:
        if len(lines) > self._limits.headers_max:
            raise HttpError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"{len(lines)} headers, the limit is {self._limits.headers_max}",
            )
        headers: dict[bytes, bytes] = {}
        for line in lines:
            match = _HEADER.fullmatch(line)
            if match is None:
                raise HttpError(HTTPStatus.BAD_REQUEST, f"{line[:80]!r} is not a header line")
            name = match[1].lower()
            if name in _SINGLE and name in headers:
                raise HttpError(HTTPStatus.BAD_REQUEST, f"header {name.decode()} is there twice")
            headers[name] = match[2].rstrip(b" \t")
        return headers

    def _find_length(self, method: str, headers: Mapping[bytes, bytes]) -> int:
        if b"transfer-encoding" in headers:
            raise HttpError(
                HTTPStatus.NOT_IMPLEMENTED,
                "chunked and other transfer encodings are not served; send Content-Length",
            )
        text = headers.get(b"content-length")
        if text is None:
            if method in ("POST", "PUT", "PATCH"):
                raise HttpError(HTTPStatus.LENGTH_REQUIRED, f"{method} needs Content-Length")
            return 0
        if not text.isdigit() or len(text) > _CONTENT_LENGTH_DIGITS_MAX:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"Content-Length {text[:40]!r} is no length")
        if int(text) > self._limits.body_bytes_max:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"body of {int(text)} bytes, the limit is {self._limits.body_bytes_max}",
            )
        return int(text)
