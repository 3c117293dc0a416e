"""Models in files of LightGBM, XGBoost and PyTorch are read in a child and become packages."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from typer.testing import CliRunner

from converters.cli import app
from converters.errors import InvalidRequestError
from converters.from_file import FileKind, describe_model
from converters.pt2_check import clean_program
from edge_agent.contract.package import SCHEMA, unpack_members
from edge_agent.contract.schema import ModelSchema
from tests.support.convert import load_table

COLUMNS = [f"c{n}" for n in range(13)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, targets = load_table("wine")
    indexes = np.unique(targets, return_inverse=True)[1]
    path = tmp_path_factory.mktemp("rows") / "wine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "kind"])
        writer.writerows([*row, index] for row, index in zip(rows, indexes, strict=True))
    return path


def wine() -> tuple[Any, Any]:
    rows, targets = load_table("wine")
    return rows.astype(np.float32), np.unique(targets, return_inverse=True)[1]


def write_lightgbm(path: Path) -> None:
    rows, targets = wine()
    how = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    lightgbm.train(how, lightgbm.Dataset(rows, targets), 6).save_model(path)


def write_xgboost(path: Path) -> None:
    rows, targets = wine()
    how = {"objective": "multi:softprob", "num_class": 3, "nthread": 1}
    matrix = xgboost.DMatrix(rows, targets, feature_names=COLUMNS)
    xgboost.train(how, matrix, 6).save_model(path)


def write_torch(path: Path) -> None:
    torch = pytest.importorskip("torch")
    rows = {0: torch.export.Dim("rows")}
    module = torch.nn.Sequential(torch.nn.Linear(13, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    program = torch.export.export(module.eval(), (torch.zeros(3, 13),), dynamic_shapes=(rows,))
    torch.export.save(program, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.lgb", write_lightgbm),
        ("model.ubj", write_xgboost),
        ("model.pt2", write_torch),
    ],
)
def test_a_model_file_becomes_a_package(
    name: str, write: Callable[[Path], None], table: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / name, tmp_path / "wine.tar"
    write(model)
    ran = CliRunner().invoke(
        app,
        [
            *("run", str(model), "--rows", str(table), "--target", "kind", "--effort", "brief"),
            *("--profile", "camera", "--out", str(out), "--json"),
        ],
    )
    assert ran.exit_code == 0, ran.output
    schema = ModelSchema.decode(unpack_members(out.read_bytes())[SCHEMA])
    assert (schema.width, schema.classes) == (13, ("0", "1", "2"))
    assert list(schema.columns) == COLUMNS


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (FileKind.LIGHTGBM, b"forest\nversion=v4\n", "does not begin as LightGBM"),
        (FileKind.LIGHTGBM, b"tree\nversion=v4\nnum_class=3\n", "lightgbm does not read the file"),
        (FileKind.XGBOOST, b"binf", "neither JSON nor UBJSON"),
        (FileKind.XGBOOST, b'{"learner": 1}', "xgboost does not read the file"),
        (FileKind.TORCH, b"PK\x05\x06" + bytes(18), "was not written by torch.export.save"),
    ],
)
def test_a_damaged_model_file_is_refused(kind: FileKind, content: bytes, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        describe_model(content, kind)


def program_file(**changes: Any) -> bytes:
    """A program as torch.export writes them, by hand; changes name members and their content."""
    node = {"target": "torch.ops.aten.relu.default", "inputs": [], "outputs": [], "metadata": {}}
    graph = {"inputs": [], "outputs": [], "nodes": [node], "custom_obj_values": {}}
    module = {
        "graph": graph,
        "signature": {},
        "module_call_graph": [],
        "metadata": {"made": "by hand"},
        "treespec_namedtuple_fields": {},
    }
    members: dict[str, Any] = {
        "archive_format": b"pt2",
        "models/model.json": {"graph_module": module, "guards_code": ["print(1)"]},
        "data/weights/model_weights_config.json": {"config": {}},
        "data/constants/model_constants_config.json": {"config": {}},
        "data/sample_inputs/model.pt": b"a pickle",
    }
    for name, content in changes.items():
        if callable(content):
            content(members[name])
        else:
            members[name] = content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            is_bytes = isinstance(content, bytes)
            archive.writestr(f"m/{name}", content if is_bytes else json.dumps(content))
    return buffer.getvalue()


def node_of(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"][0]


def test_what_could_run_is_left_out_of_a_program() -> None:
    with zipfile.ZipFile(io.BytesIO(clean_program(program_file()))) as archive:
        assert archive.read("m/data/sample_inputs/model.pt") == b""
        assert json.loads(archive.read("m/models/model.json"))["guards_code"] == []


PICKLED = {"config": {"w": {"path_name": "weight_0", "use_pickle": True, "tensor_meta": {}}}}
OBJECT = {
    "config": {"w": {"path_name": "opaque_obj_0", "use_pickle": False, "tensor_meta": {"dtype": 7}}}
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models/model.json": lambda d: node_of(d).update(target="torch.os.system")}, "operator"),
        (
            {"models/model.json": lambda d: node_of(d).update(target="torch.ops.mine.run.default")},
            "none of torch.ops.aten",
        ),
        ({"models/model.json": lambda d: node_of(d).update(arg={"as_operator": "math.exp"})}, "op"),
        (
            {"models/model.json": lambda d: d.update(expr_str="__import__('os').system('id')")},
            "no arithmetic",
        ),
        ({"models/model.json": lambda d: node_of(d).update(name="x):\n import os")}, "plain name"),
        (
            {"models/model.json": lambda d: d.update(in_spec='[1, {"type": "os.PathLike"}]')},
            "needs plain tensors",
        ),
        ({"data/weights/model_weights_config.json": PICKLED}, "pickles are never read"),
        ({"data/constants/model_constants_config.json": OBJECT}, "no plain tensor"),
        ({"data/weights/model.pt": b"a pickle"}, "none of a plain program"),
        ({"extra/notes": b"hello"}, "none of a plain program"),
    ],
)
def test_a_program_that_holds_code_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        clean_program(program_file(**changes))
