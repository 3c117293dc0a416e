"""``edgefleet up`` with real processes: refused twice, killed piece by piece, stopped; in order."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_server.demo.processes import FleetProcesses
from fleet_server.free_ports import find_free_ports
from tests.support.waiting import wait_until
from tests.support.warm_commands import WarmCommands, WarmFleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.xdist_group("up")]


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, warm_commands: WarmCommands
) -> Iterator[FleetProcesses]:
    fleet = WarmFleet(tmp_path_factory.mktemp("up"), warm_commands)
    broker, server, api = (str(p) for p in find_free_ports(3))
    fleet.run(
        "init", str(fleet.workspace), "--broker-port", broker, "--server-port", server,
        "--api-port", api,
    )  # fmt: skip
    fleet.start_server()
    yield fleet
    fleet.stop_all()


def children(fleet: FleetProcesses) -> dict[str, int]:
    path = fleet.workspace / "server" / "up.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    return {name: pid for name, pid in state.get("children", {}).items() if pid}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_healthy(fleet: FleetProcesses) -> bool:
    return fleet.run("doctor", expect=None).returncode == 0


def test_a_server_runs_and_is_refused_twice(fleet: FleetProcesses) -> None:
    assert set(children(fleet)) == {"broker", "gateway", "controller", "api"}
    assert is_healthy(fleet)
    second = fleet.run("up", expect=1)
    assert "already run by process" in second.stderr


def test_a_port_in_use_is_named_with_its_owner(
    fleet: FleetProcesses, tmp_path: Path, warm_commands: WarmCommands
) -> None:
    other = WarmFleet(tmp_path / "other", warm_commands)
    config = (fleet.workspace / "edgefleet.toml").read_text()
    other.run("init", str(other.workspace))
    (other.workspace / "edgefleet.toml").write_text(config)
    refused = other.run("up", expect=1)
    assert "is in use by process" in refused.stderr
    assert "mosquitto" in refused.stderr


def test_each_killed_child_comes_back_and_the_others_stay(fleet: FleetProcesses) -> None:
    for name in ("broker", "gateway", "controller", "api"):
        before = children(fleet)
        os.kill(before[name], signal.SIGKILL)
        wait_until(
            lambda n=name, b=before: children(fleet).get(n) not in (None, b[n]),  # type: ignore[misc]
            timeout_s=60,
            what=name,
        )
        after = children(fleet)
        assert {n: p for n, p in after.items() if n != name} == {
            n: p for n, p in before.items() if n != name
        }
    wait_until(lambda: is_healthy(fleet), timeout_s=60, what="doctor to be content")


def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_one_takes_over(
    fleet: FleetProcesses,
) -> None:
    pids = children(fleet)
    fleet.started[-1].send(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(p) for p in pids.values()), timeout_s=30)
    fleet.start_server()
    assert is_healthy(fleet)


def test_a_server_stops_without_a_trace(fleet: FleetProcesses) -> None:
    pids, server = children(fleet), fleet.started[-1]
    assert set(pids) == {"broker", "gateway", "controller", "api"}
    assert server.stop() == 0
    assert not any(is_alive(pid) for pid in pids.values())
    assert "stopped" in server.last_words()
    assert not (fleet.workspace / "server" / "up.json").exists()
