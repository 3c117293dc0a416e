"""Pictures become a registered version whose package answers files over HTTP."""

import io
import json
import runpy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.pt2_check import clean_program
from device_profiles.catalog import load_profile
from edge_agent.contract.image import FIGURES, ImageInput
from edge_agent.contract.package import EVIDENCE, REFERENCE, SCHEMA
from edge_agent.contract.schema import ModelSchema
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.adapters.training_pictures import FilePictureReader
from fleet_server.cli.version_views import print_version
from fleet_server.errors import RefusedError
from fleet_server.ports.registry import Version
from tests.support.convert import Array
from tests.support.edges import agent_directory
from tests.support.serving import BuiltPackage
from tests.support.serving_http import World
from tests.support.training import TrainingBench, edit

pytestmark = pytest.mark.xdist_group("torch")
EXAMPLE = Path(__file__).parents[2] / "examples" / "cameras"
SPEC = edit(
    (EXAMPLE / "cameras.toml").read_text(),
    {
        "size = [16, 16]": "size = [9, 7]",
        "sklearn.neural_network.MLPClassifier": "sklearn.linear_model.LogisticRegression",
        "params = { hidden_layer_sizes = [64], max_iter = 80 }": "params = { max_iter = 300 }",
        "floor = 0.92": "floor = 0.6",
        "raspberry-pi-4 = {}\n": "",
    },
)
PICTURES = 220
DRAW = np.random.default_rng(3)
COLOURED = DRAW.integers(0, 256, (31, 14, 3), np.uint8)


def _save(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return _save(Image.fromarray(COLOURED), "JPEG", exif=exif)


ODD = {
    "grey.png": _save(Image.fromarray(COLOURED[..., 0]), "PNG"),
    "deep.png": _save(Image.fromarray(COLOURED[..., 0].astype(np.uint16) * 257), "PNG"),
    "clear.png": _save(Image.fromarray(np.dstack([COLOURED, COLOURED[..., 0]])), "PNG"),
    "palette.png": _save(Image.fromarray(COLOURED).quantize(16), "PNG", transparency=3),
    "two.png": _save(Image.fromarray(COLOURED[..., 0] > 99), "PNG"),
    "pixel.png": _save(Image.fromarray(COLOURED[:1, :1]), "PNG"),
    "line.png": _save(Image.fromarray(COLOURED[:, :1]), "PNG"),
    "wide.jpg": _save(Image.fromarray(np.tile(COLOURED, (1, 20, 1))), "JPEG"),
    "ink.jpg": _save(Image.fromarray(COLOURED).convert("CMYK"), "JPEG"),
    "slow.jpg": _save(Image.fromarray(COLOURED), "JPEG", progressive=True),
    "turned.jpg": _turned(),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainingBench:
    bench = TrainingBench(tmp_path_factory.mktemp("pictures"))
    example = runpy.run_path(str(EXAMPLE / "export_pictures.py"))
    example["write_pictures"](bench.folder / "pictures", count=PICTURES)
    (bench.folder / "pictures" / "3" / "notes.txt").write_text("no picture")
    return bench


def _train(bench: TrainingBench, spec: str = SPEC) -> Version:
    path = bench.folder / "cameras.toml"
    path.write_text(spec)
    trained = bench.trainer.train(path, actor="ann")
    version = bench.registry.find_version(trained.model, trained.number)
    assert version is not None
    return version


@pytest.fixture(scope="module")
def version(bench: TrainingBench) -> Version:
    return _train(bench)


@pytest.fixture(scope="module")
def world(
    bench: TrainingBench, version: Version, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    (artifact,) = version.artifacts
    served = BuiltPackage(
        blob=bench.objects.read(artifact.package.sha256),
        sha256=artifact.package.sha256,
        schema=ModelSchema.decode(bench.member(version, SCHEMA)),
        rows=np.zeros((1, 4), np.float32),
    )
    with agent_directory(tmp_path_factory.mktemp("agent"), served) as world:
        yield world


def _ask(world: World, content: bytes) -> Array:
    headers = {"Content-Type": "image/png" if content[:1] == b"\x89" else "image/jpeg"}
    status, answer = world.ask("/v1/models/main/predict", content, headers=headers)
    assert status == 200, answer
    return np.array(list(answer["predictions"][0]["probabilities"].values()))


def test_a_version_says_what_it_was_made_of(bench: TrainingBench, version: Version) -> None:
    record, split = version.run["pictures"], version.run["split"]
    assert (record["listed"], record["used"], record["skipped"]) == (PICTURES, PICTURES, 1)
    assert split["train_rows"] + split["test_rows"] == PICTURES
    assert version.evaluation["classes"] == [str(digit) for digit in range(10)]
    schema = ModelSchema.decode(bench.member(version, SCHEMA))
    assert schema.image is not None
    assert (schema.image.height, schema.image.width, schema.columns) == (9, 7, FIGURES)
    reference = json.loads(bench.member(version, REFERENCE))
    assert [feature["name"] for feature in reference["features"]] == list(FIGURES)
    assert reference["rows"] == split["train_rows"]
    evidence = json.loads(bench.member(version, EVIDENCE))
    assert evidence["context"]["data_sha256"] == version.data_sha256
    assert evidence["image"]["pictures"] == split["test_rows"]
    assert any("picture 1 of 220" in detail for detail in bench.heard.details)


def test_the_worst_pictures_are_named_by_file_and_answer(
    bench: TrainingBench, version: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = version.evaluation["worst_pictures"]
    errors = [one["error"] for one in worst]
    assert errors == sorted(errors, reverse=True)
    assert worst[0]["answer"] != worst[0]["truth"]
    for one in worst:
        assert (bench.folder / "pictures" / one["picture"]).parent.name == one["truth"]
    model = bench.registry.find_model("cameras")
    assert model is not None
    print_version(version, model)
    shown = capsys.readouterr().out
    assert "220 of 220 files" in shown
    assert worst[0]["picture"] in shown
    # A device needs no pixels of them, nor what somebody's files are called.
    evidence = bench.member(version, EVIDENCE).decode()
    assert [row["inputs"] for row in json.loads(evidence)["parity"]["worst"]] == [{}] * 10
    assert worst[0]["picture"] not in evidence


def test_every_kind_of_file_is_trained_on_as_a_device_answers_it(
    bench: TrainingBench, version: Version, world: World, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    for name, content in ODD.items():
        (tmp_path / "a" / name).write_bytes(content)
    reader = FilePictureReader(tables=PyarrowTableReader())
    listed = reader.list(tmp_path, numbers=[], words=["label"])
    image = ImageInput(**{**_image(bench, version), "pixels_max": 1_000_000})
    packed = reader.pack(listed, image, load_profile("camera"), lambda _: None)
    assert packed.faults == ()
    estimator = read_estimator(bench.objects.read(version.run["source_model"]))
    trained = estimator.predict_proba(packed.rows)
    answered = [_ask(world, ODD[Path(name).name]) for name in listed.names]
    np.testing.assert_allclose(np.array(answered), trained, atol=2e-5)
    assert len({row.tobytes() for row in packed.rows}) == len(ODD) - 1  # deep is grey in 16 bits
    assert packed.load(listed.names.index("a/turned.jpg")).shape == (14, 31, 3)


def _image(bench: TrainingBench, version: Version) -> dict[str, Any]:
    image = ModelSchema.decode(bench.member(version, SCHEMA)).image
    assert image is not None
    return {name: getattr(image, name) for name in image.__dataclass_fields__}


def test_a_later_version_is_compared_with_the_champion_on_the_same_pictures(
    bench: TrainingBench, version: Version
) -> None:
    bench.crown(version.model, version.number)
    later = _train(bench, edit(SPEC, {"size = [9, 7]": "size = [8, 8]"}))
    assert later.data_sha256 == version.data_sha256
    (margin,) = [gate for gate in later.evaluation["gates"] if "champion" in gate["sentence"]]
    assert margin["verdict"] in ("kept", "inconclusive"), margin
    held = [run.run["split"]["test_shares"] for run in (version, later)]
    assert held[0] == held[1]


def test_a_picture_that_changes_while_it_is_trained_on_is_found(
    bench: TrainingBench, version: Version, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "one.png"
    path.write_bytes(ODD["grey.png"])
    reader = FilePictureReader(tables=PyarrowTableReader())
    listed = reader.list(tmp_path, numbers=[], words=["label"])
    image = ImageInput(**_image(bench, version))
    packed = reader.pack(listed, image, load_profile("camera"), lambda _: None)
    path.write_bytes(ODD["clear.png"])
    with pytest.raises(RefusedError, match=r"a/one\.png was changed while"):
        packed.load(0)


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
def test_a_network_is_trained_shipped_and_kept_as_plain_numbers(bench: TrainingBench) -> None:
    spec = edit(
        SPEC,
        {
            '"sklearn.linear_model.LogisticRegression"': '"cnn"',
            "max_iter = 300": "channels = [6], hidden = 16, epochs_max = 6, learning_rate = 0.01",
            'name = "cameras"': 'name = "network"',
            "floor = 0.6": "floor = 0.3",
        },
    )
    version = _train(bench, spec)
    record = version.run["network"]
    assert record["passes"] == len(record["validation_losses"]) <= 6
    evidence = json.loads(bench.member(version, EVIDENCE))
    assert evidence["source"] == "torch ExportedProgram"
    (shipped,) = version.evaluation["shipped"].values()
    assert shipped["metrics"]["accuracy"]["value"] == version.metrics["accuracy"]
    assert any("validation loss" in detail for detail in bench.heard.details)
    clean_program(bench.objects.read(version.run["source_model"]))  # raises for anything else
