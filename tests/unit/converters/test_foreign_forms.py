"""ONNX files of other tools: maps, texts and other types of numbers become the plain form."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from converters.foreign_forms import straighten
from converters.onnx_graph import OnnxGraph
from device_profiles.catalog import load_profile
from tests.support.convert import fit_quietly, load_table, schema_of

Array = NDArray[Any]
ROWS, NAMES = load_table("wine")
ROWS = ROWS / ROWS.max(axis=0)


def export(targets: Array, *, kind: str = "FloatTensorType", **options: Any) -> tuple[Any, bytes]:
    from skl2onnx import convert_sklearn
    from skl2onnx.common import data_types

    model = fit_quietly(LogisticRegression(), ROWS, targets)
    tensor = getattr(data_types, kind)([None, 13])
    made = convert_sklearn(
        model, initial_types=[("X", tensor)], target_opset=18, options=options or None
    )
    return model, bytes(made.SerializeToString())


@pytest.mark.parametrize("kind", ["FloatTensorType", "DoubleTensorType"])
@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("labels", ["texts", "indexes", "numbers"])
def test_a_classifier_of_sklearn_onnx_answers_as_its_source(
    labels: str, zipmap: bool, kind: str
) -> None:
    indexes = np.unique(NAMES, return_inverse=True)[1]
    targets = {"texts": NAMES, "indexes": indexes, "numbers": indexes * 2 + 3}[labels]
    if labels == "numbers" and not zipmap:
        pytest.skip("nothing in the graph says that its labels are no indexes")
    model, content = export(targets, kind=kind, zipmap=zipmap)
    classes = straighten(ModelProto.FromString(content))
    wanted = [str(one) for one in model.classes_]
    assert list(classes) == (wanted if zipmap or labels == "texts" else [])
    graph = OnnxGraph(content, schema_of(13, wanted), load_profile("camera"))
    got = graph.answer(ROWS)
    assert got["probabilities"] == pytest.approx(model.predict_proba(ROWS), abs=1e-5)
    assert [wanted[place] for place in got["label"]] == [str(one) for one in model.predict(ROWS)]


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_are_cast_and_whole_labels_widened(element: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weights = numpy_helper.from_array(np.eye(3).astype(dtype), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("ArgMax", ["z"], ["n"], axis=1, keepdims=0),
        helper.make_node("Cast", ["n"], ["l"], to=TensorProto.INT32),
    ]
    outputs = [
        helper.make_tensor_value_info("l", TensorProto.INT32, ["N"]),
        helper.make_tensor_value_info("p", element, ["N", 3]),
    ]
    inputs = [helper.make_tensor_value_info("x", element, ["N", 3])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    source = OnnxGraph(
        model.SerializeToString(), schema_of(3, ["a", "b", "c"]), load_profile("camera")
    )
    got = source.answer(np.eye(3, dtype=np.float32)[[2, 0]])
    assert got["label"].tolist() == [2, 0]
    assert got["probabilities"].dtype == np.float32
