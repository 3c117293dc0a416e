"""The supervisor with real child processes that are killed."""

import os
import signal
import sys
from pathlib import Path
from threading import Thread

import pytest

from fleet_server.adapters.system_clock import SystemClock
from fleet_server.errors import BusyError
from fleet_server.run_state import read_run_file
from fleet_server.workers.supervisor import Supervisor, WorkspaceLock
from fleet_server.workspace import Config, Workspace
from tests.support.waiting import wait_until


class FakeBroker:
    def __init__(self) -> None:
        self.starts = self.reloads = 0
        self.alive = False
        self.pid: int | None = None

    def start(self) -> None:
        self.starts += 1
        self.alive = True

    def stop(self) -> None:
        self.alive = False

    def reload(self) -> None:
        self.reloads += 1

    def is_alive(self) -> bool:
        return self.alive


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(root=tmp_path, config=Config())


def sleeper(_name: str, _root: Path) -> list[str]:
    """Stand in for a worker with a process that only waits for a signal."""
    return [sys.executable, "-c", "import signal; signal.pause()"]


def test_what_is_killed_is_started_again_and_everything_stops(workspace: Workspace) -> None:
    broker, said = FakeBroker(), list[str]()
    crl = workspace.root / "crl.pem"
    boss = Supervisor(
        workspace, broker, SystemClock(), say=said.append, watched=crl, command_of=sleeper
    )
    boss.start()
    thread = Thread(target=boss.run)
    thread.start()
    try:
        before = read_run_file(workspace.run_file)["children"]
        os.kill(before["gateway"], signal.SIGKILL)
        broker.alive = False
        crl.write_text("revoked")
        wait_until(
            lambda: (
                read_run_file(workspace.run_file)["children"].get("gateway")
                not in (None, before["gateway"])
            )
        )
        wait_until(lambda: broker.starts == 2)
        wait_until(lambda: broker.reloads == 1)
        after = read_run_file(workspace.run_file)["children"]
        assert after["controller"] == before["controller"]
        assert any("gateway (exit -9) ended" in s for s in said)
    finally:
        boss.stop.set()
        thread.join(10)
        boss.shut_down()
    for pid in (after["gateway"], after["controller"], after["api"]):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not broker.alive
    assert not workspace.run_file.exists()


def test_a_second_run_of_a_workspace_is_refused_with_the_process(workspace: Workspace) -> None:
    with WorkspaceLock(workspace):
        workspace.run_file.write_text('{"pid": 4711}')
        with (
            pytest.raises(BusyError, match="already run by process 4711"),
            WorkspaceLock(workspace),
        ):
            pass
    with WorkspaceLock(workspace):
        pass
