"""Who may ask over HTTP: loopback, tokens, certificates, and what web pages are told."""

import datetime
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.adapters.http_access import HttpAccess, load_access
from edge_agent.adapters.http_connection import ServerLimits
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.inference_routes import InferenceRoutes
from edge_agent.errors import SettingsError
from tests.support.serving import build_classifier, make_service
from tests.support.serving_http import Client, World, infer_bytes, serving

BUILT = build_classifier()
TOKEN = "0123456789abcdef" * 4
LIMITS = ServerLimits(connections_max=4)


def write_token(directory: Path, text: str = TOKEN + "\n", mode: int = 0o600) -> None:
    path = directory / "http.token"
    path.write_text(text)
    path.chmod(mode)


# Starting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "", "gateway.local"])  # noqa: S104 - refused
def test_other_machines_are_not_served_without_knowing_who_asks(host: str) -> None:
    with pytest.raises(SettingsError, match=r"http_token_file must name.*openssl rand -hex 32"):
        HttpInferenceServer(InferenceRoutes(make_service()), host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_is_served_without_a_token(host: str) -> None:
    HttpInferenceServer(InferenceRoutes(make_service()), host=host).stop()


def test_other_machines_are_served_with_a_token() -> None:
    access = HttpAccess(token=TOKEN.encode())
    HttpInferenceServer(InferenceRoutes(make_service()), host="0.0.0.0", access=access).stop()  # noqa: S104 - never started


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (TOKEN, 0o644, "open to every user; run: chmod 640"),
        (TOKEN, 0o602, "open to every user"),
        ("short", 0o600, "256 random bits.*it holds 5 bytes; make one"),
        ("", 0o600, "it holds 0 bytes"),
        ("a b" * 20, 0o600, "must hold one token"),
        ("x" * 600, 0o600, "must hold one token"),
    ],
)
def test_a_wrong_token_file_is_named(tmp_path: Path, text: str, mode: int, words: str) -> None:
    write_token(tmp_path, text, mode)
    with pytest.raises(SettingsError, match=f"http_token_file .*{words}"):
        load_access(tmp_path, token_file="http.token")


def test_missing_files_and_half_a_pair_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"http_token_file .*/none cannot be read: No such"):
        load_access(tmp_path, token_file="none")
    with pytest.raises(SettingsError, match="must be set together"):
        load_access(tmp_path, certificate_file="a.pem")
    with pytest.raises(SettingsError, match="http_client_ca_file needs http_certificate_file"):
        load_access(tmp_path, client_ca_file="ca.pem")
    (tmp_path / "a.key").touch(0o600)
    with pytest.raises(SettingsError, match="are not a PEM certificate and its unencrypted key"):
        load_access(tmp_path, certificate_file="a.pem", key_file="a.key")


# Tokens -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("guarded")
    write_token(directory)
    with serving(BUILT, access=load_access(directory, token_file="http.token")) as world:
        yield world


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (None, 401, "bears no token; send Authorization: Bearer TOKEN"),
        (f"Bearer {TOKEN}", 200, ""),
        (f"bearer  {TOKEN}", 200, ""),
        (f"Bearer {TOKEN}0", 401, "another token"),
        (f"Bearer {TOKEN[:-1]}", 401, "another token"),
        ("Bearer", 401, "another token"),
        (f"Basic {TOKEN}", 401, "another token"),
        (TOKEN, 401, "another token"),
        ("Bearer \xff", 401, "another token"),
    ],
)
def test_only_the_token_opens(guarded: World, given: str | None, status: int, words: str) -> None:
    headers = {} if given is None else {"Authorization": given}
    for path in ("/v2", "/metrics"):
        connection = HTTPConnection("127.0.0.1", guarded.port, timeout=10)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        assert (response.status, words in body) == (status, True)
        if status == 401:
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="edge-agent"'


def test_whether_it_lives_is_told_to_everybody(guarded: World) -> None:
    assert guarded.ask("/v2/health/live") == (200, {"live": True})
    assert guarded.ask("/v2/health/ready")[0] == 401
    assert guarded.ask("/v2/health/live/../../models")[0] == 401


def test_a_token_is_asked_for_before_the_body_is_read(guarded: World) -> None:
    with guarded.client() as client:
        client.send(b"POST /v2/models/main/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        assert client.read()[0] == 401
        assert client.ends()


def test_each_request_of_a_connection_needs_the_token(guarded: World) -> None:
    head = b"GET /v2 HTTP/1.1\r\nHost: a\r\n"
    bearing = head + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
    with guarded.client() as client:
        client.send(bearing + bearing + head + b"\r\n")
        assert [client.read()[0] for _ in range(3)] == [200, 200, 401]
        assert client.ends()


# Web pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
        ({"Host": "rebound.example:8090"}, 403),
        ({"Host": "127.0.0.1.rebound.example"}, 403),
        ({"Host": "gateway:8090"}, 200),
        ({"Host": "[::1]:8090"}, 200),
    ],
)
def test_a_web_page_cannot_ask(headers: dict[str, str], status: int) -> None:
    with serving(BUILT) as world:
        assert world.ask("/v2", headers=headers)[0] == status


def test_a_page_that_holds_the_token_may_ask(guarded: World) -> None:
    headers = {"Origin": "http://panel.local", "Authorization": f"Bearer {TOKEN}"}
    assert guarded.ask("/v2", headers=headers)[0] == 200


# TLS ----------------------------------------------------------------------------------------------


class Papers:
    """A certificate authority, its server and two clients, one of another authority."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority = self._write("ca", None)
        stranger = self._write("stranger-ca", None)
        self._write("server", authority)
        self._write("client", authority)
        self._write("stranger", stranger)

    def _write(self, name: str, issuer: Any) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[1] if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=20_000))
            .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        certificate = builder.sign(issuer[0] if issuer else key, hashes.SHA256())
        (self.directory / f"{name}.pem").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )
        path = self.directory / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        path.chmod(0o600)
        return key, subject

    def access(self, client_ca: str = "ca.pem", token_file: str = "") -> HttpAccess:
        return load_access(
            self.directory,
            token_file=token_file,
            certificate_file="server.pem",
            key_file="server.key",
            client_ca_file=client_ca,
        )

    def client_context(self, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if name:
            context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context

    def ask(
        self, port: int, name: str | None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = HTTPSConnection(
            "127.0.0.1", port, timeout=10, context=self.client_context(name)
        )
        try:
            connection.request("GET", "/v2", headers=headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def mutual(papers: Papers) -> Iterator[World]:
    with serving(BUILT, LIMITS, access=papers.access()) as world:
        yield world


def test_a_client_with_a_certificate_of_the_authority_is_served(
    papers: Papers, mutual: World
) -> None:
    assert papers.ask(mutual.port, "client")[0] == 200


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_client_without_one_is_not_let_in(
    papers: Papers, mutual: World, name: str | None
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        papers.ask(mutual.port, name)


def test_plain_text_is_not_answered(mutual: World) -> None:
    client = Client(mutual.port)
    try:
        client.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP" not in client.file.read()
    finally:
        client.close()


def test_many_requests_of_one_tls_connection_are_answered(papers: Papers, mutual: World) -> None:
    request = infer_bytes(BUILT.rows[:2])
    raw = socket.create_connection(("127.0.0.1", mutual.port), timeout=10)
    with papers.client_context("client").wrap_socket(raw, server_hostname="127.0.0.1") as tls:
        file = tls.makefile("rb")
        for _ in range(50):
            tls.sendall(request)
            assert b"200" in file.readline()
            headers = dict(line.strip().split(b": ") for line in iter(file.readline, b"\r\n"))
            assert b"probabilities" in file.read(int(headers[b"Content-Length"]))
        tls.sendall(b"BAD\r\n\r\n")
        assert b"400" in file.readline()
        file.close()


def test_silent_clients_do_not_keep_others_out(papers: Papers, mutual: World) -> None:
    silent = [socket.create_connection(("127.0.0.1", mutual.port)) for _ in range(6)]
    try:
        assert papers.ask(mutual.port, "client")[0] == 200
    finally:
        for client in silent:
            client.close()


def test_stopping_ends_tls_connections_too(papers: Papers) -> None:
    server = HttpInferenceServer(InferenceRoutes(make_service()), access=papers.access())
    port = server.start()
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    silent = socket.create_connection(("127.0.0.1", port), timeout=10)
    with papers.client_context("client").wrap_socket(raw, server_hostname="127.0.0.1") as tls:
        began = time.monotonic()
        server.stop()
        assert tls.recv(1) == b""
        assert time.monotonic() - began < 10
    silent.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_https_without_client_certificates_still_needs_the_token(papers: Papers) -> None:
    write_token(papers.directory)
    access = papers.access(client_ca="", token_file="http.token")
    with serving(BUILT, access=access) as world:
        assert papers.ask(world.port, None)[0] == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert papers.ask(world.port, None, headers)[0] == 200
    with pytest.raises(SettingsError, match="http_token_file must name"):
        HttpInferenceServer(
            InferenceRoutes(make_service()),
            host="0.0.0.0",  # noqa: S104 - refused
            access=papers.access(client_ca=""),
        )


def test_a_private_key_open_to_all_is_refused(papers: Papers) -> None:
    (papers.directory / "server.key").chmod(0o644)
    try:
        with pytest.raises(SettingsError, match=r"http_key_file .* is open to every user"):
            papers.access()
    finally:
        (papers.directory / "server.key").chmod(0o600)
