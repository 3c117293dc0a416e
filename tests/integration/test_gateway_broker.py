"""The generated configuration on a real mosquitto: who gets in, what is delivered, what survives.

Reads are checked at delivery, so these tests look at what arrived, never at a SUBACK.
"""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.topics import META_TOPIC, SERVER_FILTER, Channel, device_topic
from fleet_server.adapters.broker_config import (
    BrokerFiles,
    BrokerSettings,
    render_config,
    render_passwords,
)
from fleet_server.adapters.broker_process import (
    BrokerError,
    BrokerProcess,
    check_port_is_free,
    find_mosquitto,
    load_server_secret,
)
from fleet_server.errors import BusyError, MisuseError, NotFoundError
from tests.support.gateway import BrokerLab, Client, Received, TestAuthority

OWN_UP, OTHER_UP = device_topic("dev-a", Channel.STATUS), device_topic("dev-b", Channel.STATUS)
OWN_DOWN = device_topic("dev-a", Channel.DESIRED)
OTHER_DOWN = device_topic("dev-b", Channel.DESIRED)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerLab]:
    lab = BrokerLab(tmp_path_factory.mktemp("lab"))
    lab.broker.start()
    yield lab
    lab.stop()


@pytest.fixture
def fresh_lab(tmp_path: Path) -> Iterator[BrokerLab]:
    lab = BrokerLab(tmp_path)
    yield lab
    lab.stop()


def test_a_device_reads_only_its_own_branch_and_the_metadata(lab: BrokerLab) -> None:
    device, server = lab.device("dev-a"), lab.server("server-1")
    for topic_filter in ("#", "ef/v1/#", OTHER_DOWN, "ef/v1/+/dev-b/#"):
        device.subscribe(topic_filter)
    server.publish(OTHER_DOWN, b"for b")
    server.publish(OWN_DOWN, b"for a")
    server.publish("ef/v1/server/marker", b"private")
    server.publish(META_TOPIC, b"metadata")
    device.wait(lambda: any(r.topic == META_TOPIC for r in device.received))
    topics = {r.topic for r in device.received}
    assert topics == {OWN_DOWN, META_TOPIC}
    device.close()


@pytest.mark.parametrize(
    "topic", [OTHER_UP, OWN_DOWN, META_TOPIC, "ef/v1/server/marker", "anything"]
)
def test_what_a_device_writes_outside_its_branch_reaches_nobody(lab: BrokerLab, topic: str) -> None:
    server = lab.server("server-2")
    server.subscribe("#")
    before = len(server.received)
    forger = lab.device("dev-a")
    forger.paho.publish(topic, b"forged", 1)
    forger.wait(lambda: bool(forger.disconnects), timeout_s=2)  # mosquitto cuts the forger off
    forger.close()
    device = lab.device("dev-a")
    device.publish(OWN_UP, b"honest")
    server.wait(lambda: any(r.payload == b"honest" for r in server.received[before:]))
    assert b"forged" not in {r.payload for r in server.received}
    device.close()
    server.close()


def test_a_device_cannot_take_the_session_of_another(lab: BrokerLab) -> None:
    owner = lab.device("dev-a")
    thief = lab.device("dev-b", client_id="dev-a")
    assert thief.connects[0][0] == "Success"  # as dev-b: the certificate names it, not the client
    time.sleep(0.2)
    assert owner.disconnects == []
    thief.close()
    owner.close()


def test_a_device_certificate_alone_opens_nothing_on_the_server_listener(lab: BrokerLab) -> None:
    for secret in (None, "guess"):
        client = Client("server-1", lab.authority.issue("dev-a"), lab.authority.ca_file)
        if secret:
            client.paho.username_pw_set("server", secret)
        client.connect(lab.server_port)
        assert client.connects[0][0] == "Not authorized"
        client.close()


def test_several_server_connections_live_side_by_side(lab: BrokerLab) -> None:
    first, second = lab.server("server-gateway"), lab.server("server-bulk")
    first.subscribe(SERVER_FILTER)
    second.publish(OWN_UP, b"x")
    assert first.wait_for(1)[0].payload == b"x"
    assert first.disconnects == []
    assert second.disconnects == []
    first.close()
    second.close()


def test_strangers_are_refused_in_the_handshake(lab: BrokerLab, tmp_path: Path) -> None:
    assert lab.is_refused(TestAuthority(tmp_path / "other").issue("dev-a"))
    assert not lab.is_refused(lab.authority.issue("dev-a"))


def test_a_client_without_a_certificate_is_refused(lab: BrokerLab) -> None:
    context = ssl.create_default_context(cafile=str(lab.authority.ca_file))
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", lab.port)) as raw,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        context.wrap_socket(raw, server_hostname="127.0.0.1") as bare,
    ):
        bare.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02xy")
        answer = bare.recv(4)
    assert answer == b""


def test_a_revoked_device_is_refused_after_reload_and_others_are_not(lab: BrokerLab) -> None:
    identity = lab.authority.issue("dev-r")
    assert not lab.is_refused(identity)
    lab.authority.revoke(["dev-r"])
    lab.broker.reload()
    time.sleep(0.2)
    assert lab.is_refused(identity)
    assert not lab.is_refused(lab.authority.issue("dev-g"))
    lab.authority.revoke([])
    lab.broker.reload()


def test_what_came_while_a_party_was_away_is_delivered_after_a_clean_restart(
    fresh_lab: BrokerLab,
) -> None:
    lab = fresh_lab
    lab.broker.start()
    server = lab.server("server-gateway", clean=False)
    server.subscribe(SERVER_FILTER)
    device = lab.device("dev-a")
    device.subscribe("ef/v1/+/dev-a/down/#")
    server.close()
    device.publish(OWN_UP, b"while the server was away")
    device.close()
    writer = lab.server("server-other")
    writer.publish(device_topic("dev-a", Channel.TELEMETRY_ACK), b"while the device was away")
    writer.close()
    lab.broker.stop()
    lab.broker.start()
    server, device = lab.server("server-gateway", clean=False), lab.device("dev-a")
    assert server.connects == [("Success", True)]
    assert server.wait_for(1)[0].payload == b"while the server was away"
    assert device.wait_for(1)[0].payload == b"while the device was away"


def test_three_thousand_messages_wait_for_a_slow_server(lab: BrokerLab) -> None:
    server = lab.server("server-slow", clean=False)
    server.subscribe(OWN_UP)
    server.close()
    device = lab.device("dev-a")
    infos = [device.paho.publish(OWN_UP, f"{n}".encode(), 1) for n in range(3_000)]
    infos[-1].wait_for_publish(10)
    server = lab.server("server-slow", clean=False)
    got: list[Received] = server.wait_for(3_000)
    assert [int(r.payload) for r in got] == list(range(3_000))
    server.close()
    device.close()


def test_a_port_in_use_is_refused_with_its_owner(lab: BrokerLab) -> None:
    with pytest.raises(BusyError, match=rf"port {lab.port} .*process {lab.broker.pid}.*mosquitto"):
        check_port_is_free("127.0.0.1", lab.port)


def test_a_second_broker_over_taken_ports_changes_nothing(lab: BrokerLab, tmp_path: Path) -> None:
    other = BrokerProcess(tmp_path, lab.settings)
    with pytest.raises(BusyError):
        other.start()
    assert not (tmp_path / "mosquitto.conf").exists()
    assert lab.broker.is_alive()


def test_a_broker_that_cannot_read_its_files_says_so(fresh_lab: BrokerLab) -> None:
    fresh_lab.authority.crl_file.write_text("no PEM")
    with pytest.raises(BrokerError, match=r"ended at once.*log"):
        fresh_lab.broker.start()
    assert fresh_lab.broker.pid is None


def test_an_orphan_of_a_killed_supervisor_is_ended(fresh_lab: BrokerLab) -> None:
    fresh_lab.broker.start()
    orphan = fresh_lab.broker.pid
    assert orphan is not None
    # A new supervisor knows only the pid file.
    again = BrokerProcess(fresh_lab.directory, fresh_lab.settings)
    again.start()
    try:
        assert fresh_lab.broker.pid is None
        assert again.pid != orphan
    finally:
        again.stop()


def test_a_recycled_pid_is_left_alone(fresh_lab: BrokerLab) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        fresh_lab.directory.mkdir(parents=True)
        BrokerFiles(directory=fresh_lab.directory).pid.write_text(f"{bystander.pid}\n")
        fresh_lab.broker.start()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_killed_broker_starts_again_on_the_same_ports(fresh_lab: BrokerLab) -> None:
    fresh_lab.broker.start()
    assert fresh_lab.broker.pid is not None
    os.kill(fresh_lab.broker.pid, signal.SIGKILL)
    while fresh_lab.broker.is_alive():
        time.sleep(0.01)
    fresh_lab.broker.start()
    assert fresh_lab.device("dev-a").connects == [("Success", False)]


def test_secrets_are_for_the_owner_only(lab: BrokerLab) -> None:
    files = BrokerFiles(directory=lab.directory)
    assert files.secret.stat().st_mode & 0o077 == 0
    assert files.passwords.stat().st_mode & 0o077 == 0
    assert load_server_secret(lab.directory) not in files.passwords.read_text()


def test_without_a_broker_there_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="start the broker first"):
        load_server_secret(tmp_path)


def test_a_missing_program_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fleet_server.adapters.broker_process._SBIN", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotFoundError, match="apt-get install mosquitto"):
        find_mosquitto()


def _settings(port: int, server_port: int) -> BrokerSettings:
    path = Path("x.pem")
    return BrokerSettings(
        host="0.0.0.0",  # noqa: S104 - only rendered
        port=port,
        server_port=server_port,
        ca_file=path,
        certificate_file=path,
        key_file=path,
        crl_file=path,
    )


def test_equal_ports_are_misuse() -> None:
    with pytest.raises(MisuseError, match="both 8883"):
        _settings(8883, 8883)


def test_the_server_listener_is_loopback_whatever_the_devices_use() -> None:
    text = render_config(_settings(1, 2), BrokerFiles(directory=Path("d")), is_root=False)
    assert "listener 1 0.0.0.0\n" in text
    assert "listener 2 127.0.0.1\n" in text
    assert "user root" not in text
    assert text.count("require_certificate true") == 2


def test_the_password_file_is_what_mosquitto_writes() -> None:
    # mosquitto_passwd -U of 2.0.11 made the second part from "secret" and this salt.
    import base64

    line = render_passwords("secret", base64.b64decode("NX/z5u13RLPugycy"))
    assert line == (
        "server:$7$101$NX/z5u13RLPugycy$k37r1gSBLeRBuclnO1wFrY9MtEdFVHpSgz4C8G/"
        "vcAbAsMtF3TVHhhMt97OmJdQB/pBNs7iVzh7GF4nezDD4DQ==\n"
    )


def test_a_broker_told_to_read_its_files_again_while_it_starts_lives_on(
    fresh_lab: BrokerLab,
) -> None:
    broker, is_done = fresh_lab.broker, threading.Event()

    def tell() -> None:
        while not is_done.wait(0.001):
            broker.reload()

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        for _ in range(3):
            broker.start()
            first = broker.pid
            broker.reload()
            time.sleep(0.05)
            assert broker.pid == first is not None
            broker.stop()
    finally:
        is_done.set()
        teller.join()
