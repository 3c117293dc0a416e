"""The broker as foreign clients meet it: mosquitto's own tools with every kind of wrong paper."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.contract.topics import META_TOPIC, Channel, device_topic
from fleet_server.adapters.broker_config import PACKET_BYTES_MAX
from tests.support.gateway import BrokerLab, Client, Identity, TestAuthority

GOOD, OTHER = "dev-good", "dev-other"
OWN = device_topic(GOOD, Channel.REPORTED)
SECRET_TOPICS = (
    device_topic(OTHER, Channel.DESIRED),
    device_topic(OTHER, Channel.REPORTED),
    device_topic(OTHER, Channel.STATUS),
)


@dataclass
class Strangers:
    """A broker, the server's ear on it, and mosquitto's tools."""

    lab: BrokerLab
    ear: Client

    def publish(self, identity: Identity | None, topic: str, *options: str) -> bool:
        """Publish at QoS 1 with ``mosquitto_pub``; tell whether it was let in."""
        message = () if "-s" in options or "-f" in options or "-n" in options else ("-m", "x")
        return self._run("mosquitto_pub", identity, "-t", topic, *message, *options).returncode == 0

    def hear(self, identity: Identity, *filters: str, seconds: int = 1) -> list[str]:
        """Subscribe with ``mosquitto_sub``; return the topics that arrive."""
        words = [word for name in filters for word in ("-t", name)]
        done = self._run("mosquitto_sub", identity, "-F", "%t", "-W", str(seconds), *words)
        return done.stdout.decode().split()

    def is_well(self) -> bool:
        """Tell whether a well-behaved device is heard, once and at once."""
        before = len(self.ear.received)
        assert self.publish(self.lab.authority.issue(GOOD), OWN)
        self.ear.wait_for(before + 1)
        return [r.topic for r in self.ear.received[before:]] == [OWN]

    def _run(
        self, tool: str, identity: Identity | None, *words: str
    ) -> "subprocess.CompletedProcess[bytes]":
        program = shutil.which(tool)
        assert program, f"{tool} is missing: apt-get install mosquitto-clients"
        papers = () if identity is None else ("--cert", identity.certificate, "--key", identity.key)
        return subprocess.run(
            [
                program, "-h", "127.0.0.1", "-p", str(self.lab.port), "-q", "1", "-V", "mqttv5",
                "--cafile", str(self.lab.authority.ca_file), *map(str, papers), *words,
            ],
            capture_output=True,
            timeout=20,
            check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strangers]:
    lab = BrokerLab(tmp_path_factory.mktemp("strangers"))
    lab.broker.start()
    ear = lab.server("server-ear")
    ear.subscribe("ef/v1/#")
    yield Strangers(lab, ear)
    lab.stop()


def issue(
    authority: TestAuthority,
    name: str,
    *,
    days: tuple[float, float] = (-1, 7),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> Identity:
    """Issue a certificate with the fleet's own key, of any dates and use."""
    folder = authority.directory / "odd"
    folder.mkdir(exist_ok=True)
    stem = f"{name}-{usage.dotted_string}-{days[1]}"
    identity = Identity(folder / f"{stem}.crt", folder / f"{stem}.key")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority._name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(authority._key, hashes.SHA256())
    )
    identity.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return identity


def test_without_the_right_paper_nobody_is_let_in(strangers: Strangers, tmp_path: Path) -> None:
    authority = strangers.lab.authority
    assert not strangers.publish(None, OWN)
    assert not strangers.publish(TestAuthority(tmp_path / "foreign").issue(GOOD), OWN)
    assert not strangers.publish(issue(authority, GOOD, days=(-9, -1)), OWN)
    assert not strangers.publish(issue(authority, GOOD, days=(2, 9)), OWN)
    server_use = ExtendedKeyUsageOID.SERVER_AUTH
    assert not strangers.publish(issue(authority, GOOD, usage=server_use), OWN)
    assert not strangers.publish(authority.issue("broker", is_broker=True), OWN)
    assert strangers.is_well()


def test_a_revoked_device_is_out_and_the_others_stay(strangers: Strangers) -> None:
    lab = strangers.lab
    gone = lab.authority.issue("dev-gone")
    assert strangers.publish(gone, device_topic("dev-gone", Channel.ACK))
    lab.authority.revoke(["dev-gone"])
    lab.broker.reload()
    assert any(
        not strangers.publish(gone, device_topic("dev-gone", Channel.ACK)) for _ in range(20)
    )
    strangers.ear.received.clear()
    assert strangers.is_well()


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_a_client_id_of_another_device_takes_nothing(strangers: Strangers, version: str) -> None:
    owner = strangers.lab.device(OTHER)
    good = strangers.lab.authority.issue(GOOD)
    assert strangers.publish(good, OWN, "-i", OTHER, "-V", version, "-u", OTHER)
    assert owner.disconnects == []
    owner.close()


def test_no_filter_brings_what_is_meant_for_others(strangers: Strangers) -> None:
    server = strangers.lab.server("server-speaker")
    own, foreign = device_topic(GOOD, Channel.DESIRED), device_topic(OTHER, Channel.DESIRED)
    for topic in (own, foreign, META_TOPIC):
        server.publish(topic, b"retained", retain=True)
    server.publish(device_topic(OTHER, Channel.STATUS), b"retained", retain=True)
    good = strangers.lab.authority.issue(GOOD)
    heard = strangers.hear(
        good, "#", "+/#", "$SYS/#", "ef/v1/#", "ef/v1/+/+/down/#", "ef/v1/+/+/up/#", *SECRET_TOPICS
    )
    assert set(heard) == {own, META_TOPIC}
    server.close()


@pytest.mark.parametrize(
    "topic",
    [
        device_topic(OTHER, Channel.REPORTED),
        device_topic(OTHER, Channel.TELEMETRY),
        device_topic(OTHER, Channel.STATUS),
        device_topic(OTHER, Channel.DESIRED),
        device_topic(GOOD, Channel.DESIRED),
        device_topic(GOOD, Channel.COMMAND),
        META_TOPIC,
        "ef/v1/meta/packages-1f",
        f"{OWN}/deeper",
        device_topic(GOOD, Channel.STATUS).replace("status", "anything"),
        "$SYS/broker/version",
        "elsewhere",
    ],
)
def test_what_is_written_elsewhere_reaches_nobody_and_is_not_kept(
    strangers: Strangers, topic: str
) -> None:
    good = strangers.lab.authority.issue(GOOD)
    strangers.ear.received.clear()
    strangers.publish(good, topic, "-r")
    assert strangers.is_well()  # in order: what came before it would have been heard
    late = strangers.lab.server("server-late")
    late.subscribe(topic)
    strangers.lab.server("server-mark").publish("ef/v1/mark", b"x")
    assert [r.payload for r in late.received if r.topic == topic and r.payload == b"x"] == []
    late.close()


def test_a_packet_beyond_the_limit_ends_its_sender_alone(
    strangers: Strangers, tmp_path: Path
) -> None:
    good = strangers.lab.authority.issue(GOOD)
    big = tmp_path / "big"
    big.write_bytes(bytes(PACKET_BYTES_MAX - 100))
    strangers.ear.received.clear()
    assert strangers.publish(good, OWN, "-f", str(big), "-V", "mqttv311")
    strangers.ear.wait_for(1)
    big.write_bytes(bytes(PACKET_BYTES_MAX + 1))
    strangers.publish(good, OWN, "-f", str(big), "-V", "mqttv311")
    assert [len(r.payload) for r in strangers.ear.received] == [PACKET_BYTES_MAX - 100]
    strangers.ear.received.clear()
    assert strangers.is_well()


def test_a_flood_keeps_to_the_channels_of_its_device_and_disturbs_nobody(
    strangers: Strangers,
) -> None:
    """What the broker cannot check is the level of the bucket: docs/trust.md says so."""
    flooder = strangers.lab.device(OTHER, clean=True)
    for number in range(200):
        topic = device_topic(OTHER, Channel.ACK).split("/")
        topic[2] = f"flood-{number}"
        flooder.publish("/".join(topic), b"x" * 1_000, retain=True)
    flooder.publish(device_topic(OTHER, Channel.ACK) + "s", b"x", retain=False, qos=0)
    assert flooder.wait(
        lambda: bool(flooder.disconnects)
    )  # a channel there is not: 3.1.1 is hung up on
    flooder.close()
    late = strangers.lab.server("server-count")
    late.subscribe("ef/v1/+/+/up/+")
    late.wait_for(200)
    kept = {tuple(r.topic.split("/")[3:]) for r in late.received if r.is_retained}
    assert kept <= {(OTHER, "up", "ack"), (OTHER, "up", "status")}
    late.close()
    strangers.ear.received.clear()
    assert strangers.is_well()
