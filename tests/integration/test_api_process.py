"""The API's real server: TLS, slow clients, and a process that cannot see the operator's folder."""

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from fleet_server.api import serving
from fleet_server.api.app import create_app
from fleet_server.api.serving import Bounds, GuardedProtocol, make_server
from fleet_server.bootstrap import open_fleet
from fleet_server.wiring.workspace import choose_ports, init_workspace
from fleet_server.workspace import Config, Workspace
from tests.support.waiting import wait_until

QUICK = Bounds(head_s=0.4, body_s=0.6, answer_s=5.0, per_address=8)


class Site:
    def __init__(self, root: Path) -> None:
        config = choose_ports(Config(), (None, None, None))
        self.workspace: Workspace = init_workspace(root / "fleet", config).workspace
        self.token = (self.workspace.operator_dir / "api-token").read_text()
        self.fleet = open_fleet(self.workspace)
        keys = self.workspace.keys_dir
        self.context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
        self.server = make_server(
            create_app(self.fleet),
            host="127.0.0.1",
            port=0,
            certificate=keys / "api.pem",
            key=keys / "api.key",
        )
        self.thread = Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.port: int = self.server.servers[0].sockets[0].getsockname()[1]

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return self.context.wrap_socket(plain, server_hostname="127.0.0.1")

    def get(self, path: str, port: int | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port or self.port, context=self.context, timeout=20
        )
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        body = answer.read()
        connection.close()
        return answer.status, headers, body


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    patch = pytest.MonkeyPatch()
    patch.setattr(GuardedProtocol, "bounds", QUICK)
    patch.setattr(serving, "HANDSHAKE_S", 0.5)
    site = Site(tmp_path_factory.mktemp("process"))
    yield site
    site.server.should_exit = True
    site.thread.join(10)
    patch.undo()


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(4_096):
            found += part
    except OSError:
        pass
    return found


def lasts_s(connection: socket.socket, trickle: bytes = b"") -> float:
    """Give the seconds until the server ends a connection, sending a byte now and then."""
    began_s = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - began_s < 8:
        try:
            if trickle:
                connection.sendall(trickle)
            if connection.recv(4_096) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    connection.close()
    return time.monotonic() - began_s


@pytest.mark.parametrize(
    ("sent", "trickle"),
    [
        (b"", b""),
        (b"GET /v1/health HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
        (b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n", b"{"),
        (
            b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n",
            b"{",
        ),  # answered 401 at once; what trickles in afterwards is cut as well
    ],
    ids=["nothing", "headers", "body", "body of an answered request"],
)
def test_a_slow_request_is_cut(site: Site, sent: bytes, trickle: bytes) -> None:
    connection = site.connect()
    connection.sendall(sent)
    assert lasts_s(connection, trickle) < 4
    assert site.get("/v1/health")[0] == 200


def test_a_handshake_that_stalls_is_cut(site: Site) -> None:
    plain = socket.create_connection(("127.0.0.1", site.port), timeout=10)
    plain.sendall(b"\x16")
    assert lasts_s(plain) < 4


def test_one_address_holds_a_bounded_number_of_connections(site: Site) -> None:
    """The others are cut at once and slow ones give their place back in time."""
    held = []
    for _ in range(30):
        try:
            held.append(site.connect())
        except OSError:
            continue
    assert len(site.server.server_state.connections) <= QUICK.per_address
    wait_until(lambda: not site.server.server_state.connections, timeout_s=60)
    assert site.get("/v1/health")[0] == 200
    for connection in held:
        connection.close()


def test_the_server_says_nothing_of_itself_and_keeps_to_tls(site: Site) -> None:
    status, headers, _ = site.get("/v1/me")
    assert status == 200
    assert "server" not in headers
    assert headers["strict-transport-security"].startswith("max-age")
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain:
        plain.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/" not in read_all(plain)


def test_old_tls_is_refused(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
        pytest.raises(OSError, match=r"(?i)version|closed|reset|eof"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000,
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x00\x01\x02 nonsense\r\n\r\n",
    ],
    ids=["too long", "two lengths", "no HTTP"],
)
def test_what_is_no_request_is_refused_and_ended(site: Site, head: bytes) -> None:
    with site.connect() as connection:
        connection.sendall(head)
        said = connection.recv(200)
        assert said.startswith(b"HTTP/1.1 4")
        assert lasts_s(connection) < 4


def test_the_api_works_without_the_operators_folder(site: Site, tmp_path: Path) -> None:
    """The real process, its operator folder gone: it serves, adds a device, and starts a chain."""
    root = tmp_path / "fleet"
    shutil.copytree(site.workspace.root, root)
    shutil.rmtree(root / "operator")
    config = choose_ports(replace(site.workspace.config, api_port=8_443), (None, None, None))
    text = (
        (root / "edgefleet.toml")
        .read_text()
        .replace(f"api_port = {site.workspace.config.api_port}", f"api_port = {config.api_port}")
    )
    (root / "edgefleet.toml").write_text(text)
    command = [sys.executable, "-m", "fleet_server.workers.api", "--workspace", str(root)]
    environment = {**os.environ, "EDGEFLEET_OPERATOR": str(tmp_path / "nowhere")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until((root / "server" / "api.json").exists, timeout_s=60)
            connection = http.client.HTTPSConnection(
                "127.0.0.1", config.api_port, context=site.context, timeout=20
            )
            headers = {
                "Authorization": f"Bearer {site.token}",
                "Content-Type": "application/json",
            }
            body = json.dumps({"id": "cam-1", "profile": "camera"})
            connection.request("POST", "/v1/devices", body, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            connection.close()
            assert answer.status == 201, said
            head = root / "server" / "audit-head.json"
            wait_until(lambda: json.loads(head.read_text())["rows"] == 2, timeout_s=60)
            assert json.loads((root / "server" / "api.json").read_text())["audit"] == "whole"
        finally:
            process.terminate()
            process.wait(20)
    assert not (tmp_path / "nowhere").exists()
