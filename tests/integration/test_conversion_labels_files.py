"""Several labels from files: a table and its columns, graphs and networks that answer them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from typer.testing import CliRunner, Result

from converters.cli import app
from converters.errors import InvalidRequestError
from converters.onnx_graph import OnnxGraph
from converters.skops_library import import_skops
from device_profiles.catalog import load_profile
from edge_agent.contract.package import MODEL, SCHEMA, unpack_members
from edge_agent.contract.schema import ModelSchema, NamedLabel
from tests.support.convert import fit_quietly
from tests.support.labels import labels_schema, load_flowers

ROWS, ANSWERS = load_flowers()
FLAGS = np.column_stack([ANSWERS[:, 0] == "setosa", ANSWERS[:, 1] == "yes"]).astype(int)
CAMERA = load_profile("camera")
ALL = (
    NamedLabel(name="kind", classes=("setosa", "versicolor", "virginica")),
    NamedLabel(name="broad", classes=("no", "yes")),
)
TWO = tuple(NamedLabel(name=name, classes=("0", "1")) for name in ("a", "b"))


def graph_of(columns: int, *, has_labels: int = 0, seed: int = 0) -> bytes:
    """Give a graph of 3 numbers to ``columns`` sigmoids, and labels where they are wanted."""
    weights = np.random.default_rng(seed).normal(size=(3, columns)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["probabilities"]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", columns])]
    constants = [numpy_helper.from_array(weights, "w")]
    if has_labels:
        constants.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
        nodes += [
            helper.make_node("Greater", ["probabilities", "half"], ["hit"]),
            helper.make_node("Cast", ["hit"], ["label"], to=TensorProto.INT64),
        ]
        shape: list[str | int | None] = ["n", has_labels]
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, shape))
    features = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "g", [features], outputs, constants)
    opsets = [helper.make_opsetid("", 13)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def answer(content: bytes, labels: tuple[NamedLabel, ...]) -> dict[str, Any]:
    return OnnxGraph(content, labels_schema(labels, 3), CAMERA).answer(ROWS)


def test_a_column_a_label_of_two_classes_is_the_second_of_them() -> None:
    for content in (graph_of(2), graph_of(2, has_labels=2)):
        got = answer(content, TWO)
        assert got["probabilities"].shape == (len(ROWS), 4)
        np.testing.assert_allclose(got["probabilities"][:, ::2], 1 - got["probabilities"][:, 1::2])
        np.testing.assert_array_equal(got["label"], got["probabilities"][:, 1::2] > 0.5)


def test_a_column_a_class_is_split_by_label() -> None:
    got = answer(graph_of(5), ALL)
    assert got["probabilities"].shape == (len(ROWS), 5)
    np.testing.assert_array_equal(got["label"][:, 0], got["probabilities"][:, :3].argmax(axis=1))
    np.testing.assert_array_equal(got["label"][:, 1], got["probabilities"][:, 3:].argmax(axis=1))


@pytest.mark.parametrize(
    ("content", "labels", "words"),
    [
        (graph_of(4), ALL, "2 labels of 5 classes need a column for each class"),
        (graph_of(2), ALL, "or one for the second class of each label where all have two"),
        (graph_of(4, has_labels=4), TWO, "needs a column for each of 2 labels"),
    ],
)
def test_a_graph_of_other_columns_is_refused(
    content: bytes, labels: tuple[NamedLabel, ...], words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        answer(content, labels)
    with pytest.raises(InvalidRequestError, match=r"class indexes from 0 to 1"):
        OnnxGraph(graph_of(2), labels_schema(TWO, 3), CAMERA).index_targets(np.array([[0, 2]]))


@pytest.mark.parametrize(("columns", "is_softmax"), [(2, False), (5, True)])
def test_a_network_answers_labels_from_logits_or_probabilities(
    columns: int, *, is_softmax: bool
) -> None:
    torch = pytest.importorskip("torch")
    from converters.sources import make_source

    torch.manual_seed(0)
    labels = TWO if columns == 2 else ALL
    last: list[Any] = []
    if is_softmax:

        class Shares(torch.nn.Module):  # type: ignore[misc,name-defined]  # torch may be absent
            def forward(self, x: Any) -> Any:
                return torch.cat([x[:, :3].softmax(1), x[:, 3:].softmax(1)], 1)

        last = [Shares()]
    network = torch.nn.Sequential(torch.nn.Linear(3, columns), *last)
    source = make_source(network, labels_schema(labels, 3))
    rows = ROWS.astype(np.float32)
    done = source.convert(labels_schema(labels, 3), CAMERA, rows)
    assert done.tries[-1].is_exact
    raw = torch.nn.Sequential(*network[:1])(torch.from_numpy(rows)).detach().numpy()
    first = 1 / (1 + np.exp(-raw[:, 0])) if columns == 2 else np.exp(raw[:, 0])
    first = first if columns == 2 else first / np.exp(raw[:, :3]).sum(axis=1)
    place = 1 if columns == 2 else 0
    np.testing.assert_allclose(source.answer(rows)["probabilities"][:, place], first, atol=1e-5)


# Files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("desk")
    with (home / "iris.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x0", "x1", "x2", "kind", "broad"])
        writer.writerows([*map(str, row), *own] for row, own in zip(ROWS, ANSWERS, strict=True))
    with (home / "flags.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x0", "x1", "x2", "a", "b"])
        writer.writerows([*map(str, row), *own] for row, own in zip(ROWS, FLAGS, strict=True))
    model = fit_quietly(MultiOutputClassifier(LogisticRegression(max_iter=200)), ROWS, ANSWERS)
    import_skops().dump(model, home / "iris.skops")
    (home / "flags.onnx").write_bytes(graph_of(2))
    return home


def run(home: Path, model: str, rows: str, target: str, *more: str) -> Result:
    words = ["run", str(home / model), "--rows", str(home / rows), "--profile", "camera"]
    words += ["--target", target, "--out", str(home / "made.tar"), *more]
    return CliRunner().invoke(app, words)


def test_columns_name_the_labels_of_an_estimator(desk: Path) -> None:
    done = run(desk, "iris.skops", "iris.csv", "kind,broad", "--json")
    assert done.exit_code == 0, done.output
    members = unpack_members((desk / "made.tar").read_bytes())
    schema = ModelSchema.decode(members[SCHEMA])
    assert schema.labels == ALL
    assert json.loads(done.stdout)["metric"]["labels"].keys() == {"kind", "broad"}
    (desk / "made.onnx").write_bytes(members[MODEL])
    words = ["inspect", str(desk / "made.tar"), "--json"]
    told = json.loads(CliRunner().invoke(app, words).stdout)
    assert told["labels"] == {label.name: list(label.classes) for label in ALL}
    compared = CliRunner().invoke(
        app,
        [
            *("parity", str(desk / "iris.skops"), str(desk / "made.onnx")),
            *("--rows", str(desk / "iris.csv"), "--target", "kind, broad"),
        ],
    )
    assert compared.exit_code == 0, compared.output
    assert "150 rows, 0 labels differ" in compared.stdout
    assert all(name in compared.stdout for name in ("kind", "broad"))


def test_a_flag_says_that_the_targets_of_a_graph_are_labels(desk: Path) -> None:
    done = run(desk, "flags.onnx", "flags.csv", "a,b", "--labels", "--json")
    assert done.exit_code == 0, done.output
    members = unpack_members((desk / "made.tar").read_bytes())
    assert ModelSchema.decode(members[SCHEMA]).labels == TWO
    done = run(desk, "flags.onnx", "flags.csv", "a,b", "--json")
    assert done.exit_code == 0, done.output  # as numbers, as before
    members = unpack_members((desk / "made.tar").read_bytes())
    assert ModelSchema.decode(members[SCHEMA]).targets == ("a", "b")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("kind", "answers 2 labels a row and --target names 1 columns"),
        ("kind,broad,x0", "answers 2 labels a row and --target names 3 columns"),
        ("broad,kind", "column 'broad' holds 'no', which is no class of that label: setosa"),
    ],
)
def test_columns_that_are_not_the_labels_are_refused(desk: Path, target: str, words: str) -> None:
    done = run(desk, "iris.skops", "iris.csv", target)
    assert done.exit_code == 1
    assert words in " ".join(done.output.split())
