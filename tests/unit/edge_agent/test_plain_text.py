"""Plain text stays on this machine, whoever asks for more."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.adapters.enrolment import enrol
from edge_agent.adapters.mqtt_session import MqttSession
from edge_agent.adapters.plain_text import find_loopback
from edge_agent.contract.join import JoinTicket
from edge_agent.errors import EnrolmentError, PlainTextError

TICKET = JoinTicket(
    host="192.0.2.7",
    api_port=8443,
    mqtt_port=8883,
    fleet="fleet-1",
    device_id="cam-7",
    ca_sha256="a" * 64,
    root_sha256="b" * 64,
    secret="s" * 43,
    is_plain=True,
)


def test_a_join_string_says_that_it_is_plain_and_only_then() -> None:
    assert JoinTicket.decode(TICKET.encode()).is_plain
    secure = replace(TICKET, is_plain=False)
    assert not JoinTicket.decode(secure.encode()).is_plain
    assert len(secure.encode()) < len(TICKET.encode())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.200.3.4", "::1", "localhost"])
def test_a_loopback_is_found(host: str) -> None:
    assert find_loopback(host, 1)


@pytest.mark.parametrize("host", ["192.0.2.7", "0.0.0.0", "::", "10.0.0.1", "2001:db8::1"])  # noqa: S104 - refused, never bound
def test_every_other_host_is_refused(host: str) -> None:
    with pytest.raises(PlainTextError, match="not this machine"):
        find_loopback(host, 1)


def test_a_name_with_one_address_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(_host: str, port: int, **_: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.1", "192.0.2.7")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(PlainTextError, match=r"192\.0\.2\.7"):
        find_loopback("two.example", 1)


def test_nothing_is_sent_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("something was sent")

    monkeypatch.setattr(socket, "create_connection", no_network)
    with pytest.raises(EnrolmentError, match="not this machine"):
        enrol(TICKET.encode(), tmp_path)
    session = MqttSession("cam-7", 1, print, tls=None)
    with pytest.raises(PlainTextError, match="not this machine"):
        session.connect("192.0.2.7", 1_883, jitter=0.5)
