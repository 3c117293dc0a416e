"""Categories, booleans and missing values reach the graph as their codes, or are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from edge_agent.cli import main
from edge_agent.client import connect
from edge_agent.contract.schema import Feature
from edge_agent.errors import InputError
from tests.support.edges import agent_directory
from tests.support.serving import build_classifier, graph_bytes
from tests.support.serving_http import World

HUES = ("red", "green", "blue", "7")
FEATURES = (
    Feature(name="heat", low=-40, high=125, unit="degC", is_nullable=True),
    Feature(name="hue", dtype="category", categories=HUES, is_nullable=True, is_open=True),
    Feature(name="size", dtype="category", categories=("small", "large")),
    Feature(name="door", dtype="bool"),
    Feature(name="count", dtype="int64"),
)
WIDTH = 5


def _graph() -> bytes:
    """Answer three probabilities that tell the packed row: a sum that sees NaN as -9."""
    weights = np.array([[1, 0, 0], [10, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]], np.float32)
    return graph_bytes(
        [
            helper.make_node("IsNaN", ["features"], ["gone"]),
            helper.make_node("Where", ["gone", "nine", "features"], ["filled"]),
            helper.make_node("MatMul", ["filled", "w"], ["probabilities"]),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        width=WIDTH,
        constants={"w": weights, "nine": np.array(-9, np.float32)},
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3]),
        ],
    )


BUILT = build_classifier(features=FEATURES, model=_graph())
ROW = {"heat": 2.5, "hue": "blue", "size": "large", "door": True, "count": 4}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("typed")
    with agent_directory(directory, BUILT) as world:
        yield directory, world


def _ask(world: World, **change: object) -> tuple[int, Any]:
    row = {name: value for name, value in (ROW | change).items() if value != "left out"}
    return world.ask("/v1/models/main/predict", {"rows": [row]})


@pytest.mark.parametrize(
    ("change", "packed"),
    [
        ({}, (22.5, 3, 4)),
        ({"hue": "red", "door": False}, (2.5, 1, 4)),
        ({"hue": "purple"}, (-7.5, 3, 4)),
        ({"hue": 7}, (32.5, 3, 4)),
        ({"hue": None}, (-87.5, 3, 4)),
        ({"hue": "left out", "heat": "left out"}, (-99, 3, 4)),
        ({"heat": None}, (11, 3, 4)),
        ({"door": "true", "size": " small "}, (22.5, 2, 4)),
        ({"door": 0}, (22.5, 1, 4)),
    ],
)
def test_a_row_by_name_becomes_its_codes(
    agent: tuple[Path, World], change: dict[str, object], packed: tuple[float, ...]
) -> None:
    status, answer = _ask(agent[1], **change)
    assert status == 200, answer
    (row,) = answer["predictions"]
    assert list(row["probabilities"].values()) == pytest.approx(packed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "lage"}, "row 0: field size is 'lage', it takes one of 'small', 'large'; did"),
        ({"size": None}, "row 0: field size is missing, it takes one of 'small', 'large'"),
        ({"size": "left out"}, "row 0: field size is missing, it takes one of 'small', 'large'"),
        ({"size": ["small"]}, "row 0: field size is a list, it takes one of"),
        ({"door": "ajar"}, "row 0: field door is 'ajar', it takes true or false"),
        ({"door": 2}, "row 0: field door is 2, it takes true or false"),
        ({"door": None}, "row 0: field door is missing, it takes true or false"),
        ({"heat": "warm"}, 'field heat is "warm", it takes a number from -40 to 125 degC, or null'),
        ({"heat": 400}, "row 0: heat is 400, allowed is -40 to 125"),
        ({"count": None}, "row 0: field count is null, it takes a whole number"),
        ({"count": 1.5}, "row 0: field count is 1.5, it takes a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_by_field_value_and_what_is_allowed(
    agent: tuple[Path, World], change: dict[str, object], words: str
) -> None:
    status, answer = _ask(agent[1], **change)
    assert status == 400
    assert words in str(answer["error"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1, 4, 0, 0, 0], "row 0: hue is code 4, it takes a whole number from -1 to 3"),
        ([1, -2, 0, 0, 0], "hue is code -2"),
        ([1, 1.5, 0, 0, 0], "hue is code 1.5"),
        ([1, 1, -1, 0, 0], "size is code -1, it takes a whole number from 0 to 1"),
        ([1, 1, np.nan, 0, 0], "size is missing, it takes one of 'small', 'large'"),
        ([1, 1, 0, 0.5, 0], "door is code 0.5"),
        ([1, 1, 0, 0, np.nan], "count is missing, it takes a whole number"),
        ([np.inf, 1, 0, 0, 0], "heat is inf"),
    ],
)
def test_codes_in_a_tensor_are_checked_too(
    agent: tuple[Path, World], row: list[float], words: str
) -> None:
    with connect(agent[0]) as client, pytest.raises(InputError, match=words):
        client.predict(np.array([row], np.float32))


def test_a_tensor_says_missing_by_nan_and_unknown_by_minus_one(agent: tuple[Path, World]) -> None:
    rows = np.array([[np.nan, -1, 1, 0, 2], [1, np.nan, 0, 1, 0]], np.float32)
    with connect(agent[0]) as client:
        answer = client.predict(rows)
    np.testing.assert_allclose(answer.outputs["probabilities"], [[-19, 1, 2], [-89, 2, 0]])


def test_the_metadata_tell_categories_to_both_kinds_of_callers(agent: tuple[Path, World]) -> None:
    _, named = agent[1].ask("/v1/models/main")
    hue = next(field for field in named["fields"] if field["name"] == "hue")
    assert (hue["dtype"], hue["categories"]) == ("category", list(HUES))
    assert (hue["missing"], hue["unknown"]) == (True, True)
    _, tensors = agent[1].ask("/v2/models/main")
    fields = tensors["inputs"][0]["parameters"]["fields"]
    assert [field["dtype"] for field in fields] == [
        "float32", "category", "category", "bool", "int64",
    ]  # fmt: skip


def test_a_csv_and_a_parquet_file_of_texts_are_answered_alike(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table: dict[str, list[Any]] = {
        "size": ["small", "large", "large"],
        "hue": ["purple", None, "blue"],
        "heat": [1.0, None, 3.5],
        "door": [True, False, True],
        "count": [1, 2, 3],
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    lines = [
        ",".join("" if cell is None else str(cell) for cell in row)
        for row in [tuple(table), *zip(*table.values(), strict=True)]
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    answers: list[Any] = []
    for name in ("rows.csv", "rows.parquet"):
        assert main(["predict", str(tmp_path / name), "--dir", str(agent[0])]) == 0
        out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        answers.append([row["probabilities"] for row in out])
    assert answers[0] == answers[1]
    np.testing.assert_allclose(
        np.array(answers[0]), np.array([[-9, 2, 1], [-99, 1, 2], [23.5, 3, 3]])
    )


def test_a_wrong_cell_of_a_file_is_told_with_its_place(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("heat,hue,size,door,count\n1,red,huge,true,1\n")
    assert main(["predict", str(tmp_path / "a.csv"), "--dir", str(agent[0])]) == 1
    assert "line 2: size is 'huge', it takes one of 'small', 'large'" in capsys.readouterr().err
