"""Whoever sits between a joining device and its server, or found a join string, over real HTTPS."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_agent.adapters.device_keys import make_request
from edge_agent.adapters.enrolment import enrol, keep_grant
from edge_agent.adapters.identity_store import is_enrolled
from edge_agent.contract.join import CA_PATH, ENROL_PATH, EnrolGrant, JoinTicket
from edge_agent.errors import EnrolmentError
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_authority, build_device_desk, build_enrolment
from tests.support.attacks import AUDIT, TOLD, Attack, AttackSuite, AttackWorld, hold
from tests.support.trust_fleet import EnrolServer, enrol_server, make_fleet

attack = AttackSuite("the network, or a join string")
REFUSED = f"{AUDIT}: join.refused"


def new_ticket(w: AttackWorld, device_id: str = "cam-2") -> JoinTicket:
    desk = build_device_desk(w.server.opened, actor="ann")
    return desk.add(DeviceSpec(id=device_id, profile="camera", labels={}))


def home(w: AttackWorld, name: str = "joining") -> Path:
    return w.device.directory.with_name(name)


def refused_by_device(act: Callable[[], object], directory: Path, sentence: str) -> str:
    """Expect that the device refuses and keeps nothing."""
    with pytest.raises(EnrolmentError, match=sentence):
        act()
    assert not is_enrolled(directory)
    return EnrolmentError.__name__


def post(w: AttackWorld, server: EnrolServer, body: bytes) -> tuple[int, dict[str, Any]]:
    ca = w.server.workspace.keys_dir / "ca.pem"
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=10)
    try:
        connection.request("POST", ENROL_PATH, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def ask(w: AttackWorld, server: EnrolServer, secret: str, csr: bytes) -> tuple[int, dict[str, Any]]:
    return post(w, server, json.dumps({"v": 1, "secret": secret, "csr": csr.decode()}).encode())


def csr_of(*names: str) -> bytes:
    """A request whose subject has these common names."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    return signed.public_bytes(Encoding.PEM)


# Join strings -----------------------------------------------------------------------------------


@attack("403", seen=REFUSED)
def use_a_join_string_a_second_time(w: AttackWorld) -> str:
    """A secret works once; that it was tried again is in the log."""
    ticket = new_ticket(w)
    with enrol_server(w.server.opened) as server:
        enrol(replace(ticket, api_port=server.port).encode(), home(w))
        status, _ = ask(w, server, ticket.secret, csr_of("cam-2"))
    return str(status)


@attack("403", seen=REFUSED)
def use_a_join_string_of_yesterday(w: AttackWorld) -> str:
    """A secret works for 24 hours."""
    ticket = new_ticket(w)
    w.advance(days=1.01)
    with enrol_server(w.server.opened) as server:
        status, _ = ask(w, server, ticket.secret, csr_of("cam-2"))
    w.turn_back(days=1.01)
    return str(status)


@attack("403", seen=REFUSED)
def use_a_join_string_that_was_replaced(w: AttackWorld) -> str:
    """A new join string cancels the one before."""
    ticket = new_ticket(w)
    build_device_desk(w.server.opened, actor="ann").add_again("cam-2")
    with enrol_server(w.server.opened) as server:
        status, _ = ask(w, server, ticket.secret, csr_of("cam-2"))
    return str(status)


@attack("403", seen=REFUSED)
def guess_join_secrets(w: AttackWorld) -> str:
    """256 random bits; found by their hash, so that timing says nothing; guesses are in the log."""
    new_ticket(w)
    with enrol_server(w.server.opened) as server:
        statuses = {
            ask(w, server, guess, csr_of("cam-2"))[0]
            for guess in ("", "a", "0" * 43, "' OR 1=1 --", "\u0000", "cam-2", "a" * 128)
        }
    assert statuses == {403}
    rows = [row for row in w.server.audit_rows() if row.act == "join.refused"]
    assert len(rows) == 6  # and no more: guessing must not fill the log
    return "403"


@attack("403", seen=REFUSED)
def replay_a_whole_captured_request(w: AttackWorld) -> str:
    """The secret in it is used up; and without the key the certificate would be worth nothing."""
    ticket, csr = new_ticket(w), csr_of("cam-2")
    with enrol_server(w.server.opened) as server:
        assert ask(w, server, ticket.secret, csr)[0] == 200
        status, answer = ask(w, server, ticket.secret, csr)
    assert "certificate" not in answer
    return str(status)


# Certificate requests ---------------------------------------------------------------------------


@attack("the token's name", seen=f"{AUDIT}: device.enrol")
def ask_for_the_name_of_another(w: AttackWorld) -> str:
    """The name in a certificate comes from the join record, never from the request."""
    names = ("cam-1", "server", "broker", "cam-2+x", "#", "+/+", "../cam-1", "*", "CN=cam-1")
    with enrol_server(w.server.opened) as server:
        for number, name in enumerate(names):
            ticket = new_ticket(w, f"joiner-{number}")
            status, answer = ask(w, server, ticket.secret, csr_of(name, "cam-1"))
            assert status == 200
            certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
            assert certificate.subject.rfc4514_string() == f"CN=joiner-{number}"
    return "the token's name"


@attack("another name or key", seen=f"{AUDIT}: device.enrol")
def answer_with_the_certificate_of_a_replayed_request(w: AttackWorld) -> str:
    """A device keeps only a certificate for its own name and its own key."""
    ticket, captured = new_ticket(w), csr_of("cam-2")
    mine = ec.generate_private_key(ec.SECP256R1())
    enrolment = build_enrolment(w.server.opened)
    grant = enrolment.desk.enrol(ticket.secret, captured, root_sha256=ticket.root_sha256)
    refused_by_device(
        lambda: keep_grant(ticket, grant, enrolment.ca_pem, mine, home(w)),
        home(w),
        "another name or key",
    )
    return "another name or key"


def bad_requests() -> Iterator[bytes]:
    key = rsa.generate_private_key(65_537, 2_048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    yield request.public_bytes(Encoding.PEM)
    der = bytearray(x509.load_pem_x509_csr(csr_of("x")).public_bytes(Encoding.DER))
    der[-1] ^= 1
    yield x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    yield from (b"", b"garbage", b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * 4_000)


@attack("422", seen=f"{AUDIT}: device.enrol")
def send_certificate_requests_that_are_none(w: AttackWorld) -> str:
    """A malformed request, or one its key did not sign, leaves the secret as it was."""
    ticket = new_ticket(w)
    with enrol_server(w.server.opened) as server:
        statuses = {ask(w, server, ticket.secret, csr)[0] for csr in bad_requests()}
        assert ask(w, server, ticket.secret, csr_of("x"))[0] == 200
    (status,) = statuses
    return str(status)


# Impostors --------------------------------------------------------------------------------------


@attack("EnrolmentError", seen=TOLD)
def pose_as_the_server_with_an_authority_of_their_own(w: AttackWorld) -> str:
    """The join string pins the CA's certificate; the secret is not sent to anybody else."""
    stranger = make_fleet(home(w, "stranger"), w.server.clock)
    with enrol_server(stranger) as impostor:
        text = replace(new_ticket(w), api_port=impostor.port).encode()
        refused = refused_by_device(lambda: enrol(text, home(w)), home(w), "not the server of")
        assert impostor.asked == [f"GET {CA_PATH}"]
    stranger.engine.dispose()
    return refused


@attack("EnrolmentError", seen=TOLD)
def pose_as_the_server_with_its_real_certificate_authority(w: AttackWorld) -> str:
    """Who shows the pinned CA must also hold a key that it certified; the secret is not sent."""
    stranger = make_fleet(home(w, "stranger"), w.server.clock)
    real = build_authority(w.server.opened).ca_pem
    with enrol_server(stranger, answer_ca=real) as impostor:
        text = replace(new_ticket(w), api_port=impostor.port).encode()
        refused = refused_by_device(lambda: enrol(text, home(w)), home(w), "could not prove")
        assert impostor.asked == [f"GET {CA_PATH}"]
    stranger.engine.dispose()
    return refused


@contextmanager
def raw_server(w: AttackWorld, answer: Callable[[ssl.SSLSocket], None]) -> Iterator[int]:
    """Somebody with a TLS certificate of their own who answers every request by ``answer``."""
    authority = CertificateAuthority(home(w, "impostor"), w.server.clock)
    authority.create(["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.files.certificate("api"), authority.files.key("api"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            raw, _ = listener.accept()
            with context.wrap_socket(raw, server_side=True) as connection:
                connection.settimeout(5)
                connection.recv(4_096)
                answer(connection)
        except OSError:
            return  # the device has gone

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(5)


def join_at(w: AttackWorld, answer: Callable[[ssl.SSLSocket], None], sentence: str) -> str:
    with raw_server(w, answer) as port:
        text = replace(new_ticket(w), api_port=port).encode()
        return refused_by_device(lambda: enrol(text, home(w), timeout_s=0.5), home(w), sentence)


@attack("EnrolmentError", seen=TOLD)
def redirect_a_joining_device(w: AttackWorld) -> str:
    """A redirection is not followed: host and port are in the join string."""
    reply = b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    return join_at(w, lambda connection: connection.sendall(reply), "not the server of")


@attack("EnrolmentError", seen=TOLD)
def answer_a_joining_device_without_end(w: AttackWorld) -> str:
    """An answer is read up to its bound."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    return join_at(w, lambda c: c.sendall(head + b"A" * 200_000), "answered more than 16384 bytes")


@attack("EnrolmentError", seen=TOLD)
def leave_a_joining_device_without_an_answer(w: AttackWorld) -> str:
    """Waiting has a limit; the join string still works."""

    def wait(_connection: ssl.SSLSocket) -> None:
        threading.Event().wait(0.8)

    return join_at(w, wait, "does not answer")


@attack("EnrolmentError", seen=TOLD)
def feed_a_joining_device_one_byte_at_a_time(w: AttackWorld) -> str:
    """The whole exchange has a limit, not each byte of it."""

    def drip(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 16000\r\n\r\n")
        pause = threading.Event()
        for _ in range(12):
            connection.sendall(b"A")
            pause.wait(0.1)

    return join_at(w, drip, "does not answer")


@attack("EnrolmentError", seen=TOLD)
def speak_something_else_than_http(w: AttackWorld) -> str:
    """What cannot be read is said as such; nothing is kept."""
    return join_at(w, lambda connection: connection.sendall(b"\0" * 5_000), "does not answer")


def changed_grant(w: AttackWorld, sentence: str, **changes: Any) -> str:
    """Let somebody on the way change the answer to an honest request."""
    ticket, key = new_ticket(w), ec.generate_private_key(ec.SECP256R1())
    enrolment = build_enrolment(w.server.opened)
    csr = make_request(key, ticket.device_id)
    grant: EnrolGrant = enrolment.desk.enrol(ticket.secret, csr, root_sha256=ticket.root_sha256)
    forged = replace(grant, **changes)
    return refused_by_device(
        lambda: keep_grant(ticket, forged, enrolment.ca_pem, key, home(w)), home(w), sentence
    )


@attack("EnrolmentError", seen=TOLD)
def give_a_joining_device_another_root(w: AttackWorld) -> str:
    """The join string pins the root by its hash."""
    return changed_grant(w, "root of trust", root="{}")


@attack("EnrolmentError", seen=TOLD)
def give_a_joining_device_to_another_fleet(w: AttackWorld) -> str:
    """The join string names fleet and device."""
    return changed_grant(w, "of fleet fleet-2", fleet="fleet-2")


@attack("EnrolmentError", seen=TOLD)
def give_a_joining_device_a_certificate_of_another_authority(w: AttackWorld) -> str:
    """A certificate must be issued by the pinned CA."""
    other = CertificateAuthority(home(w, "other"), w.server.clock)
    other.create([])
    forged = other.issue_device(csr_of("cam-2"), "cam-2").pem.decode()
    return changed_grant(w, "does not hold", certificate=forged)


# The enrolment door itself ----------------------------------------------------------------------


@attack("413", seen=f"{AUDIT}: device.enrol")
def post_a_huge_body_without_saying_how_long(w: AttackWorld) -> str:
    """A body is read up to 16 KiB, said or not; the next honest device gets in."""
    ticket = new_ticket(w)
    with enrol_server(w.server.opened) as server:
        ca = w.server.workspace.keys_dir / "ca.pem"
        context = ssl.create_default_context(cafile=str(ca))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, context=context, timeout=10
        )
        pieces = (b"x" * 10_000 for _ in range(4))
        connection.request("POST", ENROL_PATH, pieces, encode_chunked=True)
        status = connection.getresponse().status
        connection.close()
        assert post(w, server, b" " * 17_000)[0] == 413
        assert ask(w, server, ticket.secret, csr_of("x"))[0] == 200
    return str(status)


@attack("422", seen=f"{AUDIT}: device.enrol")
def post_bodies_that_are_no_request(w: AttackWorld) -> str:
    """A body is read field by field, each with its bound."""
    ticket = new_ticket(w)
    bodies = (b"", b"[]", b"\xff", b"[" * 10_000, b'{"v":2}', b'{"v":1,"secret":[],"csr":{}}')
    with enrol_server(w.server.opened) as server:
        (status,) = {post(w, server, body)[0] for body in bodies}
        assert ask(w, server, ticket.secret, csr_of("x"))[0] == 200
    return str(status)


@attack.cases()
def test_an_attack_from_the_network_is_refused_and_seen(attack: Attack, world: AttackWorld) -> None:
    hold(world, attack)
