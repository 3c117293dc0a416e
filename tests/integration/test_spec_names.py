"""Names and places in train specs and on the command line: nothing leaves the folder it is in."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.cli import app
from fleet_server.errors import RefusedError
from fleet_server.training.spec_parser import parse_spec
from fleet_server.training.spec_problems import SpecError
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.training import PROFILES, edit

DIGITS = (Path(__file__).parents[2] / "examples" / "digits" / "digits.toml").read_text()
OUTSIDE = ("../../etc", "..", "a/b", "/etc/passwd", "a\\\\b", ".hidden", "a%2fb", "~root")
URLS = ("http://127.0.0.1/x.csv", "https://x/y.csv", "ftp://x/y", "s3://b/k", "/etc/x")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init_workspace(tmp_path_factory.mktemp("names") / "fleet", Config()).workspace.root


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        *(('name = "digits"', f'name = "{name}"', "name") for name in OUTSIDE),
        *(('source = "file:digits.csv"', f'source = "{url}"', "source") for url in URLS),
        *(("iot-gateway = {}", f'"{name}" = {{}}', "profile") for name in OUTSIDE[:4]),
    ],
)
def test_a_spec_cannot_name_what_leaves_its_place(old: str, new: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_spec(edit(DIGITS, {old: new}), source="digits.toml", profiles=PROFILES)


def test_a_table_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for place in (tmp_path / "pipe.csv", Path("/dev/zero"), tmp_path):
        with pytest.raises(RefusedError, match="no regular file"):
            PyarrowTableReader().list_columns(place)


@pytest.mark.parametrize(
    "command",
    [
        ["profile", "show", "{}"],
        ["model", "show", "{}"],
        ["device", "add", "{}", "--profile", "camera"],
        ["device", "add", "cam-1", "--profile", "{}"],
        ["device", "show", "{}"],
        ["group", "set", "{}", "all"],
        ["group", "show", "{}"],
        ["user", "role", "{}", "admin"],
        ["user", "tokens", "{}"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_command_takes_a_name_that_leaves_its_place(workspace: Path, command: list[str]) -> None:
    before = sorted(str(path) for path in workspace.parent.rglob("*") if path.is_dir())
    for name in OUTSIDE[:5]:
        filled = [part.format(name) for part in command]
        result = CliRunner().invoke(app, [*filled, "--workspace", str(workspace)])
        assert result.exit_code in ((0,) if command[1] == "tokens" else (1, 2)), result.output
        assert not isinstance(result.exception, (OSError, ValueError))
    assert sorted(str(path) for path in workspace.parent.rglob("*") if path.is_dir()) == before
