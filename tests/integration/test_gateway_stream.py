"""The telemetry connection against a real broker: batches, acknowledgements, coming back."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from edge_agent.contract.topics import PREFIX, Channel, device_topic
from fleet_server.adapters.broker_process import load_server_secret
from fleet_server.adapters.mqtt_gateway import Delivery, LinkSettings
from fleet_server.adapters.telemetry_stream import TelemetryStream
from tests.support.gateway import BrokerLab, Client

TOPIC = device_topic("dev-a", Channel.TELEMETRY)
ACK_TOPIC = device_topic("dev-a", Channel.TELEMETRY_ACK)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[BrokerLab]:
    lab = BrokerLab(tmp_path)
    lab.broker.start()
    yield lab
    lab.stop()


def make_stream(lab: BrokerLab, *, secret: str | None = None) -> TelemetryStream:
    identity = lab.authority.issue("server")
    settings = LinkSettings(
        host="127.0.0.1",
        port=lab.server_port,
        client_id="server-telemetry",
        ca_file=lab.authority.ca_file,
        certificate_file=identity.certificate,
        key_file=identity.key,
        secret=secret or load_server_secret(lab.directory),
        filters=[(f"{PREFIX}/+/+/up/tel", 1)],
        is_persistent=True,
    )
    return TelemetryStream(settings, Event())


def take(stream: TelemetryStream, count: int, *, messages_max: int = 1_000) -> list[Delivery]:
    got: list[Delivery] = []
    end_s = time.monotonic() + 10
    while len(got) < count and time.monotonic() < end_s:
        got += stream.receive(
            messages_max=messages_max, bytes_max=10**6, linger_s=0.02, timeout_s=0.1
        )
    return got


def connect(stream: TelemetryStream) -> None:
    until(lambda: look(stream) == [] and stream.epoch > 0)


def look(stream: TelemetryStream) -> list[Delivery]:
    return stream.receive(messages_max=1, bytes_max=1, linger_s=0.0, timeout_s=0.05)


def until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end_s


def send(device: Client, *numbers: int) -> None:
    infos = [device.paho.publish(TOPIC, f"{n}".encode(), 1) for n in numbers]
    for info in infos:
        info.wait_for_publish(10)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(d.message.payload) for d in deliveries]


def test_messages_come_in_order_in_bounded_batches(lab: BrokerLab) -> None:
    stream, device = make_stream(lab), lab.device("dev-a")
    connect(stream)
    send(device, *range(500))
    got = take(stream, 500, messages_max=70)
    assert numbers(got) == list(range(500))
    assert {d.message.topic for d in got} == {TOPIC}
    assert {(d.qos, d.message.is_retained) for d in got} == {(1, False)}
    stream.close()


def test_a_batch_is_bounded_in_bytes(lab: BrokerLab) -> None:
    stream, device = make_stream(lab), lab.device("dev-a")
    connect(stream)
    for _ in range(3):
        device.publish(TOPIC, bytes(200_000))
    batch = stream.receive(messages_max=100, bytes_max=1, linger_s=1.0, timeout_s=5)
    assert len(batch) <= 2  # what one read brought
    stream.close()


def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(lab: BrokerLab) -> None:
    stream, device = make_stream(lab), lab.device("dev-a")
    connect(stream)
    send(device, *range(10))
    got = take(stream, 10)
    stream.answer(got[:4], [])
    stream.close()
    again = make_stream(lab)
    assert numbers(take(again, 6)) == list(range(4, 10))
    again.close()


def test_answers_reach_the_device(lab: BrokerLab) -> None:
    stream, device = make_stream(lab), lab.device("dev-a")
    device.subscribe(ACK_TOPIC)
    connect(stream)
    stream.answer([], [(ACK_TOPIC, f"{n}".encode()) for n in range(300)])
    assert [int(r.payload) for r in device.wait_for(300)] == list(range(300))
    stream.close()


def test_after_the_broker_was_killed_it_comes_back_and_old_acknowledgements_are_dropped(
    lab: BrokerLab,
) -> None:
    stream, device = make_stream(lab), lab.device("dev-a")
    connect(stream)
    send(device, 1, 2)
    old = take(stream, 2)
    assert lab.broker.pid is not None
    os.kill(lab.broker.pid, signal.SIGKILL)
    while lab.broker.is_alive():
        time.sleep(0.01)
    assert take(stream, 0) == []
    until(lambda: look(stream) == [] and stream.epoch == 0)
    stream.answer(old, [(ACK_TOPIC, b"lost")])  # nobody there: nothing happens
    lab.broker.start()
    until(lambda: look(stream) == [] and stream.epoch == 2)
    device = lab.device("dev-a")
    send(device, 7, 8)
    got = take(stream, 2)
    assert numbers(got) == [7, 8]
    # Packet ids begin anew: an old acknowledgement must not stand for a new message.
    assert {d.packet_id for d in old} & {d.packet_id for d in got}
    stream.answer(old, [])
    stream.close()
    again = make_stream(lab)
    assert numbers(take(again, 2)) == [7, 8]
    again.close()


def test_a_wrong_secret_is_refused_again_and_again_without_a_storm(lab: BrokerLab) -> None:
    stream = make_stream(lab, secret="wrong")
    for _ in range(3):
        assert take(stream, 0) == []
        assert look(stream) == []
    assert stream.epoch == 0
    stream.close()


def test_an_idle_connection_is_kept_alive(lab: BrokerLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet_server.adapters.telemetry_stream.KEEPALIVE_S", 1)
    stream, device = make_stream(lab), lab.device("dev-a")
    connect(stream)
    end_s = time.monotonic() + 2.5  # the broker cuts a silent client after 1.5 s
    while time.monotonic() < end_s:
        assert look(stream) == []
    assert stream.epoch == 1
    send(device, 5)
    assert numbers(take(stream, 1)) == [5]
    stream.close()
