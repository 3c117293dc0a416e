"""The controller's process: its steps, its heartbeat, its end, and what follows a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from fleet_server.adapters.database.lease import LeaseLostError
from fleet_server.bootstrap import open_fleet
from fleet_server.run_state import read_heartbeat
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workers.controller import BEAT_S, Controller, Step
from fleet_server.workspace import Config, Workspace
from tests.support.clock import FakeClock
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("fleet")
    return init_workspace(root, Config(controller_period_s=0.2, drift_period_s=0.5)).workspace


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def spawn(
    workspace: Workspace, processes: list[subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fleet_server.workers.controller", "--workspace", workspace.root],
        stderr=subprocess.DEVNULL,
    )
    processes.append(process)
    return process


def heartbeat(workspace: Workspace) -> dict[str, Any]:
    return read_heartbeat(workspace.server_dir, "controller")


def test_a_killed_controller_is_followed_by_another_and_a_stopped_one_ends_clean(
    workspace: Workspace, processes: list[subprocess.Popen[bytes]]
) -> None:
    first = spawn(workspace, processes)
    wait_until(lambda: heartbeat(workspace).get("pid") == first.pid, what="first heartbeat")
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = spawn(workspace, processes)
    wait_until(
        lambda: heartbeat(workspace).get("pid") == second.pid and heartbeat(workspace)["is_leader"],
        timeout_s=40,
        what="second leads",
    )
    third = spawn(workspace, processes)
    wait_until(lambda: heartbeat(workspace).get("pid") == third.pid, timeout_s=40)
    assert heartbeat(workspace)["is_leader"] is False
    second.terminate()
    assert second.wait(60) == 0
    wait_until(
        lambda: heartbeat(workspace).get("pid") == third.pid and heartbeat(workspace)["is_leader"],
        timeout_s=60,
        what="third leads at once",
    )
    third.terminate()
    assert third.wait(60) == 0


def test_every_step_runs_and_says_so(workspace: Workspace) -> None:
    controller = Controller(open_fleet(workspace), Event())
    controller.turn()
    controller.turn()
    said = heartbeat(workspace)
    assert said["pid"] == os.getpid()
    assert said["is_leader"] is True
    assert [name for name, step in said["steps"].items() if step["errors"]] == []
    assert controller.steps[0].runs == 2
    controller.drift.do_if_due(lambda: 0.0)
    assert (controller.drift.runs, controller.drift.errors) == (1, 0)
    controller._lease.release()


def test_a_step_that_fails_is_counted_and_stops_no_other(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    controller = Controller(open_fleet(workspace, clock), Event())
    done: list[str] = []

    def fail() -> None:
        raise OSError("disk on fire")

    controller.steps = (
        Step("bad", 0.0, fail),
        Step("good", 10.0, lambda: done.append("good")),
    )
    for _ in range(3):
        controller.turn()
        clock.advance(BEAT_S)
    bad, good = controller.steps
    assert (bad.runs, bad.errors, bad.last_error) == (3, 3, "OSError: disk on fire")
    assert (good.runs, done) == (2, ["good", "good"])
    assert "Traceback" in caplog.text
    assert heartbeat(workspace)["steps"]["bad"]["last_error"] == "OSError: disk on fire"
    controller._lease.release()


def test_a_controller_that_lost_its_lease_stops_its_steps_and_waits(workspace: Workspace) -> None:
    fleet = open_fleet(workspace)
    controller = Controller(fleet, Event())
    done: list[str] = []

    def lose() -> None:
        raise LeaseLostError("gone")

    controller.steps = (Step("rollouts", 0.0, lose), Step("sign", 0.0, lambda: done.append("x")))
    controller.turn()
    assert not controller.is_leader
    assert done == []
    assert controller.steps[0].errors == 0
    controller._lease.release()
