"""Models that cannot become packages are refused by name, each with what to do."""

import os
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from converters.errors import ConversionError, InvalidRequestError, UnsupportedEstimatorError
from converters.file_requests import open_source
from converters.from_onnx import OnnxSource
from converters.skops_library import import_skops
from converters.source_files import MODEL_BYTES_MAX, load_estimator, load_package, read_file
from converters.sources import make_source
from converters.tables import read_table
from device_profiles.catalog import load_profile
from tests.support.convert import load_table, schema_of

CAMERA = load_profile("camera")


@pytest.mark.parametrize("name", ["model.onnx", "model.skops", "model.pt2", "model.ubj"])
def test_a_file_beyond_what_protobuf_holds_is_refused_before_it_is_read(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        os.truncate(file.fileno(), 2**31 + 1)
    words = f"2147483649 bytes, the limit is {MODEL_BYTES_MAX}"
    with pytest.raises(InvalidRequestError, match=words):
        read_file(path)


@pytest.mark.parametrize("name", ["graph.onnx", "package.tar", "model.skops"])
def test_a_device_is_no_model_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.symlink_to("/dev/null")
    read = load_package if name.endswith(".tar") else read_file
    with pytest.raises(InvalidRequestError, match="is no regular file"):
        read(path)


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt", "forest.joblib"])
def test_a_pickle_is_refused_with_another_way_to_save(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidRequestError, match=r"runs whatever code it holds; (export|save)"):
        load_estimator(path)


def graph(element: int = TensorProto.FLOAT, **how: Any) -> bytes:
    domain, opset = how.get("domain", ""), how.get("opset", 18)
    node = helper.make_node(how.get("operator", "Identity"), ["features"], ["value"], domain=domain)
    made = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("features", element, ["N", 1])],
        [helper.make_tensor_value_info("value", element, ["N", 1])],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    model = helper.make_model(made, opset_imports=imports, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (graph(TensorProto.BOOL), "input 'features' of the graph is not float32 but bool"),
        (graph(TensorProto.INT64), "input 'features' of the graph is not float32"),
        (graph(domain="com.example", operator="Secret"), "com.example"),
        (graph(opset=99), "opset_max"),
        (b"not a graph", "the source is refused: it is not a sound protobuf message"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        OnnxSource(content, schema_of(1), CAMERA).answer(np.zeros((1, 1)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (MultiOutputRegressor(Ridge()), "answers 2 targets a row, the schema has 1. Name as many"),
        (LinearRegression(), "answers 2 targets a row, the schema has 1. Name as many"),
    ],
)
def test_several_targets_are_refused_with_a_way_out(model: Any, words: str) -> None:
    rows, targets = load_table("diabetes")
    model.fit(rows, np.column_stack([targets, -targets]))
    source = make_source(model, schema_of(10))
    with pytest.raises(UnsupportedEstimatorError, match=words):
        source.convert(schema_of(10), CAMERA, rows.astype(np.float32))


def test_several_labels_without_names_are_refused_with_the_way_out() -> None:
    rows, targets = load_table("wine")
    two = np.column_stack([targets == "barolo", rows[:, 0] > 13]).astype(int)
    model = MultiOutputClassifier(GaussianNB()).fit(rows, two)
    with pytest.raises(UnsupportedEstimatorError, match=r"several labels a row\. Name"):
        make_source(model, schema_of(13, ["0", "1"])).convert(schema_of(13, ["0", "1"]), CAMERA)


def test_a_step_that_predicts_nothing_is_refused_with_a_way_out() -> None:
    rows, _ = load_table("diabetes")
    source = make_source(StandardScaler().fit(rows), schema_of(10))
    with pytest.raises(UnsupportedEstimatorError, match="Put it before a classifier or regressor"):
        source.convert(schema_of(10), CAMERA)


def test_a_file_that_holds_no_estimator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    import_skops().dump({"model": Ridge().fit([[1.0]], [1.0])}, path)
    with pytest.raises(InvalidRequestError, match=r"holds a dict, which is no estimator; save the"):
        load_estimator(path)


def test_an_estimator_of_other_columns_than_the_table_is_refused(tmp_path: Path) -> None:
    path, rows_path = tmp_path / "model.skops", tmp_path / "rows.csv"
    import_skops().dump(Ridge().fit([[1.0, 2.0, 3.0]], [1.0]), path)
    rows_path.write_text("a,b,y\n1,2,3\n")
    table = read_table(rows_path)
    words = r"trained on 3 columns, rows\.csv has 2 besides the target"
    with pytest.raises(InvalidRequestError, match=words):
        open_source(path, table, target="y", name="m", schema=None, profile=CAMERA)


def test_a_model_of_other_columns_than_the_table_is_refused(tmp_path: Path) -> None:
    rows, targets = load_table("diabetes")
    how = {"objective": "regression", "verbosity": -1, "num_threads": 1}
    path = tmp_path / "model.lgb"
    lightgbm.train(how, lightgbm.Dataset(rows, targets), 3).save_model(path)
    rows_path = tmp_path / "rows.csv"
    rows_path.write_text("a,b,y\n1,2,3\n")
    table = read_table(rows_path)
    with pytest.raises(InvalidRequestError, match="takes 10 columns, the table has 2"):
        open_source(path, table, target="y", name="m", schema=None, profile=CAMERA)
