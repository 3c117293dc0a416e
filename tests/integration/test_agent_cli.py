"""The edge-agent command: exit codes, data on stdout, words on stderr, one next step each."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.adapters.directory_lock import DirectoryLock
from edge_agent.adapters.state_store import FileStateStore
from edge_agent.cli import main
from edge_agent.contract.join import JoinTicket
from edge_agent.core.agent_state import AgentState, state_to_json
from edge_agent.core.verified import AcceptedTrust
from fleet_server.free_ports import find_free_ports
from tests.support.agent import a_package
from tests.support.agent_device import enrolled_device
from tests.support.agent_world import World


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", ["status", "run", "predict", "rollback"])
def test_a_device_that_has_not_joined_is_told_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    more = ("rows.csv",) if command == "predict" else ()
    code, out, err = run(capsys, command, *more, "--dir", str(tmp_path))
    assert (code, out) == (3 if command == "predict" else 1, "")  # predict asks who runs there
    assert "edge-agent" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--http-port", "x"], ["join"]], ids=str)
def test_misuse_is_code_two_with_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "usage: edge-agent" in err


COMMANDS = ["join", "run", "status", "doctor", "predict", "settings", "logs", "rollback"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"example: edge-agent {command}" in out


def test_a_wrong_setting_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text("port = 1")
    code, _, err = run(capsys, "run", "--dir", str(tmp_path))
    assert code == 2
    assert "unknown setting 'port'" in err


def test_a_mistyped_join_string_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "join", "ef1:nonsense", "--dir", str(tmp_path))
    assert code == 1
    assert "join string" in err


def test_a_server_that_does_not_answer_is_code_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = find_free_ports(1)
    ticket = JoinTicket(
        host="127.0.0.1",
        api_port=port,
        mqtt_port=port,
        fleet="fleet-1",
        device_id="cam-7",
        ca_sha256="0" * 64,
        root_sha256="0" * 64,
        secret="s",
    )
    code, _, err = run(capsys, "join", ticket.encode(), "--dir", str(tmp_path))
    assert code == 3
    assert str(port) in err


def test_joining_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "join", "ef1:x", "--dir", str(enrolled_device(tmp_path)))
    assert code == 1
    assert "has already joined fleet fleet-1 as cam-7" in err


def test_a_second_agent_on_a_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = DirectoryLock(enrolled_device(tmp_path))
    lock.acquire()
    code, _, err = run(capsys, "run", "--dir", str(tmp_path))
    lock.release()
    assert code == 1
    assert f"another agent (process {os.getpid()}) runs on {tmp_path}" in err


def test_status_tells_what_is_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(enrolled_device(tmp_path))
    world.connect()
    world.assign(a_package("one"), 1)
    world.run(65)
    code, out, err = run(capsys, "status", "--dir", str(tmp_path))
    assert (code, err) == (0, "")
    assert "slot    plant: confirmed\n        confirmed  model/1/camera.tar (" in out
    assert "next       keeps answering and waits for the next assignment" in out
    assert "not running: start it with edge-agent run" in out
    code, out, _ = run(capsys, "status", "--json", "--dir", str(tmp_path))
    status = json.loads(out)
    assert status["device"] == "cam-7"
    assert status["slots"]["plant"]["confirmed"]["target"] == "model/1/camera.tar"
    assert status["process"] is None


def test_a_clock_before_what_the_approvers_signed_is_named_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = enrolled_device(tmp_path)
    floor_at = datetime.now(UTC) + timedelta(days=400)
    state = AgentState(accepted=AcceptedTrust(time_floor_at=floor_at))
    FileStateStore(directory).save(state_to_json(state))
    for command in ("status", "doctor"):
        _, out, _ = run(capsys, command, "--dir", str(directory))
        assert f"but the approvers signed something on {floor_at:%Y-%m-%d}" in out
        assert "set the clock" in out
    _, out, _ = run(capsys, "status", "--json", "--dir", str(directory))
    assert json.loads(out)["clock"]["floor"] == floor_at.isoformat()
