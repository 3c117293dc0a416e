"""The agent's link against a real broker: session, will, one copy of each message, reconnects."""

import ipaddress
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.adapters import mqtt_link
from edge_agent.adapters.mqtt_link import MqttLink
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.contract.messages import Status
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic, meta_topic
from edge_agent.ports import Connected, Disconnected, Identity, MessageArrived
from tests.support.clock import FakeClock
from tests.support.gateway import BrokerLab
from tests.support.waiting import wait_until

DEVICE = "cam-7"
DESIRED, STATUS = (device_topic(DEVICE, c) for c in (Channel.DESIRED, Channel.STATUS))


class Taken:
    """What a link handed over."""

    def __init__(self) -> None:
        self.items: list[object] = []

    def count(self, kind: type) -> int:
        return sum(isinstance(item, kind) for item in self.items)

    def has(self, topic: str, payload: bytes) -> bool:
        return MessageArrived(topic, payload) in self.messages

    @property
    def messages(self) -> list[MessageArrived]:
        return [item for item in self.items if isinstance(item, MessageArrived)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[BrokerLab]:
    lab = BrokerLab(tmp_path)
    lab.broker.start()
    yield lab
    lab.stop()


def identity_of(lab: BrokerLab, name: str = DEVICE) -> Identity:
    directory = lab.directory / f"identity-{name}"
    directory.mkdir(exist_ok=True)
    issued = lab.authority.issue(name)
    identity = Identity(
        device_id=name,
        profile="camera",
        fleet="fleet-1",
        host="127.0.0.1",
        mqtt_port=lab.port,
        api_port=1,
        root=b"{}",
        directory=directory,
    )
    shutil.copy(issued.certificate, identity.certificate_path)
    shutil.copy(issued.key, identity.key_path)
    shutil.copy(lab.authority.ca_file, identity.ca_path)
    return identity


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def link(lab: BrokerLab, taken: Taken) -> Iterator[MqttLink]:
    link = MqttLink(
        identity_of(lab), 7, taken.items.append, clock=SystemClock(), jitter=lambda: 0.05
    )
    yield link
    link.stop()


def start(link: MqttLink, taken: Taken) -> None:
    link.start()
    wait_until(lambda: taken.count(Connected) == 1)


def test_a_session_says_online_and_takes_what_is_meant_for_the_device(
    lab: BrokerLab, link: MqttLink, taken: Taken
) -> None:
    server = lab.server("server-1")
    server.subscribe("ef/v1/+/+/up/#")
    server.publish(DESIRED, b"retained", retain=True)
    server.publish(META_TOPIC, b"bundle", retain=True)
    start(link, taken)
    wait_until(lambda: len(taken.messages) == 2)
    server.publish(DESIRED, b"live")
    server.publish(device_topic("cam-8", Channel.DESIRED), b"for another")
    server.publish(device_topic(DEVICE, Channel.CHUNK), b"chunk", qos=0)
    wait_until(lambda: len(taken.messages) == 4)
    assert sorted(m.payload for m in taken.messages) == [b"bundle", b"chunk", b"live", b"retained"]
    assert link.publish(Channel.REPORTED, b"report", qos=1)
    said = {m.topic: m.payload for m in server.wait_for(2)}
    assert Status.decode(said[STATUS]) == Status(is_online=True, boot=7)
    assert said[device_topic(DEVICE, Channel.REPORTED)] == b"report"


def test_offline_nothing_is_taken(link: MqttLink) -> None:
    assert not link.is_connected
    assert not link.publish(Channel.REPORTED, b"report", qos=1)


def test_stopping_says_offline_and_leaves_no_thread_and_no_complaint(
    lab: BrokerLab,
    link: MqttLink,
    taken: Taken,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = lab.server("server-1")
    start(link, taken)
    monkeypatch.setattr(mqtt_link, "SESSION_TIMEOUT_S", 0.0)  # it ran for longer than that
    link.stop()
    assert "granted no session" not in caplog.text
    server.subscribe(STATUS)
    (status,) = server.wait_for(1)
    assert Status.decode(status.payload) == Status(is_online=False, boot=7)
    assert not [t for t in threading.enumerate() if DEVICE in t.name or t.name == "mqtt-link"]


def test_a_killed_broker_is_found_again_and_the_session_with_it(
    lab: BrokerLab,
    link: MqttLink,
    taken: Taken,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    link.spread_reconnects(0.5)
    start(link, taken)
    monkeypatch.setattr(mqtt_link, "SESSION_TIMEOUT_S", 0.0)  # as if it had lasted long
    lab.broker.stop()
    wait_until(lambda: taken.count(Disconnected) == 1)
    assert isinstance(ended := taken.items[-1], Disconnected)
    assert "Unspecified" not in ended.reason
    monkeypatch.undo()
    assert not link.publish(Channel.REPORTED, b"report", qos=1)
    lab.broker.start()
    wait_until(lambda: taken.count(Connected) == 2)
    server = lab.server("server-1")
    server.publish(DESIRED, b"after")
    wait_until(lambda: [m.payload for m in taken.messages] == [b"after"])
    assert "granted no session" not in caplog.text


def test_a_broker_that_does_not_exist_yet_is_waited_for(
    lab: BrokerLab, link: MqttLink, taken: Taken
) -> None:
    lab.broker.stop()
    link.start()
    time.sleep(0.5)
    assert taken.items == []
    lab.broker.start()
    wait_until(lambda: taken.count(Connected) == 1)


def test_a_device_hears_the_bins_it_watches_and_no_others(
    lab: BrokerLab, link: MqttLink, taken: Taken
) -> None:
    one, two, three = (meta_topic(f"packages-{number}") for number in (1, 2, 3))
    server = lab.server("server-1")
    for topic in (one, two, three):
        server.publish(topic, topic.encode(), retain=True)
    link.spread_reconnects(0.2)
    link.watch(frozenset({one}))  # before there is a session
    start(link, taken)
    wait_until(lambda: [m.topic for m in taken.messages] == [one])
    link.watch(frozenset({one, two}))
    wait_until(lambda: [m.topic for m in taken.messages] == [one, two])
    link.watch(frozenset({two}))
    server.publish(one, b"unheard")
    server.publish(two, b"heard")
    wait_until(lambda: len(taken.messages) == 3)
    assert taken.messages[-1].payload == b"heard"
    assert taken.count(Connected) == 1
    lab.broker.stop()
    wait_until(lambda: taken.count(Disconnected) == 1)
    lab.broker.start()
    wait_until(lambda: taken.count(Connected) == 2)
    server = lab.server("server-2")
    server.publish(two, b"again")
    wait_until(lambda: taken.messages[-1].payload == b"again")


def test_a_bin_the_broker_still_sends_to_an_agent_started_anew_is_given_back(
    lab: BrokerLab, taken: Taken
) -> None:
    one, two = (meta_topic(f"packages-{number}") for number in (1, 2))
    identity, server = identity_of(lab), lab.server("server-1")
    for topic in (one, two):
        server.publish(topic, b"retained", retain=True)
    for watched in (one, two):
        link = MqttLink(identity, 7, taken.items.append, clock=SystemClock(), jitter=lambda: 0.05)
        link.watch(frozenset({watched}))
        link.start()
        wait_until(partial(taken.has, watched, b"retained"))
        server.publish(one, b"live")
        server.publish(watched, b"last")
        wait_until(partial(taken.has, watched, b"last"))
        link.stop()
    assert not taken.has(two, b"live")
    assert [m.payload for m in taken.messages if m.topic == one] == [b"retained", b"live", b"last"]


def test_a_certificate_whose_dates_do_not_fit_is_told_with_what_the_clock_says(
    lab: BrokerLab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = identity_of(lab)
    with not_yet_valid_server(tmp_path, identity.ca_path) as port:
        link = MqttLink(
            replace(identity, mqtt_port=port),
            7,
            Taken().items.append,
            clock=FakeClock(datetime(1970, 1, 2, tzinfo=UTC)),
            jitter=lambda: 0.9,
        )
        link.start()
        wait_until(lambda: "no connection" in caplog.text)
        link.stop()
    assert (
        "the clock says 1970-01-02 00:00 UTC, but this device's certificate begins" in caplog.text
    )
    assert "timedatectl" in caplog.text


@contextmanager
def not_yet_valid_server(directory: Path, ca_path: Path) -> Iterator[int]:
    """A TLS server whose certificate, which it writes to ``ca_path``, begins tomorrow."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = directory / "server.key"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_path, pem)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with plain, suppress(OSError), context.wrap_socket(plain, server_side=True):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_a_broker_of_another_authority_gets_nothing(lab: BrokerLab, tmp_path: Path) -> None:
    other = BrokerLab(tmp_path / "other")
    identity = identity_of(lab)
    shutil.copy(other.authority.ca_file, identity.ca_path)
    taken = Taken()
    link = MqttLink(identity, 7, taken.items.append, clock=SystemClock(), jitter=lambda: 0.9)
    link.start()
    time.sleep(0.5)
    link.stop()
    assert taken.items == []


def test_two_with_one_identity_do_not_chase_each_other(lab: BrokerLab) -> None:
    """The broker need not say that a session was taken over: unstable sessions back off."""
    both = [Taken(), Taken()]
    links = [
        MqttLink(identity_of(lab), 7, t.items.append, clock=SystemClock(), jitter=lambda: 0.5)
        for t in both
    ]
    for link in links:
        link.start()
    time.sleep(4)
    for link in links:
        link.stop()
    # Waits of 0.5, 1 and 2 seconds each: a chase without back-off connects hundreds of times.
    assert 2 <= sum(t.count(Connected) for t in both) <= 8


def test_a_callback_that_fails_does_not_end_the_session(lab: BrokerLab) -> None:
    seen: list[object] = []

    def take(item: object) -> None:
        seen.append(item)
        if isinstance(item, MessageArrived):
            raise KeyError("a mistake of ours")

    link = MqttLink(identity_of(lab), 7, take, clock=SystemClock(), jitter=lambda: 0.05)
    link.start()
    try:
        wait_until(lambda: len(seen) == 1)
        server = lab.server("server-1")
        for number in range(3):
            server.publish(DESIRED, str(number).encode())
        wait_until(lambda: len(seen) == 4)
        assert link.is_connected
    finally:
        link.stop()
