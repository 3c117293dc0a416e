"""Join a fleet: a join string against an identity on disk.

An impostor learns nothing: before the secret is sent, the certificate of the server's CA must
have the hash the join string pins, and the server must prove over TLS that this CA issued its
certificate for this host. What comes back is checked against the string and the device's own key
before anything counts as an identity.

A join string that says plain text (``adapters/plain_text.py``) changes one thing: both requests go
without TLS, and only to this machine itself. Key, certificate and every check stay.
"""

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from edge_agent.adapters.device_keys import (
    find_certificate_problem,
    key_pem,
    make_key,
    make_request,
)
from edge_agent.adapters.files import make_directory, remove_durable, remove_file, write_durable
from edge_agent.adapters.identity_store import (
    CAS,
    PAIRS,
    PROBLEM_FILE,
    identity_directory,
    is_enrolled,
    load_identity,
    other_ca,
    other_pair,
    save_identity,
)
from edge_agent.adapters.plain_text import find_loopback
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.contract.errors import ContractError
from edge_agent.contract.join import (
    CA_BYTES_MAX,
    CA_PATH,
    ENROL_PATH,
    GRANT_BYTES_MAX,
    EnrolGrant,
    EnrolRequest,
    JoinTicket,
)
from edge_agent.errors import EnrolmentError, NotEnrolledError, PlainTextError, SettingsError
from edge_agent.ports import Identity

TIMEOUT_S = 15.0


class ServerUnreachableError(EnrolmentError):
    """Nobody answers; the join string still works."""

    is_unreachable = True


def enrol(
    join_string: str,
    directory: Path,
    *,
    is_replacing: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Identity:
    """Join the fleet of a join string.

    Args:
        join_string: As ``edgefleet device add`` printed it.
        directory: The agent's directory.
        is_replacing: Whether an identity that is there may be replaced; it stays until the new
            one is whole.
        timeout_s: For each of the two requests as a whole.

    Raises:
        EnrolmentError: Already joined, a join string that is wrong, used or expired, a server
            that is not the one of the string or does not answer; says what to do next.
        StorageError: The directory cannot be written; the join string still works.
    """
    if is_enrolled(directory) and not is_replacing:
        raise EnrolmentError(
            f"{identity_directory(directory)} holds an identity already; give this device another"
            " --dir, or remove that folder to join anew"
        )
    try:
        ticket = JoinTicket.decode(join_string)
    except ContractError as error:
        raise EnrolmentError(f"{error}; copy the whole string that begins with ef1:") from error
    ca_pem = _fetch_ca(ticket, timeout_s)
    key = make_key()
    home = identity_directory(directory)
    make_directory(home)
    probe = home / "device.key.new"
    write_durable(probe, key_pem(key))  # a full disk shows before the secret is used up
    grant = _request_certificate(ticket, ca_pem, make_request(key, ticket.device_id), timeout_s)
    identity = keep_grant(ticket, grant, ca_pem, key, directory)
    remove_file(probe)
    return identity


def keep_grant(
    ticket: JoinTicket,
    grant: EnrolGrant,
    ca_pem: bytes,
    key: EllipticCurvePrivateKey,
    directory: Path,
) -> Identity:
    """Check an answer against the join string and our key, then keep it as the identity.

    Raises:
        EnrolmentError: Something in it is not what the string pins; nothing is kept.
        StorageError: The directory cannot be written.
    """
    _check_grant(ticket, grant, ca_pem, key)
    pair, ca = _find_free_names(directory)
    identity = Identity(
        device_id=grant.device_id,
        profile=grant.profile,
        fleet=grant.fleet,
        host=grant.mqtt_host,
        mqtt_port=grant.mqtt_port,
        api_port=ticket.api_port,
        root=grant.root.encode(),
        directory=identity_directory(directory),
        pair=pair,
        is_plain=ticket.is_plain,
        ca=ca,
    )
    save_identity(
        identity,
        ca_pem=ca_pem,
        certificate_pem=grant.certificate.encode(),
        key_pem=key_pem(key),
    )
    _forget_former(identity)
    return identity


def _find_free_names(directory: Path) -> tuple[str, str]:
    """Name the files that may be written while an identity that is there stays whole."""
    try:
        former = load_identity(directory)
    except (NotEnrolledError, SettingsError):
        return PAIRS[0], CAS[0]
    return other_pair(former.pair), other_ca(former.ca)


def _forget_former(identity: Identity) -> None:
    """Remove the files that were replaced, and what was noted about their renewal."""
    former = replace(identity, pair=other_pair(identity.pair), ca=other_ca(identity.ca))
    # The certificate goes last: while it is there, the pair is known to be one of before.
    remove_durable(former.key_path)
    for path in (former.certificate_path, former.ca_path, identity.directory / PROBLEM_FILE):
        remove_file(path)


def _fetch_ca(ticket: JoinTicket, timeout_s: float) -> bytes:
    """Get the CA's certificate from whoever answers; only its hash makes it believable."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    status, body = _exchange(ticket, anyone, "GET", CA_PATH, None, timeout_s, CA_BYTES_MAX)
    try:
        der = ssl.PEM_cert_to_DER_cert(body.decode("ascii").strip())
    except ValueError:
        der = b""
    if status != 200 or hashlib.sha256(der).hexdigest() != ticket.ca_sha256:
        raise EnrolmentError(
            f"{_where(ticket)} is not the server of this join string: its CA certificate has"
            " another fingerprint; nothing was sent to it; check host and port, and make a new"
            " string with `edgefleet device add`"
        )
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _request_certificate(
    ticket: JoinTicket, ca_pem: bytes, csr: bytes, timeout_s: float
) -> EnrolGrant:
    pinned = ssl.create_default_context(cadata=ca_pem.decode())
    pinned.minimum_version = ssl.TLSVersion.TLSv1_2
    body = EnrolRequest(
        secret=ticket.secret, csr=csr.decode(), root_sha256=ticket.root_sha256
    ).encode()
    status, answer = _exchange(ticket, pinned, "POST", ENROL_PATH, body, timeout_s, GRANT_BYTES_MAX)
    if status != 200:
        raise EnrolmentError(f"{_where(ticket)} refused: {_detail(status, answer)}")
    try:
        return EnrolGrant.decode(answer)
    except ContractError as error:
        raise EnrolmentError(f"{_where(ticket)} answered something else: {error}") from error


def _check_grant(
    ticket: JoinTicket, grant: EnrolGrant, ca_pem: bytes, key: EllipticCurvePrivateKey
) -> None:
    problem = ""
    if hashlib.sha256(grant.root.encode()).hexdigest() != ticket.root_sha256:
        problem = "the root of trust is not the one the join string pins"
    elif (grant.device_id, grant.fleet) != (ticket.device_id, ticket.fleet):
        problem = f"it is for {grant.device_id} of fleet {grant.fleet}"
    else:
        problem = find_certificate_problem(
            grant.certificate.encode(), ca_pem, key, ticket.device_id
        )
    if problem:
        raise EnrolmentError(
            f"the answer of {_where(ticket)} was not accepted: {problem}; nothing was kept; tell"
            " whoever runs the server, then join with a new string"
        )


def _exchange(
    ticket: JoinTicket,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None,
    timeout_s: float,
    bytes_max: int,
) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection | None = None
    try:
        connection = _connect(ticket, context, timeout_s)
        with _ended_after(timeout_s, connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read(bytes_max + 1)
    except ssl.SSLCertVerificationError as error:
        raise EnrolmentError(
            f"{_where(ticket)} could not prove that it is the server of this join string"
            f" ({error.verify_message}); the secret was not sent; if this device's clock is wrong"
            f" ({SystemClock().now():%Y-%m-%d %H:%M} UTC), set it and join again"
        ) from error
    except PlainTextError as error:
        raise EnrolmentError(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnreachableError(
            f"{_where(ticket)} does not answer ({error}); check that `edgefleet up` runs there"
            " and that this device reaches it, then join again"
        ) from error
    finally:
        if connection is not None:
            connection.close()
    if len(answer) > bytes_max:
        raise EnrolmentError(f"{_where(ticket)} answered more than {bytes_max} bytes")
    return response.status, answer


@contextlib.contextmanager
def _ended_after(timeout_s: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    """Bound a whole exchange: a socket's own time-out begins anew with every byte.

    Raises:
        TimeoutError: It took longer; the connection is shut down.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        sock = connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if is_over.is_set():
            raise TimeoutError(f"no whole answer within {timeout_s:g} s") from error
        raise
    finally:
        timer.cancel()
    if is_over.is_set():
        raise TimeoutError(f"no whole answer within {timeout_s:g} s")


def _connect(
    ticket: JoinTicket, context: ssl.SSLContext, timeout_s: float
) -> http.client.HTTPConnection:
    host, port = ticket.host, ticket.api_port
    if ticket.is_plain:
        return http.client.HTTPConnection(find_loopback(host, port), port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _detail(status: int, answer: bytes) -> str:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    detail = value.get("detail") if isinstance(value, dict) else None
    return str(detail)[:1_000] if detail else f"HTTP status {status}"


def _where(ticket: JoinTicket) -> str:
    return f"{ticket.host}:{ticket.api_port}"
