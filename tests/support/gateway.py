"""A throw-away certificate authority, a real broker and plain MQTT clients for tests."""

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion

from fleet_server.adapters.broker_config import SERVER_USER, BrokerSettings
from fleet_server.adapters.broker_process import BrokerProcess, load_server_secret

WAIT_S = 10.0
_DAY = timedelta(days=1)


def free_ports(count: int) -> list[int]:
    """Find TCP ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


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
        self.port, self.server_port = free_ports(2)
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
