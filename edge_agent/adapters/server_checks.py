"""Look at the server for ``edge-agent doctor``: API, broker, and its clock beside ours.

Works with a join string before there is an identity: the API's authority must be the one the string
pins, and then proves the broker. The secret of the string is never sent and never printed.
"""

import hashlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from edge_agent.adapters.plain_text import find_loopback
from edge_agent.contract.join import CA_BYTES_MAX, CA_PATH, JoinTicket
from edge_agent.core.checkup import Check, Level, judge_skew
from edge_agent.errors import PlainTextError
from edge_agent.ports import Clock, Identity

TIMEOUT_S = 5.0
IS_IT_UP = "is `edgefleet up` running there, is the port open, is the name right?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and what proves it.

    Attributes:
        host: Name or address.
        api_port: HTTPS port.
        mqtt_port: TLS port of the broker.
        ca_sha256: Fingerprint its authority must have; empty when ``ca_pem`` is known.
        ca_pem: The authority of this device's fleet; empty before it has joined.
        pair: Certificate and key this device shows the broker; None before it has joined.
        is_plain: It speaks no TLS.
    """

    host: str
    api_port: int
    mqtt_port: int
    ca_sha256: str = ""
    ca_pem: str = ""
    pair: tuple[Path, Path] | None = None
    is_plain: bool = False


def server_of_ticket(ticket: JoinTicket) -> Server:
    """Return the server of a join string."""
    return Server(
        host=ticket.host,
        api_port=ticket.api_port,
        mqtt_port=ticket.mqtt_port,
        ca_sha256=ticket.ca_sha256,
        is_plain=ticket.is_plain,
    )


def server_of_identity(identity: Identity) -> Server:
    """Return the server a device has joined.

    Raises:
        OSError: Its authority, or this device's certificate or key, is unreadable or damaged.
    """
    server = Server(
        host=identity.host,
        api_port=identity.api_port,
        mqtt_port=identity.mqtt_port,
        ca_pem=identity.ca_path.read_text(errors="replace"),
        pair=(identity.certificate_path, identity.key_path),
        is_plain=identity.is_plain,
    )
    _context(server.ca_pem, server.pair)
    return server


def check_server(server: Server, clock: Clock) -> Iterator[Check]:
    """Ask the API for its authority and its time, then the broker for a handshake."""
    check, ca_pem, date = _ask_api(server)
    yield check
    if date is not None:
        yield judge_skew(clock.now(), date, f"the server's clock ({server.host})")
    yield _try_broker(server, ca_pem)


def _ask_api(server: Server) -> tuple[Check, str, datetime | None]:
    where = f"{server.host}:{server.api_port}"
    try:
        connection = _connect(server)
        try:
            connection.request("GET", CA_PATH)
            response = connection.getresponse()
            body, date = response.read(CA_BYTES_MAX), _read_date(response.getheader("Date"))
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        detail = f"{where} is not the server this device joined: {error.verify_message}"
        step = "check the host, and this device's clock; a server with new keys needs a new join"
        return Check(name="api", level=Level.BAD, detail=detail, next_step=step), "", None
    except PlainTextError as error:
        return Check(name="api", level=Level.BAD, detail=str(error)), "", None
    except (OSError, http.client.HTTPException) as error:
        if server.pair is None:
            return _unreachable("api", where, error), "", None
        detail = f"{where} cannot be reached: {error}; a device that has joined does without it"
        check = Check(name="api", level=Level.WARN, detail=detail, next_step=IS_IT_UP)
        return check, server.ca_pem, None
    ca_pem = server.ca_pem or _find_authority(body, server.ca_sha256)
    if not ca_pem:
        detail = f"{where} answers, but its authority is not the one the join string pins"
        step = "check host and port; make a new string with `edgefleet device add`"
        return Check(name="api", level=Level.BAD, detail=detail, next_step=step), "", date
    return Check(name="api", level=Level.OK, detail=f"{where} answers"), ca_pem, date


def _connect(server: Server) -> http.client.HTTPConnection:
    if server.is_plain:
        address = find_loopback(server.host, server.api_port)
        return http.client.HTTPConnection(address, server.api_port, timeout=TIMEOUT_S)
    if server.ca_pem:
        context = _context(server.ca_pem)
    else:  # only the fingerprint of what it sends makes anything of it believable
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(
        server.host, server.api_port, timeout=TIMEOUT_S, context=context
    )


def _try_broker(server: Server, ca_pem: str) -> Check:
    where, address = f"{server.host}:{server.mqtt_port}", (server.host, server.mqtt_port)
    try:
        if server.is_plain:
            here = find_loopback(*address)
            socket.create_connection((here, server.mqtt_port), TIMEOUT_S).close()
            return Check(
                name="broker", level=Level.OK, detail=f"INSECURE: {where} answers without TLS"
            )
        with socket.create_connection(address, TIMEOUT_S) as raw:
            if not ca_pem:
                detail = f"{where} takes connections; who it is could not be proven"
                step = "see to the api first"
                return Check(name="broker", level=Level.WARN, detail=detail, next_step=step)
            context = _context(ca_pem, server.pair)
            with context.wrap_socket(raw, server_hostname=server.host) as secure:
                detail = f"{where} answers with {secure.version()}"
                return Check(name="broker", level=Level.OK, detail=detail)
    except ssl.SSLCertVerificationError as error:
        detail = f"{where} is not the server of this fleet: {error.verify_message}"
        step = "check host and port, and this device's clock"
        return Check(name="broker", level=Level.BAD, detail=detail, next_step=step)
    except PlainTextError as error:
        return Check(name="broker", level=Level.BAD, detail=str(error))
    except OSError as error:
        return _unreachable("broker", where, error)


def _context(ca_pem: str, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Trust one authority alone; raises OSError (``ssl.SSLError`` is one) for damaged files."""
    try:
        context = ssl.create_default_context(cadata=ca_pem)
    except ValueError as error:
        raise ssl.SSLError(f"the fleet's authority is damaged: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def _find_authority(body: bytes, sha256: str) -> str:
    """Return the certificate in PEM form when it has the fingerprint, else nothing."""
    try:
        text = body.decode("ascii").strip()
        der = ssl.PEM_cert_to_DER_cert(text)
    except ValueError:
        return ""
    return text if hashlib.sha256(der).hexdigest() == sha256 else ""


def _read_date(text: str | None) -> datetime | None:
    try:
        at = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _unreachable(name: str, where: str, error: Exception) -> Check:
    detail = f"{where} cannot be reached: {error}"
    return Check(name=name, level=Level.BAD, detail=detail, next_step=IS_IT_UP, is_unreachable=True)
