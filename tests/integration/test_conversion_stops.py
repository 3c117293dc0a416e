"""``edge-convert`` that is told to end, killed or misused: nothing lies about, nothing is lost."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from typer.testing import CliRunner, Result

from converters.build import build_package
from converters.cli import app
from converters.cli.work_folder import LOCK, remove_stale, work_folder
from converters.errors import ConversionError, InvalidRequestError
from converters.file_requests import schema_of as schema_of_names
from converters.skops_library import import_skops
from converters.unseen import note_unseen
from edge_agent.contract.schema import Feature, ModelSchema
from tests.support.convert import load_table, request_of

ROOT = Path(__file__).parents[2]
STUCK = """
import signal
import threading
from converters.cli.options import refusals
from converters.cli.work_folder import work_folder

# A run in the background may have inherited that these are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with refusals(), work_folder() as home:
    (home / "part").write_bytes(b"x" * 1000)
    print(home, flush=True)
    threading.Event().wait(60)
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("desk")
    rows, targets = load_table("diabetes")
    names = [f"c{n}" for n in range(10)]
    lines = [",".join(map(str, [*row, one])) for row, one in zip(rows, targets, strict=True)]
    (home / "sugar.csv").write_text("\n".join([",".join([*names, "y"]), *lines[:120]]))
    import_skops().dump(Ridge().fit(rows, targets), home / "sugar.skops")
    return home


def edge_convert(desk: Path, command: str, *words: str | Path) -> Result:
    rows = ("--rows", desk / "sugar.csv", "--target", "y", "--profile", "camera")
    said = [command, desk / "sugar.skops", *rows, *words]
    return CliRunner().invoke(app, [str(word) for word in said])


def start_stuck(folder: Path) -> tuple["subprocess.Popen[str]", Path]:
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_leaves_no_temporary_file(
    number: signal.Signals, tmp_path: Path
) -> None:
    child, home = start_stuck(tmp_path)
    with child:
        assert (home / "part").exists()
        child.send_signal(number)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 1
    assert said.startswith("edge-convert: stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next_and_a_running_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / "edge-convert-of-a-stranger"
    stranger.mkdir()
    killed, left = start_stuck(tmp_path)
    running, kept = start_stuck(tmp_path)
    with killed, running:
        assert killed.poll() is None
        assert remove_stale(tmp_path) == []
        killed.kill()
        killed.wait(30)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with work_folder() as mine:
            assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(mine)
            assert not left.exists()
            assert sorted(tmp_path.iterdir()) == sorted([stranger, kept, mine])
        assert tempfile.gettempdir() == str(tmp_path)
        running.kill()
    assert remove_stale(tmp_path) == [kept]


def test_a_folder_of_somebody_else_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "edge-convert-abc"
    home.mkdir()
    (home / LOCK).touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert remove_stale(tmp_path) == []
    monkeypatch.undo()
    (tmp_path / "edge-convert-link").symlink_to(home)
    with (home / LOCK).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_stale(tmp_path) == []
    assert remove_stale(tmp_path) == [home]


def test_no_room_for_temporary_files_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    with pytest.raises(ConversionError, match=r"no temporary folder in .*TMPDIR"), work_folder():
        pass


def test_a_disk_that_fills_up_half_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fill() -> None:
        with work_folder() as home:
            (home / "half").write_bytes(b"written")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConversionError, match=r"the disk of .* is full; free .*TMPDIR"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--metric-drop-max", "nan"),
        ("--metric-drop-max", "-0.1"),
        ("--error-max", "inf"),
        ("--label-flips-max", "1.5"),
        ("--label-flips-max", "nan"),
        ("--rows-off-max", "-1"),
        ("--latency-ms-p95-max", "0"),
        ("--latency-ms-p95-max", "nan"),
        ("--package-bytes-max", "0"),
        ("--scale", "nan"),
        ("--mean", "0.5,nan,0.5"),
    ],
)
def test_a_limit_that_is_no_number_is_misuse(desk: Path, option: str, value: str) -> None:
    done = edge_convert(desk, "run", "--out", desk / "no.tar", f"{option}={value}")
    assert done.exit_code == 2
    assert option in done.stderr
    assert not (desk / "no.tar").exists()


def test_a_drawing_that_cannot_be_written_is_refused_before_the_work(desk: Path) -> None:
    for out, plot in (("no.tar", "sugar.csv/plot.svg"), ("sugar.csv/no.tar", "plot.svg")):
        done = edge_convert(desk, "run", "--out", desk / out, "--plot", desk / plot)
        assert done.exit_code == 1
        assert "sugar.csv is no folder; name another place" in done.stderr
        assert "held out" not in done.stderr
    assert not (desk / "no.tar").exists()


def test_nothing_is_written_over_what_is_read(desk: Path) -> None:
    before = (desk / "sugar.csv").read_bytes()
    for words in (
        ("--out", desk / "sugar.csv"),
        ("--out", desk / "nothing" / ".." / "sugar.skops"),
        ("--out", desk / "no.tar", "--plot", desk / "sugar.csv"),
        ("--out", desk / "no.tar", "--plot", desk / "no.tar"),
    ):
        done = edge_convert(desk, "run", *words)
        assert done.exit_code == 1, words
        assert "this command reads or writes that file as something else" in done.stderr
    assert (desk / "sugar.csv").read_bytes() == before
    assert not (desk / "no.tar").exists()


def test_a_drawing_that_fails_late_costs_no_package(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converters.output_file.check_place", lambda *_: None)
    plot = desk / "sugar.csv" / "plot.svg"
    done = edge_convert(desk, "run", "--out", desk / "kept.tar", "--plot", plot, "--json")
    assert done.exit_code == 1
    assert "plot.svg was not written" in done.stderr
    assert json.loads(done.stdout)["bytes"] == (desk / "kept.tar").stat().st_size


def test_builds_of_which_none_fits_are_drawn_all_the_same(desk: Path) -> None:
    profiles = desk / "profiles"
    profiles.mkdir()
    camera = (ROOT / "device_profiles" / "data" / "camera.toml").read_text()
    smaller = re.sub(r"(?m)^package_bytes_max = .*", "package_bytes_max = 1024", camera)
    (profiles / "tiny.toml").write_text(smaller.replace('id = "camera"', 'id = "tiny"'))
    plot = desk / "none.svg"
    words = ("--effort", "quick", "--profiles-dir", profiles, "--profile", "tiny", "--plot", plot)
    done = edge_convert(desk, "bench", *words)
    assert done.exit_code == 0, done.output
    assert "nothing would ship" in done.stdout
    assert "sugar for tiny: no build fits" in plot.read_text()


def test_a_device_file_that_is_not_there_is_named_with_the_next_step(desk: Path) -> None:
    words = ("--out", desk / "no.tar", "--for-device", "nothere.json")
    done = edge_convert(desk, "run", *words)
    assert done.exit_code == 1
    assert done.stderr == (
        "edge-convert: --for-device nothere.json cannot be read (No such file or directory); write"
        " it on the device: edge-agent doctor --json > nothere.json\n"
    )


def test_a_file_that_is_no_model_is_refused_without_names_of_classes(desk: Path) -> None:
    broken = desk / "broken.skops"
    broken.write_bytes(b"not a model")
    words = ["run", broken, "--rows", desk / "sugar.csv", "--target", "y", "--profile", "camera"]
    done = CliRunner().invoke(app, [str(word) for word in [*words, "--out", desk / "no.tar"]])
    assert done.exit_code == 1
    assert "broken.skops is not a readable skops file: not a zip archive" in done.stderr
    assert "Error" not in done.stderr


def test_a_column_that_no_row_shows_is_named_and_rows_that_show_none_are_refused() -> None:
    rows = np.array([[1.0, np.nan, np.nan], [2.0, np.nan, 3.0]], np.float32)
    few, note = note_unseen(schema_of_columns(), rows)
    assert few == "every figure is from 2 held-out rows alone: give 30 or more"
    assert note.startswith("no held-out row has a value in 'b': what the model answers")
    assert note_unseen(schema_of_columns(), np.tile(rows[:, [0, 0, 2]], (15, 1))) == ()
    request = request_of(HistGradientBoostingRegressor(max_iter=2), "diabetes")
    empty = replace(request, holdout=np.full_like(request.holdout, np.nan))
    with pytest.raises(InvalidRequestError, match="no held-out row has a value in any column"):
        build_package(empty)


def schema_of_columns() -> ModelSchema:
    return schema_of_names("m", tuple(Feature(name=name) for name in "abc"), ())


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "converters.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bench" in done.stdout
