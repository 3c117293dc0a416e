"""``edgefleet user`` and ``edgefleet audit`` on a real workspace."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from argon2.profiles import CHEAPEST
from typer.testing import CliRunner, Result

from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.engine import open_engine, write_session
from fleet_server.adapters.passwords import Argon2Passwords
from fleet_server.cli import app
from fleet_server.wiring import people as wiring
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config, Workspace

PASSWORD = "four random words"


class Terminal:
    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def run(self, *command: str, code: int = 0, password: str | None = PASSWORD) -> Result:
        environment = {"EDGEFLEET_PASSWORD": password, "COLUMNS": "160"}
        where = ["--workspace", str(self.workspace.root)]
        result = CliRunner().invoke(app, [*command, *where], env=environment)
        assert result.exit_code == code, f"{command}: {result.output} {result.exception!r}"
        return result

    def json(self, *command: str) -> Any:
        return json.loads(self.run(*command, "--json").stdout)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    made = init_workspace(tmp_path_factory.mktemp("people") / "fleet", Config())
    return Terminal(made.workspace)


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "Argon2Passwords", lambda: Argon2Passwords(CHEAPEST))


def test_a_person_lives_on_the_command_line(terminal: Terminal) -> None:
    terminal.run("user", "add", "ada", "--role", "operator")
    assert terminal.json("user", "ls")[0]["role"] == "operator"
    assert "may log in" in terminal.run("user", "ls").stdout
    terminal.run("user", "role", "ada", "admin")
    terminal.run("user", "disable", "ada", "--reason", "on leave")
    assert terminal.json("user", "ls")[0]["is_disabled"]
    terminal.run("user", "enable", "ada")
    terminal.run("user", "passwd", "ada", password="quite another one")
    made = terminal.json("user", "token", "ada", "--days", "30", "--role", "viewer")
    assert made["token"].startswith("eft_")
    assert made["role"] == "viewer"
    listed = terminal.run("user", "tokens", "ada").stdout
    assert made["id"] in listed
    assert made["token"] not in listed
    terminal.run("user", "revoke-token", made["id"])
    assert terminal.json("user", "tokens", "ada") == []
    assert "revoked" in terminal.run("user", "tokens", "ada", "--all").stdout
    terminal.run("user", "rm", "ada")
    assert terminal.json("user", "ls") == []
    acts = [row["act"] for row in terminal.json("audit", "ls", "--act", "user.")]
    assert acts == [
        "user.add",
        "user.role",
        "user.disable",
        "user.enable",
        "user.passwd",
        "user.rm",
    ]
    tokens = [row["act"] for row in terminal.json("audit", "ls", "--act", "token.")]
    assert tokens == ["token.made", "token.revoked"]


@pytest.mark.parametrize(
    ("command", "password", "code", "says"),
    [
        (["user", "add", "bob", "--role", "king"], PASSWORD, 2, "none of viewer, operator"),
        (["user", "add", "bob", "--role", "viewer"], "short", 2, "5 characters; take 12 to 256"),
        (["user", "add", "bob", "--role", "viewer"], None, 2, "EDGEFLEET_PASSWORD"),
        (["user", "add", "Bob", "--role", "viewer"], PASSWORD, 2, "use 1 to 63 of a-z"),
        (["user", "role", "bob", "admin"], PASSWORD, 1, "no person 'bob'"),
        (["user", "token", "bob"], PASSWORD, 1, "no person 'bob'"),
        (["user", "revoke-token", "0123456789ab"], PASSWORD, 1, "no token"),
        (["audit", "ls", "--since", "yesterday"], PASSWORD, 2, "write 2026-01-31"),
        (["audit", "verify", "--head", "7"], PASSWORD, 1, "is no head"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_next_step(
    terminal: Terminal, command: list[str], password: str | None, code: int, says: str
) -> None:
    assert says in " ".join(terminal.run(*command, code=code, password=password).output.split())


def test_what_a_stranger_wrote_does_not_command_the_terminal(terminal: Terminal) -> None:
    engine = open_engine(Path(terminal.workspace.control_db))
    with write_session(engine) as session:
        append_audit(
            session,
            at=datetime(2026, 1, 1, tzinfo=UTC),
            actor="nobody",
            act="api.refused",
            object="GET /\x1b[2J\x1b]0;owned\x07",
        )
    engine.dispose()
    shown = terminal.run("audit", "ls", "--act", "api.refused").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "GET /?[2J" in shown


def test_a_whole_log_is_remembered_and_a_shorter_one_refused(terminal: Terminal) -> None:
    whole = terminal.run("audit", "verify").output
    assert "keep a copy elsewhere" in whole
    head = next(line for line in whole.splitlines() if line.startswith("head ")).split()[1]
    folders = (terminal.workspace.server_dir, terminal.workspace.operator_dir)
    assert all((folder / "audit-head.json").is_file() for folder in folders)
    terminal.run("user", "add", "cy", "--role", "viewer")
    assert terminal.json("audit", "verify")["is_whole"]
    terminal.run("audit", "verify", "--head", head)
    engine = open_engine(Path(terminal.workspace.control_db))
    with write_session(engine) as session:
        session.connection().exec_driver_sql(
            "DELETE FROM audit WHERE id >= (SELECT max(id) - 1 FROM audit)"
        )
    engine.dispose()
    refused = " ".join(terminal.run("audit", "verify", code=1).output.split())
    assert "of the newest rows were cut off" in refused
