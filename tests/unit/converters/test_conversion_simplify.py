"""What no answer depends on leaves a graph; its answers keep every bit, its bytes their hash."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converters.graph import count_operators, parse_model
from converters.normalise import normalise
from converters.runtime import GraphRunner
from device_profiles.catalog import load_profile

Array = NDArray[Any]
CAMERA = load_profile("camera")
ROWS = np.array([[1.0, -2.0], [0.25, 3.0]], np.float32)
ROOT = Path(__file__).parents[3]


def graph_of(nodes: list[Any], constants: dict[str, Array] | None = None) -> ModelProto:
    """Give a graph from ``features`` [N, 2] to ``value`` [N, 2]."""
    graph = helper.make_graph(
        nodes,
        "tried",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(values, name) for name, values in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, outputs, **attributes)


def operators_of(content: bytes) -> dict[str, int]:
    return count_operators(parse_model(content, what="it"))


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        (
            [node("Identity", ["features"], ["a"]), node("Relu", ["a"], ["value"])],
            {"Relu": 1},
        ),
        (
            [node("Relu", ["features"], ["a"]), node("Identity", ["a"], ["value"])],
            {"Relu": 1},
        ),
        (
            [
                node("Relu", ["features"], ["a"]),
                node("Identity", ["a"], ["b"]),
                node("Identity", ["b"], ["value"]),
            ],
            {"Relu": 1},
        ),
        (
            [
                node("Relu", ["features"], ["a"]),
                node("Tanh", ["features"], ["dead"]),
                node("Exp", ["dead"], ["deader"]),
                node("Dropout", ["a"], ["value"]),
            ],
            {"Dropout": 1, "Relu": 1},  # an output's own node stays
        ),
        (
            [
                node("Relu", ["features"], ["a"]),
                node("Dropout", ["a"], ["b"]),
                node("Neg", ["b"], ["value"]),
            ],
            {"Neg": 1, "Relu": 1},
        ),
        (
            [
                node("Cast", ["features"], ["a"], to=TensorProto.DOUBLE),
                node("Cast", ["a"], ["b"], to=TensorProto.DOUBLE),
                node("Cast", ["b"], ["value"], to=TensorProto.FLOAT),
            ],
            {"Cast": 2},
        ),
        ([node("Identity", ["features"], ["value"])], {"Identity": 1}),
    ],
    ids=["before", "after", "twice", "dead", "dropout", "cast", "whole"],
)
def test_what_hands_on_or_is_never_read_goes(nodes: list[Any], left: dict[str, int]) -> None:
    model = graph_of(nodes)
    content = normalise(model, CAMERA)
    assert operators_of(content) == left
    plain = GraphRunner(model.SerializeToString(), CAMERA).run(ROWS)["value"]
    np.testing.assert_array_equal(GraphRunner(content, CAMERA).run(ROWS)["value"], plain)


def test_constants_written_as_nodes_become_initializers_and_equal_shapes_one() -> None:
    flat = numpy_helper.from_array(np.array([-1, 2], np.int64))
    model = graph_of(
        [
            node("Constant", [], ["shape"], value=flat),
            node("Reshape", ["features", "shape"], ["a"]),
            node("Reshape", ["a", "again"], ["value"]),
        ],
        {"again": np.array([-1, 2], np.int64)},
    )
    simple = parse_model(normalise(model, CAMERA), what="it")
    assert count_operators(simple) == {"Reshape": 2}
    assert len(simple.graph.initializer) == 1


def test_equal_weights_stay_apart_for_the_quantizer() -> None:
    model = graph_of(
        [node("MatMul", ["features", "w"], ["a"]), node("MatMul", ["a", "v"], ["value"])],
        {"w": np.eye(2, dtype=np.float32), "v": np.eye(2, dtype=np.float32)},
    )
    assert len(parse_model(normalise(model, CAMERA), what="it").graph.initializer) == 2


def test_a_tensor_read_inside_a_branch_is_read() -> None:
    branch = helper.make_graph(
        [node("Neg", ["alias"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [node("Relu", ["alias"], ["outer"])],
        "other",
        [],
        [helper.make_tensor_value_info("outer", TensorProto.FLOAT, None)],
    )
    model = graph_of(
        [
            node("Tanh", ["features"], ["a"]),
            node("Identity", ["a"], ["alias"]),
            node("If", ["yes"], ["value"], then_branch=branch, else_branch=other),
        ],
        {"yes": np.array(True)},
    )
    content = normalise(model, CAMERA)
    assert operators_of(content) == {"If": 1, "Neg": 1, "Relu": 1, "Tanh": 1}
    got = GraphRunner(content, CAMERA).run(ROWS)["value"]
    np.testing.assert_allclose(got, -np.tanh(ROWS), rtol=1e-6)


BUILD = """
import hashlib, warnings
warnings.simplefilter("ignore")
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from converters.from_sklearn import SklearnSource
from converters.normalise import normalise
from converters.quantize import quantize
from converters.smaller_trees import list_tree_cuts
from device_profiles.profile import Precision
from tests.support.convert import request_of

for model in (RandomForestClassifier(5, random_state=0), MLPClassifier((32,), max_iter=3)):
    model.set_params(random_state=0)
    request = request_of(model, "wine", is_float32=True)
    source = SklearnSource(request.estimator, request.schema.task, is_fed_float32=True)
    fp32 = normalise(source.convert(request.schema, request.profile).model, request.profile)
    made = [fp32]
    for precision in (Precision.INT8_DYNAMIC, Precision.INT8_STATIC):
        made.append(quantize(fp32, precision, request.calibration, request.profile).model or b"")
    cuts = list_tree_cuts(fp32, request.calibration, request.profile)
    made += [cut(0.5) for cut in cuts.values()]
    print(*[hashlib.sha256(one).hexdigest() for one in made])
"""


def test_the_same_input_gives_the_same_bytes_in_any_process() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "77")
    ]
    found = {child.communicate()[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert len(found) == 1
    words = found.pop().split()
    assert hashlib.sha256(b"").hexdigest() in words  # trees have no int8 form
    assert len(set(words)) == 1 + 1 + 3 + 3


def test_nodes_of_the_other_name_of_the_domain_are_simplified_too() -> None:
    model = graph_of([node("Relu", ["features"], ["a"]), node("Identity", ["a"], ["value"])])
    for one in model.graph.node:
        one.domain = "ai.onnx"
    assert operators_of(normalise(model, CAMERA)) == {"Relu": 1}
