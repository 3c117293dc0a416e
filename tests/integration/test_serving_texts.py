"""A pipeline of texts, numbers and categories: from the fitted model to every way of asking."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from converters.build import BuildRequest, build_package
from converters.distil import distil
from converters.errors import ConversionError
from converters.request import Effort
from converters.table_feed import TableModel
from device_profiles.catalog import load_profile
from edge_agent.adapters.named_fields import check_packed_size
from edge_agent.cli import main
from edge_agent.client import LocalModel, connect
from edge_agent.contract.package import EVIDENCE, REFERENCE, SCHEMA, unpack_members
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.errors import InputError
from edge_agent.statistics.packed_texts import pack_texts
from tests.support.convert import QUICK
from tests.support.edges import agent_directory
from tests.support.serving import BuiltPackage
from tests.support.serving_http import World

CHARS_MAX = 60
HUES = ("blue", "red")
SCHEMA_OF_TEXTS = ModelSchema(
    model="tickets",
    task=Task.CLASSIFICATION,
    features=(
        Feature(name="heat", is_nullable=True, low=-50, high=50),
        Feature(name="note", dtype="text", chars_max=CHARS_MAX, is_nullable=True),
        Feature(name="hue", dtype="category", categories=HUES, is_open=True),
        Feature(name="title", dtype="text", chars_max=20),
    ),
    outputs=(
        Output(name="label", role=Role.LABEL),
        Output(name="probabilities", role=Role.PROBABILITIES),
    ),
    classes=("calm", "urgent"),
)
ROWS: list[dict[str, Any]] = [
    {"heat": 1.5, "note": "Smoke in the kitchen", "hue": "red", "title": "HELP"},
    {"heat": None, "note": "", "hue": "blue", "title": "a question"},
    {"heat": -3.0, "note": None, "hue": "pink", "title": ""},
    {"heat": 2.0, "note": "\U0001f525\r\n\u00dcBERHITZT \u2026 sofort", "hue": "red", "title": "x"},
]


def table(rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(3)
    words = {
        0: ["question", "about", "an", "invoice", "thanks"],
        1: ["smoke", "\u00fcberhitzt", "help", "sofort", "broken"],
    }
    targets = draw.integers(0, 2, rows)
    cells = np.empty((rows, 4), object)
    for row, target in zip(cells, targets, strict=True):
        own = [*words[int(target)], "the", "kitchen", "in"]
        row[:] = (
            np.nan if draw.random() < 0.1 else draw.normal(),
            " ".join(draw.choice(own, int(draw.integers(0, 6)))),
            str(draw.choice(HUES)),
            str(draw.choice(own)),
        )
    return cells, np.array(SCHEMA_OF_TEXTS.classes)[targets]


def pack(cells: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.column_stack(
        [
            cells[:, 0].astype(np.float64),
            pack_texts(cells[:, 1].tolist(), CHARS_MAX),
            np.array([HUES.index(hue) for hue in cells[:, 2]]),
            pack_texts(cells[:, 3].tolist(), 20),
        ]
    )


CELLS, TARGETS = table(200)
MODEL = make_pipeline(
    ColumnTransformer(
        [
            ("heat", SimpleImputer(), [0]),
            ("note", TfidfVectorizer(ngram_range=(1, 2)), 1),
            ("hue", OneHotEncoder(handle_unknown="ignore"), [2]),
            ("title", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3)), 3),
        ]
    ),
    LogisticRegression(),
).fit(CELLS, TARGETS)


def ask_source(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    cells = np.array([list(row.values()) for row in rows], object)
    cells[:, 0] = [np.nan if cell is None else cell for cell in cells[:, 0]]
    cells[:, 1] = [cell or "" for cell in cells[:, 1]]
    found: np.ndarray[Any, Any] = MODEL.predict_proba(cells)
    return found


WANTED = ask_source(ROWS)


@pytest.fixture(scope="module")
def built() -> BuiltPackage:
    package = build_package(
        BuildRequest(
            estimator=TableModel(estimator=MODEL),
            schema=SCHEMA_OF_TEXTS,
            profile=load_profile("raspberry-pi-4"),
            calibration=pack(CELLS),
            holdout=pack(CELLS[:100]),
            holdout_targets=TARGETS[:100],
            plan=QUICK,
            effort=Effort.BRIEF,
        )
    )
    return BuiltPackage(
        blob=package.blob,
        sha256=package.sha256,
        schema=package.schema,
        rows=pack(CELLS).astype(np.float32),
    )


@pytest.fixture(scope="module")
def agent(
    built: BuiltPackage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("texts")
    with agent_directory(directory, built) as world:
        yield directory, world


def tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = [[row["note"], row["title"]] for row in rows]
    hues = [HUES.index(row["hue"]) if row["hue"] in HUES else -1 for row in rows]
    numbers = [[row["heat"] or 0.0, hue] for row, hue in zip(rows, hues, strict=True)]
    return [
        {"name": "features", "datatype": "FP32", "shape": [len(rows), 2], "data": numbers},
        {"name": "texts", "datatype": "BYTES", "shape": [len(rows), 2], "data": texts},
    ]


def test_the_package_holds_texts_and_what_it_says_of_them(built: BuiltPackage) -> None:
    members = unpack_members(built.blob)
    schema = json.loads(members[SCHEMA])
    assert (schema["format"], schema["features"][1]["chars_max"]) == (4, CHARS_MAX)
    assert ModelSchema.decode(members[SCHEMA]) == SCHEMA_OF_TEXTS
    watched = [one["name"] for one in json.loads(members[REFERENCE])["features"]]
    assert watched == ["heat", "note.length", "hue", "title.length"]
    evidence = json.loads(members[EVIDENCE])
    assert evidence["parity"]["flips"] == 0
    assert all(isinstance(row["inputs"]["note"], str) for row in evidence["parity"]["worst"])


def test_rows_by_name_are_answered_as_the_pipeline_does(agent: tuple[Path, World]) -> None:
    status, answer = agent[1].ask("/v1/models/main/predict", {"rows": ROWS})
    assert status == 200, answer
    got = [list(row["probabilities"].values()) for row in answer["predictions"]]
    np.testing.assert_allclose(got, WANTED, atol=1e-6)


def test_tensors_are_answered_alike_in_either_order(agent: tuple[Path, World]) -> None:
    rows = [row for row in ROWS if row["heat"] is not None]
    for inputs in (tensors(rows), tensors(rows)[::-1]):
        status, answer = agent[1].ask("/v2/models/main/infer", {"inputs": inputs})
        assert status == 200, answer
        shares = next(one for one in answer["outputs"] if one["name"] == "probabilities")
        np.testing.assert_allclose(np.reshape(shares["data"], (-1, 2)), ask_source(rows), atol=1e-6)


def test_the_metadata_name_both_tensors(agent: tuple[Path, World]) -> None:
    _, told = agent[1].ask("/v2/models/main")
    assert [(one["name"], one["datatype"], one["shape"]) for one in told["inputs"]] == [
        ("features", "FP32", [-1, 2]),
        ("texts", "BYTES", [-1, 2]),
    ]
    fields = told["inputs"][1]["parameters"]["fields"]
    assert fields[0] == {"name": "note", "dtype": "text", "missing": True, "chars_max": CHARS_MAX}
    _, named = agent[1].ask("/v1/models/main")
    assert [field.get("chars_max") for field in named["fields"]] == [None, CHARS_MAX, None, 20]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"note": "x" * 61}, "row 0: field note has 61 characters, it takes text of at most 60"),
        ({"title": None}, "row 0: field title is missing, it takes text of at most 20 characters"),
        ({"title": 7}, "row 0: field title is 7, it takes text of at most 20 characters"),
        ({"title": ["a"]}, "row 0: field title is a list"),
        ({"heat": 400}, "row 0: heat is 400, allowed is -50 to 50"),
    ],
)
def test_what_does_not_fit_is_refused_by_field_and_limit(
    agent: tuple[Path, World], change: dict[str, Any], words: str
) -> None:
    status, answer = agent[1].ask("/v1/models/main/predict", {"rows": [ROWS[0] | change]})
    assert status == 400
    assert words in str(answer["error"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda inputs: inputs[:1], "must be a list of tensors named 'texts' and 'features'"),
        (lambda inputs: [inputs[0], inputs[1] | {"datatype": "FP32"}], "must be BYTES"),
        (lambda inputs: [inputs[0], inputs[1] | {"shape": [1, 3]}], r"shape must be [rows, 2]"),
        (lambda inputs: [inputs[0], inputs[1] | {"data": ["a"]}], "has 1 texts"),
        (lambda inputs: [inputs[0], inputs[1] | {"data": [[1, 2]]}], "field note is 1"),
        (lambda inputs: [inputs[0] | {"shape": [2, 2], "data": [0] * 4}, inputs[1]], "2"),
        (
            lambda inputs: [inputs[0], inputs[1] | {"shape": [4096, 2], "data": ["a"] * 8192}],
            "4096 rows, a request takes 1 to 256",
        ),
    ],
)
def test_wrong_tensors_are_refused(agent: tuple[Path, World], change: Any, words: str) -> None:
    body = {"inputs": change(tensors(ROWS[:1]))}
    status, answer = agent[1].ask("/v2/models/main/infer", body)
    assert status == 400
    assert words in str(answer["error"])


@pytest.mark.parametrize(("width", "rows_max"), [(10, 256), (8_192, 128), (2_000_000, 1)])
def test_a_request_of_many_texts_is_told_how_many_fit(width: int, rows_max: int) -> None:
    check_packed_size(rows_max, width)
    with pytest.raises(InputError, match=f"a request takes 1 to {rows_max} with texts"):
        check_packed_size(rows_max + 1, width)


def test_the_usual_client_sends_texts_raw_and_as_json(agent: tuple[Path, World]) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    rows = [ROWS[0], ROWS[3]]
    client = triton.InferenceServerClient(f"127.0.0.1:{agent[1].port}")
    for is_raw in (True, False):
        texts = triton.InferInput("texts", [2, 2], "BYTES")
        cells = np.array([[row["note"], row["title"]] for row in rows], object)
        texts.set_data_from_numpy(cells, binary_data=is_raw)
        numbers = triton.InferInput("features", [2, 2], "FP32")
        numbers.set_data_from_numpy(
            np.array(tensors(rows)[0]["data"], np.float32), binary_data=is_raw
        )
        answer = client.infer("main", [texts, numbers])
        np.testing.assert_allclose(answer.as_numpy("probabilities"), ask_source(rows), atol=1e-6)
    client.close()


def test_clients_in_python_ask_with_texts(agent: tuple[Path, World]) -> None:
    with connect(agent[0]) as client:
        named = client.predict(ROWS)
        np.testing.assert_allclose(named.outputs["probabilities"], WANTED, atol=1e-6)
        rows = [[row["note"], row["title"]] for row in ROWS]
        numbers = np.array([[1.5, 1], [np.nan, 0], [-3, -1], [2, 1]], np.float32)
        for texts in (rows, [[note or "", title] for note, title in rows]):
            answer = client.predict_texts(texts, numbers)
            np.testing.assert_allclose(answer.outputs["probabilities"], WANTED, atol=1e-6)
        with pytest.raises(InputError, match="field title has 21 characters"):
            client.predict_texts([["", "x" * 21]], numbers[:1])
    here = LocalModel(agent[1].service, "main").predict_records(ROWS)
    np.testing.assert_allclose(here.outputs["probabilities"], WANTED, atol=1e-6)


def test_files_of_texts_are_answered(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    for name in ("rows.csv", "rows.parquet"):
        assert main(["predict", str(tmp_path / name), "--dir", str(agent[0])]) == 0
        out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        np.testing.assert_allclose([row["probabilities"] for row in out], WANTED, atol=1e-6)
    (tmp_path / "long.csv").write_text(f"heat,note,hue,title\n1,{'y' * 61},red,a\n")
    assert main(["predict", str(tmp_path / "long.csv"), "--dir", str(agent[0])]) == 1
    assert "line 2: note has 61 characters" in capsys.readouterr().err


def test_requests_together_are_answered_like_each_alone(agent: tuple[Path, World]) -> None:
    served = agent[1].service.find("main")
    parts = np.split(pack(CELLS[:6]).astype(np.float32), 6)
    together = served.predict_many(parts)
    for part, prediction in zip(parts, together, strict=True):
        alone = served.predict(part)
        np.testing.assert_allclose(
            prediction.outputs["probabilities"], alone.outputs["probabilities"], atol=1e-6
        )


def test_no_student_is_trained_on_the_code_points_of_a_text() -> None:
    rows = pack(CELLS[:20]).astype(np.float32)
    answers = {"probabilities": MODEL.predict_proba(CELLS[:20])}
    with pytest.raises(ConversionError, match="'note' is a text"):
        distil(SCHEMA_OF_TEXTS, load_profile("camera"), rows, answers, is_of_trees=False)
