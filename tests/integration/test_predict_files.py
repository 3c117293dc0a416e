"""``edge-agent predict`` over files of every kind, against the real HTTP server."""

import csv
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_agent.answer_output import PROGRESS_ROWS, show_progress
from edge_agent.cli import main
from edge_agent.contract.schema import Feature
from tests.support.edges import agent_directory
from tests.support.serving import CLASSES, build_classifier
from tests.support.serving_http import World

BUILT = build_classifier(features=(Feature(name="heat", high=125), Feature(name="p", shape=(3,))))
PICTURES = build_classifier(features=(Feature(name="pixels", shape=(4, 4), low=0, high=16),))
COLUMNS = ["heat", "p_0", "p_1", "p_2"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("agent")
    with agent_directory(directory, BUILT) as world:
        yield directory, world


def predict(directory: Path, *arguments: str) -> int:
    return main(["predict", *arguments, "--dir", str(directory)])


def write_csv(path: Path, rows: np.ndarray[Any, Any]) -> str:
    lines = [",".join(["other", *reversed(COLUMNS)])]
    lines += ["x," + ",".join(repr(float(n)) for n in reversed(row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write_parquet(path: Path, rows: np.ndarray[Any, Any]) -> str:
    columns = {name: rows[:, n] for n, name in enumerate(COLUMNS)}
    pq.write_table(pa.table({"other": ["x"] * len(rows)} | columns), path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_of_a_table_are_answered_in_order(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    directory, world = agent
    write = write_csv if kind == "csv" else write_parquet
    path = write(tmp_path / f"rows.{kind}", BUILT.rows[:300])
    assert predict(directory, path) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = world.service.predict("main", BUILT.rows[:300])
    assert [answer["row"] for answer in answers] == list(range(1, 301))
    assert [answer["class"] for answer in answers] == expected.class_names
    assert [answer["label"] for answer in answers] == expected.outputs["label"].tolist()
    np.testing.assert_allclose(
        [answer["probabilities"] for answer in answers], expected.outputs["probabilities"]
    )
    assert len({answer["prediction_id"] for answer in answers}) == 300


def test_a_csv_of_answers_is_whole_or_not_there(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = agent
    out = tmp_path / "answers.csv"
    rows = BUILT.rows[:300].copy()
    rows[299, 0] = 126
    assert predict(directory, write_csv(tmp_path / "bad.csv", rows), "--csv", str(out)) == 1
    bad = str(tmp_path / "bad.csv")
    assert f"{bad} row 300: heat is 126" in capsys.readouterr().err
    assert predict(directory, bad, "--csv", bad) == 1
    assert "would write over the file that is read" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv"]
    good = write_csv(tmp_path / "good.csv", BUILT.rows[:3])
    assert predict(directory, good, "--csv", str(out)) == 0
    table = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["row"] for row in table] == ["1", "2", "3"]
    assert table[0]["class"] in CLASSES
    assert 0 < float(table[0]["probabilities_2"]) < 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "heat,p_0\n1,2\n", "lacks column p_1, p_2; the model needs them all"),
        ("a.csv", "", "lacks column heat"),
        ("a.csv", "heat,p_0,p_1,p_2\n1,2,3,x\n", "line 2: p_2 is 'x', it takes a number"),
        ("a.csv", "heat,p_0,p_1,p_2\n1,2,3\n", "line 2: p_2 is missing, it takes a number"),
        ("a.csv", "heat,p_0,p_1,p_2\n1,2,3,nan\n", "p_2 is 'nan'"),
        ("a.csv", "heat,p_0,p_1,p_2\n126,2,3,4\n", "a.csv row 1: heat is 126, allowed is"),
        ("a.csv", "heat,p_0,p_1,p_2\n1,2,3,4,5\n", "line 2 has more cells than the first line"),
        ("a.csv", "heat,p_0,p_1,p_2,p_1\n1,2,3,4,5\n", "has column p_1 more than once"),
        ("a.csv", "heat\xff".encode("latin-1"), "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read as Parquet"),
        ("a.png", b"\x89PNG", "this one takes 2 fields (heat, p): give rows as CSV"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(
    agent: tuple[Path, World],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes,
    words: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert predict(agent[0], str(path)) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p_1": [1.0, None]}, "row 2: p_1 is empty"),
        ({"p_1": ["a", "b"]}, "p_1 is of type string, it takes numbers"),
    ],
)
def test_a_wrong_parquet_column_is_told(
    agent: tuple[Path, World],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: str,
) -> None:
    columns: dict[str, Any] = {name: [1, 2] for name in COLUMNS} | changes
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert predict(agent[0], str(tmp_path / "a.parquet")) == 1
    assert words in capsys.readouterr().err


def test_parquet_without_pyarrow_says_what_to_install(
    agent: tuple[Path, World],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_parquet(tmp_path / "rows.parquet", BUILT.rows[:1])
    hide(monkeypatch, "pyarrow")
    assert predict(agent[0], path) == 1
    assert "pip install pyarrow, or write the rows as CSV" in capsys.readouterr().err


def test_no_agent_is_unreachable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(tmp_path, "rows.csv") == 3
    assert "start it with edge-agent run" in capsys.readouterr().err


def test_a_terminal_is_told_the_progress_of_long_files() -> None:
    out = io.StringIO()
    answers = [{"row": n} for n in range(PROGRESS_ROWS * 2 + 5)]
    assert len(list(show_progress(answers, out))) == len(answers)
    assert out.getvalue().split("\r") == [
        "",
        "256 rows answered",
        "512 rows answered",
        "517 rows answered\n",
    ]


# Pictures -----------------------------------------------------------------------------------------


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    original = importlib.import_module

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == package:
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", refuse)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("seeing")
    with agent_directory(directory, PICTURES) as world:
        yield directory, world


def test_a_picture_without_pillow_says_what_to_install(
    seeing: tuple[Path, World],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, "PIL")
    (tmp_path / "a.png").write_bytes(b"")
    for path in (tmp_path / "a.png", tmp_path):
        assert predict(seeing[0], str(path)) == 1
        assert "pip install pillow" in capsys.readouterr().err


def test_a_folder_of_pictures_is_answered_in_the_order_of_names(
    seeing: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pytest.importorskip("PIL.Image")
    directory, world = seeing
    rng = np.random.default_rng(7)
    grids = rng.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    for n, name in enumerate(("c.png", "a.PNG", "b.png")):
        images.fromarray(grids[n]).save(tmp_path / name, "PNG")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("left alone")
    assert predict(directory, str(tmp_path)) == 1
    told = capsys.readouterr()
    assert "1 pictures could not be read" in told.err
    answers = [json.loads(line) for line in told.out.splitlines()]
    names = [Path(answer["file"]).name for answer in answers]
    assert names == ["a.PNG", "b.png", "broken.jpg", "c.png"]
    assert "no PNG or JPEG" in answers[2]["error"]
    order = (grids[[1, 2, 0]].reshape(3, 16) * (16 / 255)).astype(np.float32)
    expected = world.service.predict("main", order)
    found = [answer["probabilities"] for answer in answers if "error" not in answer]
    np.testing.assert_allclose(found, expected.outputs["probabilities"], rtol=1e-5)
    out = tmp_path / "out.csv"
    assert predict(directory, str(tmp_path), "--csv", str(out)) == 1
    table = list(csv.DictReader(out.read_text().splitlines()))
    assert [bool(row["error"]) for row in table] == [False, False, True, False]


def test_pictures_of_other_sizes_and_colours_are_made_to_fit(
    seeing: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pytest.importorskip("PIL.Image")
    directory, world = seeing
    path = tmp_path / "photo.jpeg"
    images.new("RGB", (640, 480), (255, 255, 255)).save(path)
    assert predict(directory, str(path)) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = world.service.predict("main", np.full((1, 16), 16, np.float32))
    np.testing.assert_allclose(answer["probabilities"], expected.outputs["probabilities"][0])
    images.new("L", (10_000, 5_001)).save(tmp_path / "huge.png")
    assert predict(directory, str(tmp_path / "huge.png")) == 1
    assert "the limit is 50000000" in capsys.readouterr().err


def test_a_folder_without_pictures_is_refused(
    seeing: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL.Image")
    assert predict(seeing[0], str(tmp_path)) == 1
    assert "holds no picture (.jpeg, .jpg, .png)" in capsys.readouterr().err
