"""``edge-agent camera`` over a real folder, against the real HTTP server."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from edge_agent.adapters.camera_folder import CameraFolder
from edge_agent.cli import main
from edge_agent.contract.schema import Feature
from edge_agent.errors import InputError
from tests.support.edges import agent_directory
from tests.support.serving import CLASSES, build_classifier

BUILT = build_classifier(features=(Feature(name="pixels", shape=(4, 4), low=0, high=16),))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    with agent_directory(tmp_path / "agent", BUILT):
        yield tmp_path / "agent"


def test_new_pictures_come_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name in (".hidden.png", "note.txt", "a.JPG", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    stop = Event()
    camera = CameraFolder(tmp_path, stop, every_s=0.02, is_taking_existing=True)
    frames = camera.frames()
    assert sorted([next(frames).name, next(frames).name]) == ["a.JPG", "b.png"]
    (tmp_path / "b.png").write_bytes(b"xy")
    assert next(frames).name == "b.png"
    stop.set()
    assert list(frames) == []


@pytest.mark.parametrize("every_s", [0, 3_601, float("nan")])
def test_a_pause_out_of_range_is_refused(tmp_path: Path, every_s: float) -> None:
    with pytest.raises(InputError, match=r"0\.01 to 3600"):
        CameraFolder(tmp_path, Event(), every_s=every_s, is_taking_existing=False)


def test_the_next_step_is_told(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    has_pillow = importlib.util.find_spec("PIL") is not None
    assert main(["camera", "--folder", str(tmp_path / "none"), "--dir", str(agent)]) == 1
    words = "cannot be read" if has_pillow else "pip install pillow"
    assert words in capsys.readouterr().err


def test_frames_are_answered_as_they_come_and_removed(agent: Path, tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no picture")
    command = [sys.executable, "-m", "edge_agent", "camera", "--folder", str(folder), "--delete"]
    command += ["--dir", str(agent), "--every", "0.05", "--existing"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        assert "no PNG or JPEG" in json.loads(process.stdout.readline())["error"]
        for n in range(2):
            images.new("L", (8, 8), 40 * n).save(folder / f"{n}.jpg")
            answer = json.loads(process.stdout.readline())
            assert answer["file"] == str(folder / f"{n}.jpg")
            assert (answer["row"], answer["class"] in CLASSES) == (n + 2, True)
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "1 pictures could not be read" in words
    assert [path.name for path in folder.iterdir()] == ["broken.png"]
