"""The bridge process between a real mosquitto and the agent's HTTP server."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.mqtt_bridge import MqttBridge
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.bridge_settings import BridgeSettings
from edge_agent.cli import main
from edge_agent.client import connect
from edge_agent.contract.schema import Feature
from tests.support.edges import agent_directory, write_certificate
from tests.support.serving import CLASSES, build_classifier
from tests.support.serving_http import World
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(
        shutil.which("mosquitto") is None or shutil.which("mosquitto_pub") is None,
        reason="mosquitto and its clients are not installed",
    ),
    pytest.mark.xdist_group("mqtt-bridge"),
]
BUILT = build_classifier(
    features=(Feature(name="heat", low=-40, high=125), Feature(name="pixels", shape=(3,)))
)
SECTION = """
[mqtt_bridge]
port = {port}
username = "gate"
password_file = "mqtt.password"
topic_in = "plant/{{machine}}/in"
topic_out = "plant/{{machine}}/out"
topic_error = "bad/{{machine}}"
topic_status = "bridge/status"
queue_max = 4
keep = ["time"]
fields = {{heat = "t.inside", pixels = "grid"}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Broker:
    """mosquitto that asks for a password."""

    def __init__(self, directory: Path) -> None:
        self.port, self._directory = free_port(), directory
        passwords = directory / "passwords"
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", str(passwords), "gate", "secret"],
            check=True,
            capture_output=True,
        )
        passwords.chmod(0o644)
        directory.chmod(0o755)
        (directory / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
            "user root\n"
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["mosquitto", "-c", str(self._directory / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.is_up)
        self.publish("ready", 1, "-r")

    def is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def tool(self, name: str, *arguments: str) -> list[str]:
        account = ["-h", "127.0.0.1", "-p", str(self.port), "-u", "gate", "-P", "secret"]
        return [f"mosquitto_{name}", *account, *arguments]

    def publish(self, topic: str, payload: Any, *arguments: str) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        command = self.tool("pub", "-q", "1", "-t", topic, "-m", text, *arguments)
        subprocess.run(command, check=True, timeout=20)

    @contextlib.contextmanager
    def hearing(self, *topics: str) -> Iterator[list[tuple[str, Any]]]:
        """Messages of mosquitto_sub, as they come in."""
        heard: list[tuple[str, Any]] = []
        filters = [part for topic in (*topics, "ready") for part in ("-t", topic)]
        command = self.tool("sub", "-q", "1", "-F", "%t %p", *filters)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = process.stdout

            is_ready = threading.Event()

            def read() -> None:
                for line in lines:
                    topic, _, payload = line.partition(" ")
                    if topic == "ready":
                        is_ready.set()
                    else:
                        heard.append((topic, json.loads(payload)))

            thread = threading.Thread(target=read)
            thread.start()
            assert is_ready.wait(10)
            try:
                yield heard
            finally:
                process.terminate()
                thread.join()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("agent")
    (directory / "agent.toml").write_text(SECTION.format(port=broker.port))
    password = directory / "mqtt.password"
    password.write_text("secret\n")
    password.chmod(0o600)
    with agent_directory(directory, BUILT) as world:
        yield directory, world


@pytest.fixture(scope="module")
def bridge(agent: tuple[Path, World], broker: Broker) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "edge_agent", "bridge", "--dir", str(agent[0])]
    with broker.hearing("bridge/status") as heard:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: heard and heard[-1][1]["is_online"])
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.usefixtures("bridge")
def test_a_message_is_answered_on_the_topic_of_its_machine(
    broker: Broker, agent: tuple[Path, World]
) -> None:
    row = BUILT.rows[0]
    payload = {"t": {"inside": float(row[0])}, "grid": row[1:].tolist(), "time": "08:15"}
    with broker.hearing("plant/+/out") as heard:
        broker.publish("plant/press-3/in", payload)
        wait_until(lambda: len(heard) == 1)
    topic, answer = heard[0]
    expected = agent[1].service.predict("main", BUILT.rows[:1])
    assert topic == "plant/press-3/out"
    assert answer["class"] == expected.class_names[0]
    assert answer["class"] == CLASSES[answer["label"]]
    assert (answer["model"], answer["version"], answer["slot"]) == ("plant", "3", "main")
    assert answer["prediction_id"].startswith("0000000000000005-")
    assert answer["time"] == "08:15"


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        ("no json", "malformed", "the payload is not JSON"),
        ([1], "malformed", "must be a JSON object"),
        ({"t": {"inside": 1}}, "malformed", "no grid, which is field pixels"),
        ({"t": {"inside": 126}, "grid": [1, 2, 3]}, "refused", "heat is 126, allowed is"),
        ({"t": {"inside": 1}, "grid": [1, 2]}, "refused", "field pixels has 2 numbers"),
    ],
)
def test_what_cannot_be_answered_is_told_on_the_error_topic(
    broker: Broker, payload: Any, kind: str, words: str
) -> None:
    with broker.hearing("bad/+") as heard:
        broker.publish("plant/m1/in", payload)
        wait_until(lambda: len(heard) == 1)
    topic, error = heard[0]
    assert (topic, error["topic"], error["kind"]) == ("bad/m1", "plant/m1/in", kind)
    assert words in error["error"]


def test_the_bridge_comes_back_after_the_broker_and_says_goodbye(
    bridge: "subprocess.Popen[str]", broker: Broker
) -> None:
    broker.stop()
    broker.start()
    payload = {"t": {"inside": 1}, "grid": [1, 2, 3]}
    with broker.hearing("plant/+/out", "bridge/status") as heard:
        wait_until(lambda: any(t == "bridge/status" and p["is_online"] for t, p in heard))
        broker.publish("plant/m2/in", payload)
        wait_until(lambda: any(topic == "plant/m2/out" for topic, _ in heard))
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(60) == 0
        wait_until(lambda: heard[-1][0] == "bridge/status" and not heard[-1][1]["is_online"])
    counts = heard[-1][1]
    told = ("answered", "malformed", "refused")
    assert counts["answered"] >= 1
    assert counts["received"] == sum(counts[name] for name in told)


def test_the_oldest_are_dropped_while_the_agent_is_away_and_counted(
    tmp_path: Path, broker: Broker
) -> None:
    (tmp_path / "p").write_text("secret")
    (tmp_path / "p").chmod(0o600)
    settings = BridgeSettings(
        topic_in="in", topic_out="out", port=broker.port, username="gate", password_file="p",
        queue_max=3,
    )  # fmt: skip
    with connect(tmp_path) as client:
        bridge = MqttBridge(settings, tmp_path, client, SystemClock())
        thread = threading.Thread(target=bridge.run)
        broker.publish("in", {"old": 1}, "-r")
        thread.start()
        try:
            wait_until(lambda: bridge.counts["stale"] == 1)
            with broker.hearing("out") as heard:
                for n in range(8):
                    broker.publish("in", {"heat": n, "pixels": [n, 2, 3]})
                wait_until(lambda: bridge.counts["received"] == 8)
                with agent_directory(tmp_path, BUILT):
                    wait_until(lambda: bridge.counts["answered"] == 3, timeout_s=60)
                    wait_until(lambda: len(heard) == 3)
        finally:
            bridge.stop()
            thread.join()
    assert bridge.counts["dropped"] == 5


def test_a_broker_with_tls_is_believed_by_its_authority_alone(tmp_path: Path) -> None:
    for name in ("broker", "other"):
        write_certificate(tmp_path, name)
    port = free_port()
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"certfile {tmp_path}/broker.pem\nkeyfile {tmp_path}/broker.key\n"
    )
    with subprocess.Popen(
        ["mosquitto", "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL
    ) as mosquitto:
        try:
            assert is_connecting(tmp_path, port, "broker.pem", wait_s=10)
            assert not is_connecting(tmp_path, port, "other.pem", wait_s=1)
        finally:
            mosquitto.terminate()


def is_connecting(directory: Path, port: int, ca_file: str, *, wait_s: float) -> bool:
    settings = BridgeSettings(topic_in="in", topic_out="out", port=port, ca_file=ca_file)
    with connect(directory) as client:
        bridge = MqttBridge(settings, directory, client, SystemClock())
        thread = threading.Thread(target=bridge.run)
        thread.start()
        try:
            wait_until(lambda: bridge._is_connected, timeout_s=wait_s)
        except AssertionError:
            return False
        finally:
            bridge.stop()
            thread.join()
    return True


def test_settings_are_checked_without_a_broker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(text: str) -> int:
        (tmp_path / "agent.toml").write_text(text)
        return main(["bridge", "--check", "--dir", str(tmp_path)])

    good = '[mqtt_bridge]\ntopic_in = "in"\ntopic_out = "out"\n'
    assert check(good) == 0
    assert check(good + 'username = "a"\npassword_file = "none"') == 2
    assert "password_file" in capsys.readouterr().err
    assert check(good + 'ca_file = "none"') == 2
    assert "ca_file" in capsys.readouterr().err
    open_file = tmp_path / "open"
    open_file.write_text("secret")
    open_file.chmod(0o644)
    assert check(good + 'username = "a"\npassword_file = "open"') == 2
    assert "is open to every user; run: chmod 640" in capsys.readouterr().err
