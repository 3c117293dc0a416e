"""A throw-away authority, a real broker, plain MQTT clients, a workspace with its gateway."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion
from sqlmodel import select

from fleet_server.adapters.broker_config import SERVER_USER, BrokerSettings
from fleet_server.adapters.broker_process import BrokerProcess, load_server_secret
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import DeviceRow, SlotRow
from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.bootstrap import open_fleet
from fleet_server.free_ports import find_free_ports
from fleet_server.run_state import read_heartbeat
from fleet_server.wiring.workspace import broker_of, init_workspace
from fleet_server.workspace import Config

if TYPE_CHECKING:
    from fleet_server.ports.trust import IssuedCertificate

WAIT_S = 30.0
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path


class TestAuthority:
    """An EC P-256 authority whose files live in one folder."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._key = directory, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
        self.ca_file = directory / "ca.pem"
        self.crl_file = directory / "crl.pem"
        certificate = (
            self._builder("test-ca", self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.revoke([])

    def issue(self, name: str, *, is_broker: bool = False) -> Identity:
        """Make (once) a client certificate, or the broker's for 127.0.0.1."""
        identity = Identity(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        if identity.certificate.exists():
            return identity
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_broker else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(name, key).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if is_broker:
            address = x509.IPAddress(ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return identity

    def revoke(self, names: list[str]) -> None:
        """Write the revocation list anew."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - _DAY)
            .next_update(now + 7 * _DAY)
        )
        for name in names:
            certificate = x509.load_pem_x509_certificate(self.issue(name).certificate.read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(now)
                .build()
            )
        crl = builder.sign(self._key, hashes.SHA256())
        self.crl_file.write_bytes(crl.public_bytes(serialization.Encoding.PEM))

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 7 * _DAY)
        )


class BrokerLab:
    """A real broker with its authority, and clients of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "broker"
        self.authority = TestAuthority(directory / "ca")
        identity = self.authority.issue("broker", is_broker=True)
        self.port, self.server_port = find_free_ports(2)
        self.settings = BrokerSettings(
            host="127.0.0.1",
            port=self.port,
            server_port=self.server_port,
            ca_file=self.authority.ca_file,
            certificate_file=identity.certificate,
            key_file=identity.key,
            crl_file=self.authority.crl_file,
        )
        self.broker = BrokerProcess(self.directory, self.settings)
        self._clients: list[Client] = []

    def device(self, name: str, *, client_id: str | None = None, clean: bool = False) -> "Client":
        """Connect to the device listener with the certificate of ``name``."""
        identity = self.authority.issue(name)
        client = Client(client_id or name, identity, self.authority.ca_file, clean=clean)
        return self._keep(client, self.port)

    def server(self, client_id: str, *, clean: bool = True) -> "Client":
        """Connect to the server listener."""
        identity = self.authority.issue(SERVER_USER)
        client = Client(client_id, identity, self.authority.ca_file, clean=clean)
        client.paho.username_pw_set(SERVER_USER, load_server_secret(self.directory))
        return self._keep(client, self.server_port)

    def is_refused(self, identity: Identity) -> bool:
        """Tell whether the device listener ends the handshake with this certificate."""
        client = Client("refused", identity, self.authority.ca_file)
        try:
            client.connect(self.port)
        except OSError:  # TLS 1.2 says it at once, 1.3 at the first read
            return True
        finally:
            client.close()
        return not client.connects

    def stop(self) -> None:
        """End clients and broker."""
        for client in self._clients:
            client.close()
        self.broker.stop()

    def _keep(self, client: "Client", port: int) -> "Client":
        self._clients.append(client)
        client.connect(port)
        return client


class WorkspaceLab:
    """A real workspace with broker, gateway process and devices; no API, no controller."""

    def __init__(self, root: Path, **config: Any) -> None:
        broker_port, server_port, api_port = find_free_ports(3)
        made = init_workspace(
            root,
            Config(broker_port=broker_port, server_port=server_port, api_port=api_port, **config),
        )
        self.fleet = open_fleet(made.workspace)
        self.workspace = made.workspace
        self.port = broker_port
        self.broker = broker_of(made.workspace, self.fleet.clock)
        self.authority = CertificateAuthority(made.workspace.keys_dir, self.fleet.clock)
        self.gateway: subprocess.Popen[bytes] | None = None
        self.issued: dict[str, IssuedCertificate] = {}
        self._clients: list[Client] = []

    def add_devices(self, names: Sequence[str]) -> None:
        """Insert device rows, as if they had been added and enrolled."""
        now = self.fleet.clock.now()
        with write_session(self.fleet.engine) as session:
            for name in names:
                session.add(DeviceRow(id=name, profile="camera", created_at=now, enrolled_at=now))

    def issue(self, name: str) -> Identity:
        """Issue a device certificate as enrolment does."""
        folder = self.workspace.root / "devices"
        folder.mkdir(exist_ok=True)
        identity = Identity(folder / f"{name}.crt", folder / f"{name}.key")
        if not identity.certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            csr = x509.CertificateSigningRequestBuilder().subject_name(subject)
            signed = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            identity.key.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            self.issued[name] = self.authority.issue_device(signed, name)
            identity.certificate.write_bytes(self.issued[name].pem)
        return identity

    def device(self, name: str, *, will: tuple[str, bytes] | None = None) -> "Client":
        """Connect a plain client as a device; ``will`` is a topic and what is retained there."""
        client = Client(name, self.issue(name), self.authority.files.ca)
        if will is not None:
            client.paho.will_set(*will, qos=1, retain=True)
        self._clients.append(client)
        client.connect(self.port)
        return client

    def server(self, client_id: str) -> "Client":
        """Connect a plain client to the server's listener."""
        files = self.authority.files
        client = Client(
            client_id, Identity(files.certificate("server"), files.key("server")), files.ca
        )
        client.paho.username_pw_set(SERVER_USER, load_server_secret(self.workspace.broker_dir))
        self._clients.append(client)
        client.connect(self.workspace.config.server_port)
        return client

    def start_gateway(
        self, *, command: Sequence[str] = ("-m", "fleet_server.workers.gateway")
    ) -> None:
        """Start the gateway's process."""
        log = self.workspace.log_dir / "gateway.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.gateway = subprocess.Popen(
                [sys.executable, *command, "--workspace", str(self.workspace.root)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        """Wait until the gateway says that it is connected."""
        pid = self.gateway.pid if self.gateway else 0
        self.wait(lambda: read_heartbeat(self.workspace.server_dir, "gateway").get("pid") == pid)

    def wait(self, is_true: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
        """Poll until something is true; fails with the gateway's last words."""
        end_s = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > end_s:
                log = self.workspace.log_dir / "gateway.log"
                words = log.read_text()[-2_000:] if log.exists() else "(no log)"
                raise AssertionError(f"not within {timeout_s} s; the gateway said: {words}")
            time.sleep(0.02)

    def kill_gateway(self) -> None:
        """SIGKILL."""
        if self.gateway is not None:
            self.gateway.kill()
            self.gateway.wait()
            self.gateway = None

    def kill_broker(self) -> None:
        """SIGKILL."""
        if self.broker.pid is not None:
            os.kill(self.broker.pid, signal.SIGKILL)
            while self.broker.is_alive():
                time.sleep(0.005)

    def device_row(self, name: str) -> DeviceRow:
        """Read a device."""
        with read_session(self.fleet.engine) as session:
            return session.exec(select(DeviceRow).where(DeviceRow.id == name)).one()

    def slot_rows(self, name: str) -> dict[str, SlotRow]:
        """Read a device's slots."""
        number = self.device_row(name).number
        with read_session(self.fleet.engine) as session:
            rows = session.exec(select(SlotRow).where(SlotRow.device == number)).all()
        return {row.slot: row for row in rows}

    def telemetry_rows(self) -> list[tuple[int, int, int, int]]:
        """Return (device, boot, stream, sequence) of every stored window."""
        store = SqliteWindowStore(self.workspace.telemetry_db, retention=timedelta(days=7))
        try:
            return [
                (w.device, w.boot, w.stream, w.sequence)
                for w in store.read_recent(0, per_device_max=10**9)
            ]
        finally:
            store.close()

    def totals(self) -> dict[str, int]:
        """Return the telemetry totals."""
        store = SqliteWindowStore(self.workspace.telemetry_db, retention=timedelta(days=7))
        try:
            return dict(store.stats().totals)
        finally:
            store.close()

    def stop(self) -> None:
        """End everything."""
        for client in self._clients:
            client.close()
        if self.gateway is not None:
            self.gateway.terminate()
            try:
                self.gateway.wait(30)
            except subprocess.TimeoutExpired:
                self.gateway.kill()
                self.gateway.wait()
            self.gateway = None
        self.broker.stop()
        self.fleet.engine.dispose()


@dataclass(frozen=True)
class Received:
    """One delivered message."""

    topic: str
    payload: bytes
    is_retained: bool


class Client:
    """A paho client that remembers what it was told."""

    def __init__(
        self, client_id: str, identity: Identity, ca_file: Path, *, clean: bool = False
    ) -> None:
        self.paho = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean,
            reconnect_on_failure=False,
        )
        self.paho.tls_set(
            str(ca_file),
            str(identity.certificate),
            str(identity.key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self.received: list[Received] = []
        self.connects: list[tuple[str, bool]] = []
        self.disconnects: list[str] = []
        self.subscribed: list[int] = []
        self._changed = threading.Condition()
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = self._on_message
        self.paho.on_subscribe = lambda _c, _u, mid, *_: self._note(self.subscribed, mid)

    def connect(self, port: int) -> None:
        """Connect; a refusal of TLS is an OSError, one of MQTT is in ``connects``."""
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        self.wait(lambda: bool(self.connects or self.disconnects))

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe and wait for the SUBACK."""
        _, mid = self.paho.subscribe(topic_filter, qos)
        self.wait(lambda: mid in self.subscribed)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish and, at QoS 1, wait for the PUBACK."""
        info = self.paho.publish(topic, payload, qos, retain)
        if qos:
            info.wait_for_publish(WAIT_S)

    def wait(self, is_true: Callable[[], bool], *, timeout_s: float = WAIT_S) -> bool:
        """Wait until something that was received makes it true."""
        with self._changed:
            return self._changed.wait_for(is_true, timeout_s)

    def wait_for(self, count: int, *, timeout_s: float = WAIT_S) -> list[Received]:
        """Wait for at least so many messages."""
        self.wait(lambda: len(self.received) >= count, timeout_s=timeout_s)
        return self.received

    def close(self) -> None:
        """Disconnect and end the thread."""
        self.paho.disconnect()
        self.paho.loop_stop()

    def drop(self) -> None:
        """Lose the connection without a DISCONNECT: the broker sends the last will."""
        sock = self.paho.socket()
        if isinstance(sock, socket.socket):
            sock.shutdown(socket.SHUT_RDWR)
        self.wait(lambda: bool(self.disconnects))
        self.paho.loop_stop()

    def _note(self, into: list[int], value: int) -> None:
        with self._changed:
            into.append(value)
            self._changed.notify_all()

    def _on_connect(
        self, _client: object, _data: object, flags: mqtt.ConnectFlags, reason: object, _: object
    ) -> None:
        with self._changed:
            self.connects.append((str(reason), flags.session_present))
            self._changed.notify_all()

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, reason: object, _: object
    ) -> None:
        with self._changed:
            self.disconnects.append(str(reason))
            self._changed.notify_all()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.received.append(
                Received(message.topic, bytes(message.payload), bool(message.retain))
            )
            self._changed.notify_all()
