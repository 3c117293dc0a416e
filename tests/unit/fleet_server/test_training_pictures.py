"""Pictures of a spec: what it may say, what of the files counts, what is left out or refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from device_profiles.catalog import load_profile
from edge_agent.contract.image import ColourOrder, ImageInput, ResizeMode
from edge_agent.contract.schema import Feature
from fleet_server.adapters import training_pictures
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.adapters.training_pictures import FilePictureReader
from fleet_server.errors import FleetError, NotFoundError, RefusedError
from fleet_server.services.read_pictures import ReadPictures
from fleet_server.training.alike_pictures import find_alike
from fleet_server.training.dataset import Side, split_rows
from fleet_server.training.fit_network import fit_network
from fleet_server.training.ingest_pictures import PictureData
from fleet_server.training.metrics import Answers
from fleet_server.training.picture_set import PictureSet
from fleet_server.training.spec_problems import SpecError
from fleet_server.training.worst_pictures import find_worst
from tests.support.training import HeardSteps, edit, read_spec

SPEC = """\
[model]
name = "small"
task = "classification"
problem = "Try."
[data]
pictures = "photos"
[input]
size = [4, 3]
colours = "grey"
[split]
test = 0.4
[train]
estimator = "sklearn.linear_model.LogisticRegression"
[metrics]
primary = "accuracy"
accuracy = {}
[profiles]
camera = {}
"""
VALUES = edit(
    SPEC,
    {
        '"classification"': '"regression"',
        "accuracy = {}": "mae = {}",
        '"accuracy"': '"mae"',
        "LogisticRegression": "Ridge",
        '"photos"': '"photos.csv"',
    },
)


def _write(folder: Path, *names: str, shade: int | None = None) -> None:
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((5, 6, 3), 10 * place if shade is None else shade, np.uint8)
        Image.fromarray(pixels).save(folder / name)


def _read(folder: Path, spec: str = SPEC) -> PictureData:
    read = read_spec(spec)
    asked = read.data.pictures
    assert asked is not None
    reader = FilePictureReader(tables=PyarrowTableReader())
    return ReadPictures(reader=reader, listener=HeardSteps()).read(
        *(read, asked, folder, load_profile("camera")), step="ingest"
    )


def test_a_spec_of_pictures_is_read_as_written() -> None:
    said = 'size = [4, 3]\nresize = "nearest"\nmean = [1, 2, 3]\nscale = 0.5\npixels_max = 99'
    spec = read_spec(edit(SPEC, {'size = [4, 3]\ncolours = "grey"': said}))
    assert spec.data.pictures is not None
    assert spec.data.pictures.image == ImageInput(
        *(),
        height=4,
        width=3,
        colours=ColourOrder.RGB,
        resize=ResizeMode.NEAREST,
        mean=(1.0, 2.0, 3.0),
        scale=0.5,
        pixels_max=99,
    )
    assert (spec.data.path, spec.data.target) == ("photos", "label")
    assert spec.data.features == (Feature(name="pixels", shape=(3, 4, 3)),)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = [4, 3]", "", "line 7: input.size: must be [height, width], each 2 to 4096"),
        ("[4, 3]", "[4]", "input.size: must be [height, width], each 2 to 4096, got [4]"),
        ("[4, 3]", "[1, 3]", "got [1, 3]"),
        ("[4, 3]", "[4096, 4096]", "makes 16777216 numbers of a picture, at most 1048576"),
        ('"grey"', '"gray"', "input.colours: 'gray' is not one of ['grey', 'rgb', 'bgr']"),
        ('"grey"', '"grey"\nmean = [1, 2]', "input: 2 numbers of mean for 1 channels"),
        ('"grey"', '"grey"\ndeviation = [0]', "input: mean, deviation and scale are finite"),
        ('"grey"', '"grey"\nmean = ["a"]', "input.mean: must be numbers, one a channel"),
        ('"grey"', '"grey"\npixels_max = 5', "input: pixels_max 5 must be 12 to"),
        ('"photos"', '"photos"\nsource = "file:a.csv"', "data.source: does not go with pictures"),
        ('"photos"', '"photos"\nunreadable_max = 0.6', "unreadable_max: 0.6 must lie between 0"),
        (
            "[profiles]",
            '[family]\npartition = "a"\n[profiles]',
            "family: does not go with pictures",
        ),
        ('pictures = "photos"', 'source = "file:a.csv"', "input: says what the model sees of a"),
        (
            'pictures = "photos"',
            'group = "a"\nsource = "file:a.csv"',
            "data.group: works with data.pictures alone",
        ),
        ('"sklearn.linear_model.LogisticRegression"', '"cnn"\nsteps = []', "cnn takes none"),
        (
            '"sklearn.linear_model.LogisticRegression"',
            '"cnn"\nparams = { channels = [0], dropot = 1, class_weight = "b", hidden = 0 }',
            "did you mean dropout?",
        ),
    ],
)
def test_what_a_spec_of_pictures_cannot_say_is_named(old: str, new: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_spec(edit(SPEC, {old: new}))
    assert words in str(caught.value)


def test_a_network_needs_pictures_and_its_parameters_are_checked() -> None:
    cnn = edit(
        SPEC, {'"sklearn.linear_model.LogisticRegression"': '"cnn"\nparams = { hidden = 9 }'}
    )
    settings = read_spec(cnn).train.cnn
    assert settings is not None
    assert (settings.hidden, settings.channels) == (9, (16, 32, 64))
    with pytest.raises(SpecError, match="names several labels, and a cnn answers one"):
        read_spec(edit(cnn, {'"photos"': '"a.csv"\ntarget = ["a", "b"]'}))
    table = 'source = "file:a.csv"\ntarget = "t"\nfeatures = { x = { type = "float32" } }'
    with pytest.raises(SpecError, match="cnn is for pictures"):
        read_spec(
            edit(
                cnn, {'pictures = "photos"': table, '[input]\nsize = [4, 3]\ncolours = "grey"': ""}
            )
        )


def test_names_and_order_of_files_change_neither_version_nor_sides(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "photos" / "dark", *(f"{n}.png" for n in range(8)))
    _write(tmp_path / "a" / "photos" / "light", "x.png", "y.jpg", shade=200)
    (tmp_path / "b").mkdir()
    for one in sorted((tmp_path / "a" / "photos").rglob("*.*"), reverse=True):
        target = (
            tmp_path / "b" / "photos" / one.parent.name / f"{9 - int(one.stem, 36) % 9}{one.name}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(one.read_bytes())
    first, second = _read(tmp_path / "a").dataset, _read(tmp_path / "b").dataset
    assert first.sha256 == second.sha256
    assert first.lanes.tolist() == second.lanes.tolist()
    assert first.features.tolist() == second.features.tolist()
    wider = edit(SPEC, {"[4, 3]": "[5, 5]"})
    assert _read(tmp_path / "a", wider).dataset.sha256 == first.sha256


def test_a_corrected_label_changes_the_version_and_no_side(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(6)]
    _write(tmp_path, *names)
    seen = []
    for labels in ("aaabbb", "aabbbb"):
        rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
        (tmp_path / "photos.csv").write_text(f"file,label\n{rows}")
        seen.append(_read(tmp_path, edit(SPEC, {'"photos"': '"photos.csv"'})).dataset)
    assert seen[0].sha256 != seen[1].sha256
    assert seen[0].lanes.tolist() == seen[1].lanes.tolist()
    assert seen[0].classes == ("a", "b")


def test_a_picture_saved_twice_counts_once_whatever_its_bytes(tmp_path: Path) -> None:
    _write(tmp_path / "photos" / "a", "1.png", "2.png", "3.png")
    _write(tmp_path / "photos" / "b", "4.png", shade=99)
    picture = Image.open(tmp_path / "photos" / "a" / "2.png")
    picture.save(tmp_path / "photos" / "a" / "again.png", optimize=True, compress_level=1)
    data = _read(tmp_path)
    assert (data.record["listed"], data.record["used"], data.record["repeated"]) == (5, 4, 1)
    assert any("1 pictures are copies of others, pixel for pixel" in note for note in data.notes)
    picture.save(tmp_path / "photos" / "b" / "torn.png", compress_level=9)
    with pytest.raises(RefusedError, match=r"is the same picture as .* and has another answer"):
        _read(tmp_path)


def test_damaged_pictures_are_named_and_refused_or_left_out_up_to_a_share(tmp_path: Path) -> None:
    _write(tmp_path / "photos" / "a", *(f"{n}.png" for n in range(9)))
    _write(tmp_path / "photos" / "b", "x.png", "bomb.png", shade=99)
    cut = tmp_path / "photos" / "a" / "3.png"
    cut.write_bytes(cut.read_bytes()[:45])
    Image.new("1", (5_000, 5_000)).save(tmp_path / "photos" / "b" / "bomb.png")
    with pytest.raises(RefusedError) as caught:
        _read(tmp_path)
    said = str(caught.value)
    assert "2 of 11 pictures cannot be read, and data.unreadable_max is 0" in said
    assert "a/3.png is no PNG or JPEG picture that can be read" in said
    assert "b/bomb.png has 5000 x 5000 pixels, the limit is 16777216" in said
    lenient = edit(SPEC, {'"photos"': '"photos"\nunreadable_max = 0.2'})
    data = _read(tmp_path, lenient)
    assert (data.record["unreadable"], data.record["used"]) == (2, 9)
    assert data.record["unreadable_names"] == ["a/3.png", "b/bomb.png"]
    assert any(note.startswith("2 of 11 pictures cannot be read") for note in data.notes)


def test_pictures_of_a_group_stay_together_and_values_are_read(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(25)]
    _write(tmp_path, *names)
    rows = "".join(f"{name},{n % 5},{n / 2},{-n}\n" for n, name in enumerate(names))
    (tmp_path / "photos.csv").write_text(f"file,camera,width,depth\n{rows}")
    said = '"photos.csv"\ngroup = "camera"\ntarget = ["width", "depth"]'
    spec = edit(VALUES, {'"photos.csv"': said})
    data = _read(tmp_path, spec)
    assert data.record["groups"] == 5
    train, test = split_rows(data.dataset, read_spec(spec).split)
    assert train.pictures is not None
    assert test.pictures is not None
    held = test.pictures.names
    cameras = [{int(n[:-4]) % 5 for n in names} for names in (train.pictures.names, held)]
    assert not cameras[0] & cameras[1]
    assert len(cameras[0] | cameras[1]) == 5
    one = int(held[0][:-4])
    assert test.targets[0].tolist() == [one / 2, -one]


def test_a_table_may_name_several_labels_of_a_picture(tmp_path: Path) -> None:
    _write(tmp_path, "1.png", "2.png", "3.png", "4.png")
    (tmp_path / "photos.csv").write_text(
        "file,kind,broken\n1.png,a,no\n2.png,b,no\n3.png,a,yes\n4.png,b,yes\n"
    )
    said = '"photos.csv"\ntarget = ["kind", "broken"]'
    data = _read(tmp_path, edit(SPEC, {'"photos"': said})).dataset
    assert [(one.name, one.classes) for one in data.labels] == [
        ("kind", ("a", "b")),
        ("broken", ("no", "yes")),
    ]
    assert data.pictures is not None
    place = data.pictures.names.index("3.png")
    assert data.targets[place].tolist() == [0, 1]
    # The first label is right everywhere; the second is missed most on the last picture.
    sure = np.tile([0.9, 0.1, 0.8, 0.2], (4, 1))
    sure[3, 2:] = 1.0, 0.0
    answers = Answers.of_classes(np.zeros((4, 2), np.int64), sure)
    truth = np.array([[0, 0], [0, 0], [0, 1], [0, 1]])
    worst = find_worst(truth, answers, (), ["p", "q", "r", "s"], data.labels)
    assert [one["picture"] for one in worst[:2]] == ["s", "r"]
    assert worst[0]["truth"] == {"kind": "a", "broken": "yes"}
    assert worst[0]["answer"] == {"kind": "a", "broken": "no"}


@pytest.mark.parametrize(
    ("files", "spec", "kind", "words"),
    [
        ((), SPEC, NotFoundError, "no folder or table .*photos; data.pictures is relative"),
        (("photos/1.png",), SPEC, RefusedError, "lies in no class"),
        (("photos/a/b/1.png",), SPEC, RefusedError, "a folder inside a class"),
        (("photos/a/1.png",), SPEC, RefusedError, "one class only"),
        (
            ("photos/a/1.png",),
            edit(SPEC, {'"photos"': '"photos"\ntarget = "t"\ngroup = "g"'}),
            RefusedError,
            r"2 problems\n.*data.target: the classes of a folder(.|\n)*data.group: a folder has no",
        ),
        (
            ("photos/a/1.png",),
            edit(VALUES, {'"photos.csv"': '"photos"'}),
            RefusedError,
            "a regression needs numbers",
        ),
        (("photos.csv", "file,x\na,1\n"), VALUES, RefusedError, "has no columns 'label', needs"),
        (("photos.csv", "file,label\n,1\n"), VALUES, RefusedError, "'file' is empty in 1 of 1"),
        (("photos.csv", "file,label\na.png,1\nb.png,2\n"), VALUES, RefusedError, "a.png cannot be"),
        (("photos.csv", "file,label\na.png,b\n"), VALUES, RefusedError, "are not numbers"),
    ],
)
def test_what_is_no_set_of_pictures_is_refused(
    tmp_path: Path, files: tuple[str, ...], spec: str, kind: type[FleetError], words: str
) -> None:
    if files and files[0].endswith(".csv"):
        (tmp_path / files[0]).write_text(files[1])
    else:
        _write(tmp_path, *files)
    with pytest.raises(kind, match=words):
        _read(tmp_path, spec)


def test_bounds_are_checked_before_and_while_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "photos" / "a", "1.png", "2.png")
    _write(tmp_path / "photos" / "b", "3.png", shade=99)
    limits: dict[str, tuple[Any, str]] = {
        "PICTURES_MAX": (2, "photos has 3 pictures, at most 2"),
        "VALUES_MAX": (35, "3 pictures of 4 x 3 x 1 are 36 numbers, at most 35"),
        "BYTES_MAX": (100, "more than 100 bytes together"),
    }
    for name, (limit, words) in limits.items():
        with monkeypatch.context() as patch:
            patch.setattr(training_pictures, name, limit)
            with pytest.raises(RefusedError, match=words):
                _read(tmp_path)


def test_what_reads_pictures_or_trains_networks_is_named_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "photos" / "a", "1.png")
    _write(tmp_path / "photos" / "b", "2.png", shade=99)
    cnn = read_spec(edit(SPEC, {'"sklearn.linear_model.LogisticRegression"': '"cnn"'}))
    assert cnn.train.cnn is not None
    assert cnn.data.pictures is not None
    dataset = _read(tmp_path).dataset
    side = Side(features=dataset.features, targets=dataset.targets, pictures=dataset.pictures)
    monkeypatch.delitem(sys.modules, "fleet_server.training.cnn", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RefusedError, match=r"needs PyTorch.*pip install 'edgefleet\[torch\]'"):
        fit_network(cnn, cnn.train.cnn, cnn.data.pictures, side, ("a", "b"), lambda _: None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RefusedError, match="reading pictures needs pillow: pip install pillow"):
        _read(tmp_path)


def test_frames_of_one_burst_on_both_sides_are_told() -> None:
    draw = np.random.default_rng(0)
    image = ImageInput(height=20, width=20)
    scenes = draw.random((12, 1_200)).astype(np.float32)
    nudged = scenes[:3] * 0.8 + 0.1 + draw.normal(0, 0.005, (3, 1_200)).astype(np.float32)
    flat = np.full((1, 1_200), 0.5, np.float32)

    def side(rows: Any, name: str) -> Side:
        names = [f"{name}{n}" for n in range(len(rows))]
        places = np.arange(len(rows))
        pictures = PictureSet(
            names,
            lambda _: np.zeros((1, 1, 3), np.uint8),
            places,
            places,
            np.zeros((len(rows), 4), np.float32),
        )
        return Side(features=rows, targets=places, pictures=pictures)

    train = side(np.concatenate([scenes[:10], flat]), "train")
    held = side(np.concatenate([nudged, scenes[10:], flat]), "held")
    alike = find_alike(train, held, image)
    assert (alike.looked_at, alike.alike) == (6, 3)
    assert alike.pair[0].removeprefix("held") == alike.pair[1].removeprefix("train")
    assert "keep them together with data.group" in alike.note
    assert find_alike(train, side(scenes[10:], "held"), image).note == ""


def test_the_worst_values_come_first_in_units_of_their_spread() -> None:
    truth = np.array([[1.0, 100.0], [2.0, 200.0], [3.0, 300.0]])
    answers = Answers.of_values(truth + np.array([[0.0, 50.0], [0.0, 0.0], [1.0, 0.0]]))
    worst = find_worst(truth, answers, (), ["a", "b", "c"])
    assert [one["picture"] for one in worst] == ["c", "a", "b"]
    assert worst[0]["truth"] == [3.0, 300.0]
    assert worst[0]["answer"] == [4.0, 300.0]
