"""The commands on a real workspace: train, model, profile; exit codes, streams, JSON."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner, Result

from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.bootstrap import open_fleet
from fleet_server.cli import model, profile
from fleet_server.cli.train import train
from fleet_server.training.spec_parser import parse_spec
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.training import PROFILES, edit

pytestmark = pytest.mark.xdist_group("train-commands")
EXAMPLES = Path(__file__).parents[2] / "examples" / "digits"
DIGITS = (EXAMPLES / "digits.toml").read_text()
ONE_PROFILE = edit(
    DIGITS,
    {
        "iot-gateway = {}\nonprem-server = {}\n": "",
        "hidden_layer_sizes = [256, 128], tol = 0.001": "hidden_layer_sizes = [32], tol = 0.01",
    },
)

app = typer.Typer()
app.command("train")(train)
app.add_typer(model.app, name="model")
app.add_typer(profile.app, name="profile")


def load_exporter(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace ``fleet`` and the digits as a table."""
    folder = tmp_path_factory.mktemp("train")
    init_workspace(folder / "fleet", Config())
    assert load_exporter("export_digits").main([str(folder / "digits.csv")]) == 0
    return folder


@pytest.fixture(autouse=True)
def workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEFLEET_WORKSPACE", str(folder / "fleet"))
    monkeypatch.setenv("COLUMNS", "160")
    return folder / "fleet"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(folder: Path) -> int:
    """Version of digits that the shipped example gives, all three profiles."""
    (folder / "digits.toml").write_text(DIGITS)
    result = CliRunner().invoke(
        app, ["train", str(folder / "digits.toml"), "-w", str(folder / "fleet"), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["metrics"]["accuracy"] >= 0.95
    assert [a["profile"] for a in found["artifacts"]] == ["camera", "iot-gateway", "onprem-server"]
    camera = found["artifacts"][0]
    assert camera["precision"].startswith("int8"), "fp32 is larger than the camera's spec allows"
    assert camera["size_bytes"] <= 120_000
    return int(found["version"])


def test_each_step_is_a_line_and_each_profile_a_row(folder: Path) -> None:
    (folder / "one.toml").write_text(ONE_PROFILE)
    result = run("train", folder / "one.toml")
    assert result.exit_code == 0, result.stderr
    steps = [line.split("  ")[0] for line in result.stderr.splitlines() if " s   " in line]
    assert steps == ["ingest", "split", "train", "evaluate", "build camera", "register"]
    assert re.search(r"camera +(fp32|int8_\w+) +[\d,]+ +[\d.]+ +\d\.\d\d% ", result.stdout)
    assert re.search(r"next: edgefleet model approve digits \d+\n", result.stderr)


def test_a_spec_with_problems_is_misuse(folder: Path) -> None:
    (folder / "bad.toml").write_text(edit(ONE_PROFILE, {"seed = 7": "sed = 7"}))
    result = run("train", folder / "bad.toml")
    assert result.exit_code == 2
    assert "bad.toml: 1 problem\n  line 20: split.sed: unknown key; did you mean seed?" in (
        result.stderr
    )
    assert result.stdout == ""


def test_a_missed_floor_is_refused_and_can_be_forced(folder: Path) -> None:
    (folder / "high.toml").write_text(edit(ONE_PROFILE, {"floor = 0.94": "floor = 0.9999"}))
    before = json.loads(run("model", "ls", "--json").stdout)
    result = run("train", folder / "high.toml")
    assert result.exit_code == 1
    assert "misses the floor 0.9999" in result.stderr
    assert json.loads(run("model", "ls", "--json").stdout) == before
    result = run("train", folder / "high.toml", "--force", "a trial")
    assert result.exit_code == 0
    assert "forced: accuracy" in result.stderr
    number = str(json.loads(run("model", "show", "digits", "--json").stdout)["version"])
    result = run("model", "approve", "digits", number)
    assert result.exit_code == 1
    assert '("a trial"); approving it needs --reason' in " ".join(result.stderr.split())
    assert run("model", "approve", "digits", number, "--reason", "lab only").exit_code == 0


def test_models_and_versions_are_listed(trained: int) -> None:
    found = json.loads(run("model", "ls", "--json").stdout)
    assert found[0]["model"] == "digits"
    assert trained in [v["version"] for v in found[0]["versions"]]
    assert "classification" in run("model", "ls").stdout
    listed = run("model", "ls", "digits").stdout
    assert "camera, iot-gateway, onprem-server" in listed
    assert "accuracy 0.9" in listed
    assert len(json.loads(run("model", "ls", "digits", "--last", "1", "--json").stdout)) == 1


def test_a_version_is_shown_whole(trained: int) -> None:
    shown = run("model", "show", "digits", str(trained)).stdout
    for part in (
        "Read the digit in an 8x8 crop",
        "held out (seed 7, frozen)",
        "truth by answer, source model",
        "keeps the floor 0.94 (95 % bound",
        f"digits/{trained}/camera.tar",
    ):
        assert part in shown
    found = json.loads(run("model", "show", "digits", str(trained), "--json").stdout)
    assert found["spec"] == DIGITS
    assert set(found["run"]) >= {"split", "code", "libraries", "seconds", "source_model"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("model", "show", "digits", "999"), 1, "digits has no version 999; it has 1"),
        (("model", "approve", "digits", "999"), 1, "digits has no version 999; it has 1"),
        (("model", "show", "digts"), 1, "no model 'digts'; did you mean 'digits'?"),
        (("model", "reject", "digits", "1"), 2, "a rejection needs a reason"),
        (("model", "reject", "digits", "999", "--reason", "x"), 1, "no version 999"),
        (("profile", "show", "camra"), 1, "did you mean 'camera'?"),
        (("train", "nowhere.toml"), 2, "no spec file nowhere.toml"),
        (("train", "nowhere.toml", "--force", ""), 2, "--force needs a reason"),
        (("model", "ls", "-w", "/nowhere"), 1, "/nowhere is not a workspace"),
    ],
)
def test_what_cannot_be_is_said(
    trained: int, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    assert trained
    result = run(*arguments)
    assert result.exit_code == code
    assert sentence in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_approving_shows_and_signs_every_package(trained: int, workspace: Path) -> None:
    result = run("model", "approve", "digits", str(trained), "--reason", "seen on the bench")
    assert result.exit_code == 0, result.stderr
    found = json.loads(run("model", "show", "digits", str(trained), "--json").stdout)
    for artifact in found["artifacts"]:
        assert artifact["sha256"] in result.stderr
    assert found["state"] == "approved"
    assert found["decisions"][0]["reason"] == "seen on the bench"
    fleet = open_fleet(workspace)
    signed = TufRepository(fleet.workspace.tuf_dir, fleet.workspace.keys_dir, fleet.clock)
    paths = {a["target"] for a in found["artifacts"]}
    assert {path: t.sha256 for path, t in signed.approved().items() if path in paths} == {
        a["target"]: a["sha256"] for a in found["artifacts"]
    }
    assert "was signed before" in run("model", "approve", "digits", str(trained)).stderr
    rejected = run("model", "reject", "digits", str(trained), "--reason", "confuses 3 and 8")
    assert (rejected.exit_code, "3 packages withdrawn" in rejected.stderr) == (0, True)
    assert not paths & set(signed.approved())


def test_profiles_are_listed_and_shown(workspace: Path) -> None:
    names = [p["id"] for p in json.loads(run("profile", "ls", "--json").stdout)]
    assert names == sorted(names)
    assert set(PROFILES) <= set(names)
    assert "4,194,304" in run("profile", "ls").stdout
    shown = json.loads(run("profile", "show", "camera", "--json").stdout)
    assert shown["telemetry"]["window_s"] == 60
    assert "telemetry.window_s" in run("profile", "show", "camera").stdout
    own = workspace / "profiles" / "broken.toml"
    own.parent.mkdir()
    own.write_text("id = 3")
    assert run("profile", "ls").exit_code == 2
    own.unlink()


def test_the_regression_example_runs(folder: Path) -> None:
    assert load_exporter("export_diabetes").main([str(folder / "diabetes.csv")]) == 0
    (folder / "diabetes.toml").write_text((EXAMPLES / "diabetes.toml").read_text())
    result = run("train", folder / "diabetes.toml", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["metrics"]["mae"] < 55
    assert [a["profile"] for a in found["artifacts"]] == ["iot-gateway", "onprem-server"]


@pytest.mark.parametrize("name", ["digits.toml", "diabetes.toml"])
def test_the_examples_have_no_problem(name: str) -> None:
    parse_spec((EXAMPLES / name).read_text(), source=name, profiles=PROFILES)


def rows_of(table: pa.Table, columns: list[str]) -> list[tuple[float, ...]]:
    return list(zip(*(table[c].to_pylist() for c in columns), strict=True))


def test_exported_parts_never_overlap_and_the_field_can_be_changed(tmp_path: Path) -> None:
    exporter = load_exporter("export_digits")
    whole = exporter.digits_table(seed=1)
    first = exporter.digits_table(seed=1, rows=1_200)
    rest = exporter.digits_table(seed=1, start=1_200)
    assert (first.num_rows, rest.num_rows) == (1_200, 597)
    assert whole.slice(0, 1_200).equals(first)
    assert whole.slice(1_200).equals(rest)
    pixels = [c for c in whole.column_names if c != "digit"]
    plain, bright, inverted = (
        rows_of(exporter.digits_table(seed=1, rows=5, **change), pixels)
        for change in ({}, {"brightness": 4.0}, {"is_inverted": True})
    )
    for row in range(5):
        assert bright[row] == tuple(min(16.0, p + 4) for p in plain[row])
        assert inverted[row] == tuple(16.0 - p for p in plain[row])
    exporter.main([str(tmp_path / "part.parquet"), "--start", "3", "--rows", "2"])
    with pytest.raises(SystemExit, match=r"name it \.csv or \.parquet"):
        exporter.main([str(tmp_path / "part.txt")])
