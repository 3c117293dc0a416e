"""``edgefleet up --insecure-loopback``: the whole loop without TLS, and nothing else given up."""

import hashlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from edge_agent.adapters.identity_store import load_identity
from edge_agent.adapters.mqtt_session import tls_context
from edge_agent.contract.assignment import Assignment, SlotAssignment
from edge_agent.contract.join import JoinTicket
from edge_agent.contract.package import EVIDENCE
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.local_status import find_status
from fleet_server.adapters.broker_config import SERVER_USER
from fleet_server.adapters.broker_process import load_server_secret
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import SlotRow
from fleet_server.adapters.director import Director
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.demo.processes import Background, FleetProcesses
from fleet_server.free_ports import find_free_ports
from fleet_server.wiring.devices import build_device_reader
from tests.support.agent_fleet import PROFILE, release, wish
from tests.support.serving import build_classifier
from tests.support.waiting import wait_until
from tests.support.warm_commands import WarmCommands, WarmFleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.xdist_group("up-insecure")]
DEVICE = "dev-plain"


def package(seed: int) -> bytes:
    evidence = {"precision": "fp32", "graph": {"ir": 8, "opset": 13, "opset_ml": 0}}
    members = {EVIDENCE: json.dumps(evidence).encode()}
    return build_classifier(seed=seed, edit=lambda m: {**m, **members}).blob


@dataclass
class Plain:
    """A server without TLS and one agent that joined it."""

    processes: FleetProcesses
    fleet: Fleet
    server: Background
    agent: Background
    join_string: str

    @property
    def directory(self) -> Path:
        return self.processes.root / "devices" / DEVICE

    def slot(self) -> SlotRow | None:
        with read_session(self.fleet.engine) as session:
            return session.exec(select(SlotRow)).first()

    def refusal(self) -> str:
        return build_device_reader(self.fleet).show(DEVICE).refusal

    def wait_for(self, is_so: Callable[[SlotRow], bool], what: str, timeout_s: float = 60) -> None:
        def is_there() -> bool:
            row = self.slot()
            return row is not None and is_so(row)

        wait_until(is_there, timeout_s=timeout_s, what=f"{what}; {self.agent.last_words()}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, warm_commands: WarmCommands) -> Iterator[Plain]:
    processes = WarmFleet(tmp_path_factory.mktemp("plain"), warm_commands)
    try:
        yield from join_and_run(processes)
    finally:
        processes.stop_all()


def join_and_run(processes: FleetProcesses) -> Iterator[Plain]:
    init(processes)
    server = processes.start_server("--insecure-loopback")
    added = processes.run("device", "add", DEVICE, "--profile", PROFILE)
    join_string = next(word for word in added.stdout.split() if word.startswith("ef1:"))
    directory = str(processes.root / "devices" / DEVICE)
    joined = processes.run("join", join_string, "--dir", directory, program="edge-agent")
    assert "INSECURE" in joined.stderr
    (Path(directory) / "agent.toml").write_text("grace_s = 1.0\n")
    agent = start_agent(processes, directory)
    fleet = open_fleet(processes.workspace)
    yield Plain(processes, fleet, server, agent, join_string)
    fleet.engine.dispose()


def init(processes: FleetProcesses, **hosts: str) -> None:
    broker, server, api = (str(p) for p in find_free_ports(3))
    options = [word for name, host in hosts.items() for word in (f"--{name}", host)]
    processes.run(
        "init", str(processes.workspace), "--broker-port", broker, "--server-port", server,
        "--api-port", api, *options,
    )  # fmt: skip


def start_agent(processes: FleetProcesses, directory: str) -> Background:
    return processes.start(DEVICE, "edge-agent", "run", "--dir", directory, "--http-port", "0")


def test_a_device_joins_runs_and_confirms_and_everybody_says_that_it_is_insecure(
    plain: Plain,
) -> None:
    one = release(plain.fleet, "plant", 1, package(1))
    wish(plain.fleet, DEVICE, one)
    plain.wait_for(lambda row: row.state == "confirmed", "the first package")
    assert JoinTicket.decode(plain.join_string).is_plain
    assert find_status(plain.directory)["is_insecure"]
    status = plain.processes.run("status", "--dir", str(plain.directory), program="edge-agent")
    assert "INSECURE" in status.stdout
    assert "INSECURE" in plain.agent.last_words(100)
    assert "INSECURE" in plain.server.last_words(100)
    doctor = plain.processes.run("doctor", "--dir", str(plain.directory), program="edge-agent")
    assert "INSECURE" in doctor.stdout
    plain.processes.run("doctor")


def test_what_no_approver_signed_is_refused_without_tls_as_well(plain: Plain) -> None:
    two = release(plain.fleet, "plant", 2, package(2), is_approved=False)
    now_at = plain.fleet.clock.now()
    assignment = Assignment(
        fleet=plain.fleet.workspace.config.fleet,
        device=DEVICE,
        counter=1_000,
        issued_at=now_at,
        expires_at=now_at + timedelta(days=1),
        slots={"plant": SlotAssignment(target=two)},
    )
    sealed = Director(plain.fleet.workspace.keys_dir).seal(assignment)
    publish(plain, device_topic(DEVICE, Channel.DESIRED), sealed)
    wait_until(lambda: plain.refusal().startswith("not-approved"), what="the refusal")
    row = plain.slot()
    assert row is not None
    assert str(row.running_target).startswith("plant/1/")


def test_bytes_that_nobody_signed_are_never_run(plain: Plain) -> None:
    three = package(3)
    target = release(plain.fleet, "plant", 3, three)
    plain.agent.stop()
    wish(plain.fleet, DEVICE, target)
    path = plain.fleet.objects.path(hashlib.sha256(three).hexdigest())
    path.write_bytes(bytes(len(three)))
    plain.agent = start_agent(plain.processes, str(plain.directory))
    plain.wait_for(lambda row: row.desired_target == target and bool(row.code), "the refusal")
    row = plain.slot()
    assert row is not None
    assert row.code == "fetch-budget"
    assert "hash" in row.detail
    plain.wait_for(lambda row: str(row.running_target).startswith("plant/1/"), "the first package")


def test_with_the_next_start_everybody_speaks_tls_again(plain: Plain) -> None:
    assert plain.server.stop() == 0
    plain.server = plain.processes.start_server()
    assert "INSECURE" not in plain.server.last_words(1)
    wait_until(lambda: not find_status(plain.directory)["is_insecure"], timeout_s=60)
    identity = load_identity(plain.directory)
    with (
        socket.create_connection((identity.host, identity.mqtt_port), 5) as raw,
        tls_context(identity).wrap_socket(raw, server_hostname=identity.host) as line,
    ):
        assert line.version() == "TLSv1.3"
    wait_until(
        lambda: build_device_reader(plain.fleet).show(DEVICE).state == "online", timeout_s=60
    )
    ticket = plain.processes.run("device", "add", "dev-next", "--profile", PROFILE).stdout
    assert not JoinTicket.decode(ticket).is_plain


def test_no_other_address_is_served_without_tls(
    tmp_path: Path, warm_commands: WarmCommands
) -> None:
    processes = WarmFleet(tmp_path, warm_commands)
    init(processes)
    config = processes.workspace / "edgefleet.toml"
    text = config.read_text()
    config.write_text(text.replace('bind_host = "127.0.0.1"', 'bind_host = "0.0.0.0"'))
    refused = processes.run("up", "--insecure-loopback", expect=2)
    assert "bind_host is '0.0.0.0'" in refused.stderr


def publish(plain: Plain, topic: str, payload: bytes) -> None:
    """Publish as the server does, with its secret."""
    workspace = plain.fleet.workspace
    subprocess.run(
        [
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(workspace.config.server_port),
            "-q", "1", "-r", "-t", topic, "-s",
            "-u", SERVER_USER, "-P", load_server_secret(workspace.broker_dir),
        ],
        input=payload,
        check=True,
    )  # fmt: skip
