"""``edge-convert`` on a folder of pictures: a network of NCHW becomes a package of pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from converters.cli import app
from edge_agent.adapters.image_files import decode_pixels
from edge_agent.contract.package import unpack_members
from edge_agent.contract.schema import ModelSchema
from tests.support.convert import load_table
from tests.support.networks import digits_cnn
from tests.support.serving import TARGET, make_service

Array = NDArray[Any]
SIZES = ((16, 16), (24, 32), (40, 24), (8, 8))
HOW: tuple[str, str] = ("--scale", str(16 / 255))
"""The network was trained on numbers of 0 to 16."""


def edge_convert(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def draw_digit(digit: Array, size: tuple[int, int]) -> Array:
    grey = np.rint(digit.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.NEAREST).convert("RGB"))


def write_network(path: Path, *, rows: str | int = "N") -> Path:
    """Write the network of the digits as exporters do: [N, 1, 8, 8] in, no softmax at the end."""
    model = onnx.load_model_from_string(digits_cnn())
    graph = model.graph
    kept = [node for node in graph.node if node.op_type not in ("Reshape", "Softmax")]
    kept[0].output[0] = "picture"
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(kept)
    kind = onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info("x", kind, [rows, 1, 8, 8]))
    graph.output.append(onnx.helper.make_tensor_value_info("g2", kind, [rows, 10]))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with the network, a folder of pictures it has not seen and the package."""
    home = tmp_path_factory.mktemp("pictures")
    write_network(home / "digits.onnx")
    rows, targets = load_table("digits")
    for place in range(len(rows) - 200, len(rows)):
        folder = home / "photos" / str(targets[place])
        folder.mkdir(parents=True, exist_ok=True)
        picture = draw_digit(rows[place], SIZES[place % len(SIZES)])
        Image.fromarray(picture).save(folder / f"{place}.png")
    (home / "photos" / "0" / "notes.txt").write_text("no picture")
    done = edge_convert(*run_words(home, "--json"))
    assert done.exit_code == 0, done.output
    (home / "run.json").write_text(done.stdout)
    (home / "said.txt").write_text(done.stderr)
    return home


def run_words(home: Path, *more: str | Path, pictures: str = "photos") -> list[str | Path]:
    return [
        *("run", home / "digits.onnx", "--pictures", home / pictures, *HOW, "--profile", "camera"),
        *("--out", home / "digits.tar", *more),
    ]


def test_a_package_of_pictures_is_built_measured_and_told(desk: Path) -> None:
    result = json.loads((desk / "run.json").read_text())
    members = unpack_members((desk / "digits.tar").read_bytes())
    schema = ModelSchema.decode(members["schema.json"])
    assert schema.image is not None
    assert (schema.image.height, schema.image.width, str(schema.image.colours)) == (8, 8, "grey")
    assert schema.classes == tuple(str(n) for n in range(10))
    assert result["ladder"][0]["name"] == "fp32"
    assert result["metric"]["shipped"] > 0.9
    assert result["image"]["pictures"] == 60
    front = result["image"]["front_ms"]
    for rung in (rung for rung in result["ladder"] if rung["is_built"]):
        assert rung["latency_ms_p50"] > front["p50"] > 0  # what is waited for: front and network
        assert rung["latency_ms_p95"] > front["p95"]
    evidence = json.loads(members["evidence.json"])
    assert evidence["limits"]["package_bytes_max"] == 4_194_304
    assert evidence["measured_with"]["front_ms"] == front
    assert evidence["context"]["pictures"] == "photos"
    said = (desk / "said.txt").read_text()
    for words in (
        "140 pictures to calibrate, 60 held out; the network sees 8 x 8 grey, NCHW",
        "ends with Gemm: a softmax makes probabilities",
        "1 files of photos are no .png",
    ):
        assert words in said


def test_the_agent_reads_a_picture_of_another_size(desk: Path) -> None:
    blob, result = (desk / "digits.tar").read_bytes(), json.loads((desk / "run.json").read_text())
    service = make_service()
    service.activate("main", blob=blob, target=TARGET, sha256=result["sha256"])
    rows, targets = load_table("digits")
    seen = []
    for place in range(len(rows) - 300, len(rows) - 200):
        file = desk / "one.png"
        Image.fromarray(draw_digit(rows[place], (56, 48))).save(file)
        pixels = decode_pixels(file.read_bytes(), "it", 1_000_000)
        answer = service.predict("main", pixels[None]).outputs
        seen.append(int(answer["label"][0]) == targets[place])
        assert float(answer["probabilities"].sum()) == pytest.approx(1, abs=1e-3)
    assert np.mean(seen) > 0.9


def test_model_and_package_are_compared_on_pictures(desk: Path) -> None:
    words: list[str | Path] = ["parity", desk / "digits.onnx", desk / "digits.tar"]
    done = edge_convert(
        *words, "--pictures", desk / "photos" / "3", "--tolerance", "0.05", "--json"
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["flips"] == 0
    assert all(row["picture"].endswith(".png") for row in result["worst"])
    (desk / "rows.csv").write_text("a\n1\n")
    refused = edge_convert(*words, "--rows", desk / "rows.csv")
    assert refused.exit_code == 1
    assert "digits.tar takes pictures, not rows: give --pictures" in refused.stderr


def test_inspect_tells_what_the_graph_makes_of_a_picture(desk: Path) -> None:
    done = edge_convert("inspect", desk / "digits.tar", "--profile", "camera", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["image"]["height"] == 8
    assert told["image"]["latency_ms_median"] > 0
    assert told["figures"] == ["brightness", "contrast", "saturation", "sharpness"]
    assert told["input_types"] == {"image": "uint8"}
    assert "features" not in told
    assert "pixels_max 16,777,216" in edge_convert("inspect", desk / "digits.tar").stdout


def _damage(home: Path) -> None:
    (home / "photos" / "4" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")


def _enlarge(home: Path) -> None:
    Image.new("RGB", (300, 100)).save(home / "photos" / "4" / "large.jpg")


def _loosen(home: Path) -> None:
    Image.new("RGB", (8, 8)).save(home / "photos" / "loose.png")


def _add_class(home: Path) -> None:
    (home / "photos" / "ten").mkdir()
    Image.new("RGB", (8, 8)).save(home / "photos" / "ten" / "1.png")


def _fix_rows(home: Path) -> None:
    write_network(home / "digits.onnx", rows=1)


def _list_missing(home: Path) -> None:
    (home / "photos.csv").write_text("file,label\nphotos/0/a.png,0\nphotos/0/gone.png,0\n")


def _as_is(home: Path) -> None:
    assert home.is_dir()


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (_damage, (), "4/cut.png is no PNG or JPEG picture that can be read"),
        (_enlarge, ("--pixels-max", "20000"), "4/large.jpg has 300 x 100 pixels, the limit is"),
        (_loosen, (), "loose.png lies in no class"),
        (_add_class, (), "tells 10 classes apart, the pictures 11; give --classes"),
        (_fix_rows, (), "takes [1, 1, 8, 8]; export it with an open number of pictures"),
        (_list_missing, (), "photos.csv line 3: there is no file"),
        (_as_is, ("--picture-size", "9x8"), "sees 8 x 8, --picture-size says 9 x 8"),
        (_as_is, ("--colours", "bgr"), "sees 1 channels, bgr has 3"),
        (_as_is, ("--mean", "0.1,0.2"), "2 numbers of mean for 1 channels"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, change: Any, more: tuple[str, ...], words: str
) -> None:
    write_network(tmp_path / "digits.onnx")
    for n in range(10):
        (tmp_path / "photos" / str(n)).mkdir(parents=True)
        Image.new("RGB", (9, 7), (n, n, n)).save(tmp_path / "photos" / str(n) / "a.png")
    change(tmp_path)
    pictures = "photos.csv" if change is _list_missing else "photos"
    done = edge_convert(*run_words(tmp_path, *more, pictures=pictures))
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert not (tmp_path / "digits.tar").exists()


@pytest.mark.parametrize(
    "more",
    [("--rows", "digits.onnx", "--target", "a"), ("--resize", "cubic"), ("--picture-size", "8")],
)
def test_wrong_use_is_two(tmp_path: Path, more: tuple[str, ...]) -> None:
    write_network(tmp_path / "digits.onnx")
    (tmp_path / "photos").mkdir()
    placed = [tmp_path / word if word == "digits.onnx" else word for word in more]
    assert edge_convert(*run_words(tmp_path, *placed)).exit_code == 2


def test_without_pillow_the_next_step_is_told(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    done = edge_convert(*run_words(desk))
    assert done.exit_code == 1
    assert "needs pillow: pip install pillow" in done.stderr
