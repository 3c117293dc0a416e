"""Who may ask the agent over HTTP: this machine alone, holders of a token, or of a certificate.

On loopback everybody on the device may ask, web pages excepted: a browser names the page that
asks, and such requests are refused, or any page open on the device could feed the model. So are
those that give the agent a name of the world's, which a page's owner may have pointed here.
Elsewhere the server does not start without a token or client certificates.
Left out: several tokens and rights; behind a proxy the proxy decides.
Invariant: no body is read of a request that is not allowed.
"""

import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import SettingsError
from edge_agent.settings import AgentSettings

if TYPE_CHECKING:
    import ssl

    from edge_agent.adapters.http_parser import HttpError

LIVE_PATH = "/v2/health/live"
"""Answered to everybody: a supervisor need not hold the token to see that the agent lives."""
TOKEN_CHARS_MIN = 43
"""256 bits in base64; 64 in hexadecimal."""
TOKEN_CHARS_MAX = 512
_TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")
_ADDRESS = re.compile(rb"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_HOW_TO_MAKE_ONE = "make one: (umask 077; openssl rand -hex 32 > http.token)"
_BROWSER_SITES = frozenset({b"cross-site", b"same-site", b"same-origin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAccess:
    """Rules of one server.

    Attributes:
        token: What a request must bear; empty when none is needed.
        tls: Serves HTTPS with this; None for HTTP.
        needs_certificate: Whether ``tls`` lets in only holders of a client certificate.
    """

    token: bytes = b""
    tls: "ssl.SSLContext | None" = None
    needs_certificate: bool = False

    def check_host(self, host: str) -> None:
        """Refuse to serve other machines without knowing who asks.

        Raises:
            SettingsError: Says what to set.
        """
        if self.token or self.needs_certificate or is_loopback(host):
            return
        raise SettingsError(
            f"http_host {host!r} lets other machines ask, so http_token_file must name a file"
            f" with a token ({_HOW_TO_MAKE_ONE}), or http_client_ca_file the authority of client"
            " certificates; or set http_host to 127.0.0.1"
        )

    def check_head(self, _method: str, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a request before its body is read; raises HttpError."""
        if self.token:
            if path != LIVE_PATH:
                self._check_token(headers.get(b"authorization", b""))
        elif not self.needs_certificate and (
            b"origin" in headers or headers.get(b"sec-fetch-site", b"") in _BROWSER_SITES
        ):
            raise _refusal(
                "FORBIDDEN",
                "requests of web pages are not served; set http_token_file, or let the page's"
                " own server ask",
            )
        elif not self.needs_certificate and not _is_named_locally(headers.get(b"host", b"")):
            raise _refusal(
                "FORBIDDEN",
                f"the request names this agent {headers[b'host'][:80].decode('latin-1')!r}, a name"
                " that a web page's server can point at it; ask for its address, localhost or a"
                " name without dots, or set http_token_file",
            )

    def _check_token(self, given: bytes) -> None:
        import hmac

        scheme, _, token = given.partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.token):
            return
        what = "another token than this agent's" if given else "no token"
        raise _refusal(
            "UNAUTHORIZED",
            f"the request bears {what}; send Authorization: Bearer TOKEN",
            {"WWW-Authenticate": 'Bearer realm="edge-agent"'},
        )


def _is_named_locally(host: bytes) -> bool:
    """Tell whether no stranger's name server can have led a browser here under this name.

    A page's own name pointed at 127.0.0.1 makes it and the agent one origin, and a browser then
    says nothing of a page.

    >>> [_is_named_locally(h) for h in (b"127.0.0.1:8090", b"[::1]:1", b"gateway", b"pi.local")]
    [True, True, True, True]
    >>> _is_named_locally(b"rebound.example:8090")
    False
    """
    if host.startswith(b"["):
        return True
    name = host.partition(b":")[0].rstrip(b".").lower()
    if b"." not in name or name.endswith((b".local", b".localhost")):
        return True
    return _ADDRESS.fullmatch(name) is not None


def _refusal(status: str, words: str, headers: Mapping[str, str] | None = None) -> "HttpError":
    """Make the refusal; the agent's own process reads these rules and answers nobody."""
    from http import HTTPStatus

    from edge_agent.adapters.http_parser import HttpError

    return HttpError(HTTPStatus[status], words, headers)


def access_of(directory: Path, settings: AgentSettings) -> HttpAccess:
    """Read the rules the settings of an agent's directory ask for, and check its host.

    Raises:
        SettingsError: As ``load_access``, or other machines could ask and nothing tells who may.
    """
    access = load_access(
        directory,
        token_file=settings.http_token_file,
        certificate_file=settings.http_certificate_file,
        key_file=settings.http_key_file,
        client_ca_file=settings.http_client_ca_file,
    )
    access.check_host(settings.http_host)
    return access


def load_access(
    directory: Path,
    *,
    token_file: str = "",
    certificate_file: str = "",
    key_file: str = "",
    client_ca_file: str = "",
) -> HttpAccess:
    """Read the files the settings name; "" means not set, relative paths begin at ``directory``.

    Raises:
        SettingsError: A file is missing, readable by all or not what it should be; says which
            setting, and what to do.
    """
    token = read_token(directory / token_file) if token_file else b""
    if bool(certificate_file) != bool(key_file):
        raise SettingsError("http_certificate_file and http_key_file must be set together")
    if not certificate_file:
        if client_ca_file:
            raise SettingsError(
                "http_client_ca_file needs http_certificate_file and http_key_file:"
                " certificates of clients are part of TLS"
            )
        return HttpAccess(token=token)
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_private(directory / key_file, "http_key_file", "chmod 600")
    try:
        context.load_cert_chain(directory / certificate_file, directory / key_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"http_certificate_file {certificate_file} and http_key_file {key_file} are not a"
            f" PEM certificate and its unencrypted key: {error}"
        ) from error
    if client_ca_file:
        try:
            context.load_verify_locations(directory / client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"http_client_ca_file {client_ca_file} holds no PEM certificates: {error}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return HttpAccess(token=token, tls=context, needs_certificate=bool(client_ca_file))


def read_token(path: Path) -> bytes:
    """Read a token file; whitespace around the token is not part of it. Raises SettingsError."""
    _check_private(path, "http_token_file", "chmod 640")
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_CHARS_MAX + 2).strip()
    except OSError as error:
        raise SettingsError(f"http_token_file {path} cannot be read: {error.strerror}") from error
    is_long_enough = TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX
    if not is_long_enough or _TOKEN.fullmatch(token) is None:
        raise SettingsError(
            f"http_token_file {path} must hold one token of {TOKEN_CHARS_MIN} to"
            f" {TOKEN_CHARS_MAX} letters, digits or -._~+/ (256 random bits), it holds"
            f" {len(token)} bytes; {_HOW_TO_MAKE_ONE}"
        )
    return token


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone.

    >>> [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", "gateway")]
    [True, True, True, False, False, False]
    """
    if host in ("127.0.0.1", "::1", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_private(path: Path, setting: str, remedy: str) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(f"{setting} {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SettingsError(f"{setting} {path} is open to every user; run: {remedy} {path}")
