"""``edgefleet drift`` as a person meets it."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleet_server.cli import drift
from fleet_server.cli.drift_views import draw_bar
from tests.support.drift import class_reference, normal_rows
from tests.support.drift_fleet import open_drift_fleet

REFERENCE = class_reference(normal_rows(0, 3_000, 3), answers=normal_rows(1, 1_500, 3))


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three workspaces: nothing judged yet, calm, cameras drifting."""
    root = tmp_path_factory.mktemp("templates")
    for name, windows, shift in (("new", 0, 0.0), ("calm", 6, 0.0), ("drifting", 6, 1.0)):
        server = root / name / "server"
        server.mkdir(parents=True)
        (root / name / "edgefleet.toml").write_text("")
        fleet = open_drift_fleet(server, REFERENCE)
        fleet.shift = {"cam": shift}
        fleet.send(windows)
        fleet.watch().run_once()
        fleet.store.close()
        fleet.engine.dispose()
    return root


def run(workspace: Path, *arguments: str, expect: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(drift.app, [*arguments, "-w", str(workspace)])
    assert result.exit_code == expect, result.output
    return result


def test_a_drifting_group_is_shown_with_its_numbers(templates: Path) -> None:
    result = run(templates / "drifting", "show", "m")
    assert "4 features judged on 12 devices" in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if line.split()[:2] == ["cameras", "f1"]]
    assert "loc +" in row
    assert "6 of 6" in row
    assert "[alarm 1, open, act] group cameras: f1 moved up" in result.stdout
    assert "rest of fleet unchanged" in result.stdout
    assert "edgefleet drift ack 1" in result.stderr


def test_the_same_as_json(templates: Path) -> None:
    shown = json.loads(run(templates / "drifting", "show", "m", "--json").stdout)
    assert [a["subject"] for a in shown["alarms"]] == ["cameras"]
    cells = {(c["level"], c["subject"], c["feature"]): c for c in shown["cells"]}
    cell = cells["group", "cameras", "f1"]
    assert cell["statistic_name"] == "location z"
    assert cell["statistic"] > 20
    assert cell["p_value"] < 1e-20
    assert cell["psi"] > 0.5
    assert cell["rest_psi"] > 0.5
    assert (cell["affected"], cell["devices"]) == (6, 6)
    assert cell["sentence"].startswith("f1 moved up")
    levels = {(c["level"], c["feature"]) for c in shown["cells"]}
    assert {("fleet", f) for f in ("f0", "f1", "f2", "answers")} <= levels


def test_one_level_or_one_subject_can_be_asked_for(templates: Path) -> None:
    devices = run(templates / "drifting", "show", "m", "--level", "device").stdout
    assert "cam-0" in devices
    one = json.loads(
        run(templates / "drifting", "show", "m", "--subject", "cam-02", "--json").stdout
    )
    assert {c["subject"] for c in one["cells"]} == {"cam-02"}
    assert len(one["cells"]) == 4
    quiet = run(templates / "calm", "show", "m", "--all").stdout
    assert "profile=iot-gateway" in quiet


def test_silence_looks_like_work(templates: Path) -> None:
    result = run(templates / "calm", "show", "m")
    assert "4 features judged on 12 devices" in result.stdout
    assert "nothing beyond chance (false alarms a day, at most: 1)" in result.stdout
    assert "no drift alarm is open" in run(templates / "calm", "alarms").stderr
    assert json.loads(run(templates / "calm", "alarms", "--json").stdout) == []


def test_what_was_not_judged_yet_is_said(templates: Path) -> None:
    assert "no window has been judged yet" in run(templates / "new", "show", "m").stderr
    shown = json.loads(run(templates / "new", "show", "m", "--json").stdout)
    assert shown == {"model": "m", "judged_at": None, "alarms": [], "cells": []}


def test_what_does_not_exist_is_named(templates: Path) -> None:
    assert "no model 'n'" in run(templates / "calm", "show", "n", expect=1).stderr
    missing = run(templates / "calm", "show", "m", "--subject", "x", expect=1)
    assert "no judgement of 'x'" in missing.stderr
    run(templates / "calm", "show", "m", "--level", "town", expect=2)


def test_an_alarm_is_listed_and_acknowledged(templates: Path, tmp_path: Path) -> None:
    workspace = Path(shutil.copytree(templates / "drifting", tmp_path / "fleet"))
    (alarm,) = json.loads(run(workspace, "alarms", "--json").stdout)
    assert (alarm["level"], alarm["subject"], alarm["state"]) == ("group", "cameras", "open")
    assert alarm["features"][0] == "f1"
    assert "group cameras" in run(workspace, "alarms").stdout
    assert "8 to 400" in run(workspace, "ack", "1", "--reason", "ok", expect=2).stderr
    assert "no alarm 7" in run(workspace, "ack", "7", "--reason", "new lamps", expect=1).stderr
    run(workspace, "ack", "1", expect=2)
    assert "new lamps" in run(workspace, "ack", "1", "--reason", "new lamps").stderr
    assert "new lamps" in run(workspace, "alarms", "--all").stdout


@pytest.mark.parametrize(("psi", "filled"), [(0.0, 0), (0.05, 1), (0.25, 4), (0.5, 8), (9.0, 8)])
def test_all_bars_share_one_scale(psi: float, filled: int) -> None:
    bar = draw_bar(psi)
    assert len(bar) == 8
    assert sum(c in "█#" for c in bar) == filled
