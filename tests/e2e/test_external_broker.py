"""A mosquitto that somebody else runs, from exactly the files ``keys broker-config`` writes."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet_server.adapters.broker_process import find_mosquitto
from fleet_server.bootstrap import open_fleet
from fleet_server.demo.processes import Background, FleetProcesses
from fleet_server.errors import UnreachableError
from fleet_server.free_ports import find_free_ports
from fleet_server.run_state import read_run_file
from fleet_server.wiring.broker import check_external_broker
from fleet_server.wiring.devices import build_device_reader
from tests.support.waiting import wait_until
from tests.support.warm_commands import WarmCommands, WarmFleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.xdist_group("external")]
DEVICE = "dev-far"


@dataclass
class Outside:
    """A workspace whose broker is elsewhere."""

    processes: FleetProcesses
    place: Path
    ports: tuple[int, int]
    broker: "subprocess.Popen[bytes] | None" = None

    def start_broker(self) -> None:
        with (self.processes.log_dir / "mosquitto.log").open("ab") as log:
            self.broker = subprocess.Popen(
                [find_mosquitto(), "-c", str(self.place / "mosquitto.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: all(answers(port) for port in self.ports))

    def stop_broker(self) -> None:
        if self.broker is not None:
            self.broker.terminate()
            self.broker.wait(20)
            self.broker = None


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def outside(
    tmp_path_factory: pytest.TempPathFactory, warm_commands: WarmCommands
) -> Iterator[Outside]:
    processes = WarmFleet(tmp_path_factory.mktemp("outside"), warm_commands)
    broker, server, api = find_free_ports(3)
    processes.run(
        "init", str(processes.workspace), "--broker-port", str(broker), "--server-port",
        str(server), "--api-port", str(api),
    )  # fmt: skip
    # Not below the test's own folder: the broker's user must be able to reach it.
    place = Path(tempfile.mkdtemp(prefix="external-broker-"))
    found = Outside(processes, place, (broker, server))
    yield found
    processes.stop_all()
    found.stop_broker()
    shutil.rmtree(place)


def test_a_managed_broker_has_no_files_to_give_away(outside: Outside) -> None:
    refused = outside.processes.run("keys", "broker-config", expect=2)
    assert 'broker = "external"' in refused.stderr


def test_the_files_are_private_and_say_what_to_do(outside: Outside) -> None:
    processes = outside.processes
    config = processes.workspace / "edgefleet.toml"
    text = config.read_text().replace('broker = "managed"', 'broker = "external"')
    for name in ("broker_host", "server_host"):
        text = text.replace(f'{name} = ""', f'{name} = "127.0.0.1"')
    config.write_text(text)
    place = str(outside.place)
    written = processes.run("keys", "broker-config", "--out", place, "--at", place).stdout.split()
    assert {Path(path).name for path in written} == {
        "README.md", "broker.key", "broker.pem", "ca.pem", "crl.pem", "devices.acl",
        "mosquitto.conf", "passwords", "server.acl",
    }  # fmt: skip
    assert all(Path(path).stat().st_mode & 0o077 == 0 for path in written)
    secret = (processes.workspace / "server" / "broker" / "server.secret").read_text()
    assert all(secret not in Path(path).read_text() for path in written)
    assert f"chown -R mosquitto:mosquitto {place}" in (outside.place / "README.md").read_text()
    checkup = processes.run("doctor", expect=1).stdout
    assert "the external broker does not answer" in checkup


def test_a_server_works_with_it_and_starts_none(outside: Outside) -> None:
    follow_the_readme(outside.place)
    outside.start_broker()
    processes = outside.processes
    server = processes.start_server()
    assert "is external" in server.last_words(100)
    state = read_run_file(processes.workspace / "server" / "up.json")
    assert state["children"]["broker"] is None
    assert not (processes.workspace / "server" / "broker" / "mosquitto.conf").exists()

    agent = processes.start_agent(DEVICE, "onprem-server", "--http-port", "0")
    wait_until(lambda: is_online(processes), timeout_s=60, what=agent.last_words())
    checkup = processes.run("doctor").stdout
    assert "the external broker answers" in checkup
    assert "mosquitto is installed" not in checkup
    check_it_outlives_its_broker(outside, server)


def check_it_outlives_its_broker(outside: Outside, server: Background) -> None:
    outside.stop_broker()
    fleet = open_fleet(outside.processes.workspace)
    with pytest.raises(UnreachableError, match="does not answer"):
        check_external_broker(fleet)
    fleet.engine.dispose()
    outside.start_broker()
    check_external_broker(fleet)
    wait_until(lambda: is_online(outside.processes), timeout_s=60)
    assert server.is_alive
    assert server.stop() == 0
    assert outside.broker is not None
    assert outside.broker.poll() is None


def is_online(processes: FleetProcesses) -> bool:
    fleet = open_fleet(processes.workspace)
    try:
        return build_device_reader(fleet).show(DEVICE).state == "online"
    finally:
        fleet.engine.dispose()


def follow_the_readme(place: Path) -> None:
    """Give the files to the broker's user, where that is another one."""
    (place / "state").mkdir()
    if os.geteuid() != 0:
        return
    for path in (place, *place.iterdir()):
        shutil.chown(path, "mosquitto", "mosquitto")
