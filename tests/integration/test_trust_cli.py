"""``edgefleet device`` and ``edgefleet keys`` as a person meets them."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.contract.join import JoinTicket
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import DeviceRow, SlotRow
from fleet_server.bootstrap import open_fleet
from fleet_server.cli import device, keys
from fleet_server.wiring.devices import build_enrolment
from tests.support.clock import FakeClock
from tests.support.trust_fleet import make_csr, make_fleet


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "fleet"
    make_fleet(directory, FakeClock(datetime.now(UTC))).engine.dispose()
    return directory


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "fleet"))


def run(workspace: Path, *arguments: str, expect: int = 0) -> Result:
    noun, *rest = arguments
    app = {"device": device.app, "keys": keys.app}[noun]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*rest, "-w", str(workspace)])
    assert result.exit_code == expect, result.output
    return result


def test_adding_prints_the_join_string_alone_on_stdout(workspace: Path) -> None:
    result = run(workspace, "device", "add", "cam-1", "--profile", "camera", "--label", "site=a")
    ticket = JoinTicket.decode(result.stdout)
    assert (ticket.device_id, ticket.fleet, ticket.host) == ("cam-1", "fleet-1", "127.0.0.1")
    assert "works once, until" in result.stderr
    assert ticket.secret not in result.stderr
    stored = (workspace / "server" / "control.db").read_bytes()
    assert ticket.secret.encode() not in stored


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["cam-1"], 2, "--profile is missing"),
        (["Cam", "--profile", "camera"], 2, "use 1 to 63 of"),
        (["cam-1", "--profile", "kamera"], 1, "did you mean 'camera'"),
        (["cam-1", "--profile", "camera", "--ttl", "soon"], 2, "90m, 24h or 7d"),
        (["cam-1", "--profile", "camera", "--ttl", "60d"], 2, "1 minute to 30 days"),
        (["cam-1", "--profile", "camera", "--label", "site"], 2, "NAME=VALUE"),
        (["cam-1", "--again"], 1, "no device 'cam-1'"),
        (["cam-1", "--again", "--profile", "camera"], 2, "leave --profile"),
    ],
)
def test_adding_wrongly_is_one_sentence(
    workspace: Path, arguments: list[str], code: int, sentence: str
) -> None:
    result = run(workspace, "device", "add", *arguments, expect=code)
    assert sentence in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_a_device_is_listed_with_what_it_runs(workspace: Path) -> None:
    run(workspace, "device", "add", "cam-1", "--profile", "camera")
    join = json.loads(
        run(workspace, "device", "add", "cam-2", "--profile", "camera", "--json").stdout
    )
    fleet = open_fleet(workspace)
    build_enrolment(fleet).desk.enrol(JoinTicket.decode(join["join"]).secret, make_csr())
    now = fleet.clock.now()
    with write_session(fleet.engine) as session:
        row = session.get_one(DeviceRow, 2)
        row.is_online, row.last_seen_at = False, now - timedelta(days=3)
        session.add(
            SlotRow(
                device=2,
                slot="digits",
                state="confirmed",
                running_target="digits/3/camera.tar",
                code="selftest-latency",
                detail="p95 74 > 60 ms",
                changed_at=now - timedelta(hours=2),
            )
        )
    fleet.engine.dispose()
    lines = run(workspace, "device", "ls").stdout.splitlines()
    (line,) = [line for line in lines if line.strip().startswith("cam-2")]
    for word in ("camera", "offline 3 d", "digits@3", "2 h", "selftest-latency p95 74 > 60 ms"):
        assert word in line
    listed = json.loads(run(workspace, "device", "ls", "--state", "not joined", "--json").stdout)
    assert [one["id"] for one in listed] == ["cam-1"]
    shown = json.loads(run(workspace, "device", "show", "cam-2", "--json").stdout)
    assert shown["slots"]["digits"]["running"] == "digits/3/camera.tar"
    assert "cam-2" in run(workspace, "device", "show", "cam-2").stdout


def test_labels_are_changed(workspace: Path) -> None:
    run(workspace, "device", "add", "cam-1", "--profile", "camera", "--label", "site=a")
    assert "lane=2" in run(workspace, "device", "label", "cam-1", "lane=2", "site-").stderr
    labels = json.loads(run(workspace, "device", "show", "cam-1", "--json").stdout)["labels"]
    assert labels.get("lane") == "2"
    assert "site" not in labels


def test_a_revoked_device_is_listed_as_such(workspace: Path) -> None:
    run(workspace, "device", "add", "cam-1", "--profile", "camera")
    run(workspace, "device", "revoke", "cam-1", "--reason", "stolen")
    assert "revoked" in run(workspace, "device", "ls", "--state", "revoked").stdout
    run(workspace, "device", "revoke", "cam-9", expect=1)


def test_keys_are_listed_and_renewed(workspace: Path) -> None:
    roles = json.loads(run(workspace, "keys", "ls", "--json").stdout)
    assert [role["role"] for role in roles] == [
        "root",
        "targets",
        "snapshot",
        "timestamp",
        "director",
    ]
    assert all(role["is_here"] for role in roles)
    assert "targets: version 2" in run(workspace, "keys", "renew").stderr
    both = run(workspace, "keys", "renew", "--root").stderr
    assert "root: version 2" in both
    assert "targets: version 3" in both
    assert "approver.pem" in run(workspace, "keys", "ls").stdout


def test_an_encrypted_key_asks_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleet_server.adapters.key_files import UNLOCK_VARIABLE
    from fleet_server.wiring.workspace import init_workspace
    from fleet_server.workspace import Config

    clock = FakeClock(datetime.now(UTC))
    init_workspace(tmp_path / "fleet", Config(), passphrase=b"correct horse", clock=clock)
    workspace = tmp_path / "fleet"
    assert b"ENCRYPTED" in (workspace / "operator" / "approver.pem").read_bytes()
    assert UNLOCK_VARIABLE in run(workspace, "keys", "renew", expect=1).stderr
    monkeypatch.setenv(UNLOCK_VARIABLE, "wrong")
    assert "wrong passphrase" in run(workspace, "keys", "renew", expect=1).stderr
    monkeypatch.setenv(UNLOCK_VARIABLE, "correct horse")
    assert "version 2" in run(workspace, "keys", "renew").stderr
