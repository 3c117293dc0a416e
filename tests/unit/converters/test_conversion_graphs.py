"""Normalising graphs and giving them the contract's input and outputs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converters.errors import InvalidRequestError, ProfileMisfitError
from converters.from_onnx import OnnxSource
from converters.graph import ML_DOMAIN, count_operators, find_opset, parse_model, rename_tensor
from converters.interface import finish_classifier
from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.shrink_trees import shrink_trees
from device_profiles.catalog import load_profile
from tests.support.convert import schema_of

CAMERA = load_profile("camera")


def linear_model(
    *,
    opsets: Sequence[tuple[str, int]] = (("", 18),),
    ir: int = 8,
    shape: Sequence[Any] = ("N", 2),
    name: str = "x",
) -> ModelProto:
    """Multiply [N, 2] by a constant into probabilities of three classes."""
    weights = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 1.0]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [name, "w"], ["scores"], doc_string="why"),
            helper.make_node("Softmax", ["scores"], ["p"], axis=1),
        ],
        "exported at noon",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets], ir_version=ir
    )
    model.producer_name = "some exporter"
    model.doc_string = "made at noon"
    helper.set_model_props(model, {"time": "noon"})
    return model


def imports(content: bytes) -> list[tuple[str, int]]:
    model = parse_model(content, what="the result")
    return [(entry.domain, entry.version) for entry in model.opset_import]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([("", 18), ("", 18)], [("", 18)]),
        ([("ai.onnx.ml", 1), ("", 18), ("", 18)], [("", 18)]),
        ([("", 13), ("ai.onnx", 18)], [("", 18)]),
        ([("", 17), ("com.microsoft", 1)], [("", 17)]),
    ],
)
def test_each_domain_is_imported_once(
    written: list[tuple[str, int]], expected: list[tuple[str, int]]
) -> None:
    assert imports(normalise(linear_model(opsets=written), CAMERA)) == expected


def test_nothing_that_differs_between_exports_is_left() -> None:
    first = linear_model()
    second = linear_model()
    second.producer_version = "2"
    second.doc_string = "made at one"
    second.graph.name = "exported at one"
    helper.set_model_props(second, {"time": "one"})
    content = normalise(first, CAMERA)
    assert content == normalise(second, CAMERA)
    assert b"noon" not in content
    assert b"some exporter" not in content


def test_constants_that_nothing_reads_are_left_out() -> None:
    model = linear_model()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "4c0f-random"))
    assert normalise(model, CAMERA) == normalise(linear_model(), CAMERA)


def test_names_drawn_at_random_are_replaced() -> None:
    first, second = linear_model(), linear_model()
    rename_tensor(second, "scores", "4c0f-random")
    second.graph.node[0].name = "a90e-random"
    assert normalise(first, CAMERA) == normalise(second, CAMERA)


def test_normalising_twice_changes_nothing_and_leaves_the_source_alone() -> None:
    model = linear_model()
    before = model.SerializeToString()
    once = normalise(model, CAMERA)
    assert normalise(parse_model(once, what="it"), CAMERA) == once
    assert model.SerializeToString() == before


def test_a_newer_file_format_is_written_as_the_oldest_that_will_do() -> None:
    content = normalise(linear_model(ir=13), CAMERA)
    assert parse_model(content, what="it").ir_version == 8


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (linear_model(opsets=[("", CAMERA.opset_max + 1)], ir=10), "opset_max"),
        (linear_model(opsets=[("", 23)], ir=11), "opset_max"),
    ],
)
def test_a_graph_beyond_the_profile_is_refused_with_need_and_have(
    model: ModelProto, field: str
) -> None:
    with pytest.raises(ProfileMisfitError, match="does not fit profile camera") as caught:
        normalise(model, CAMERA)
    assert field in [misfit.field for misfit in caught.value.misfits]


def test_a_file_format_the_profile_lacks_is_refused() -> None:
    with pytest.raises(ProfileMisfitError, match="ir_max: needs 8, has at most 7"):
        normalise(linear_model(), replace(CAMERA, ir_max=7))


def test_custom_operators_are_refused() -> None:
    model = linear_model(opsets=[("", 18), ("com.acme", 1)])
    model.graph.node[1].domain = "com.acme"
    with pytest.raises(InvalidRequestError, match=r"operators of com\.acme"):
        normalise(model, CAMERA)


def test_weights_in_another_file_are_refused() -> None:
    model = linear_model()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(InvalidRequestError, match="'w' lies in another file"):
        normalise(model, CAMERA)


def test_an_unsound_graph_is_refused() -> None:
    model = linear_model()
    model.graph.node[1].input[0] = "nobody"
    with pytest.raises(InvalidRequestError, match="not sound"):
        normalise(model, CAMERA)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_what_is_not_a_graph_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="the file is not an ONNX model"):
        parse_model(content, what="the file")


def test_a_foreign_graph_gets_the_contracts_tensors() -> None:
    schema = schema_of(2, ["a", "b", "c"])
    source = OnnxSource(linear_model().SerializeToString(), schema, CAMERA)
    outputs = source.answer(np.array([[3.0, 0.0], [0.0, 3.0]]))
    assert list(outputs) == ["label", "probabilities"]
    assert outputs["label"].tolist() == [0, 1]
    assert outputs["label"].dtype == np.int64
    assert source.index_targets(np.array([2, 0])).tolist() == [2, 0]
    with pytest.raises(InvalidRequestError, match="class indexes from 0 to 2"):
        source.index_targets(np.array([3]))


@pytest.mark.parametrize(
    ("model", "width", "classes", "words"),
    [
        (linear_model(shape=("N", 3)), 2, 3, r"shape \['N', 3\]"),
        (linear_model(shape=(1, 2)), 2, 3, r"shape \[1, 2\]"),
        (linear_model(), 3, 3, r"the schema needs \['N', 3\]"),
        (linear_model(), 2, 4, "a column for each of the 4 classes"),
        (linear_model(), 2, 0, "answers 3 numbers a row and the schema one; name 3 targets"),
    ],
)
def test_a_graph_of_another_shape_is_refused(
    model: ModelProto, width: int, classes: int, words: str
) -> None:
    schema = schema_of(width, [str(n) for n in range(classes)])
    with pytest.raises(InvalidRequestError, match=words):
        OnnxSource(model.SerializeToString(), schema, CAMERA)


@pytest.mark.parametrize(
    "classes", [["no", "yes", "maybe"], [3, 1, 2], [-1, 0, 7], [0, 1, 2]], ids=str
)
def test_labels_become_indexes_inside_the_graph(classes: list[Any]) -> None:
    model = linear_model(name="features")
    values = np.array(classes) if isinstance(classes[0], int) else np.array(classes, object)
    if isinstance(classes[0], str):
        model.graph.initializer.append(helper.make_tensor("c", TensorProto.STRING, [3], classes))
    else:
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.int64), "c"))
    model.graph.node.extend(
        [
            helper.make_node("ArgMax", ["p"], ["place"], axis=1, keepdims=0),
            helper.make_node("Gather", ["c", "place"], ["label"]),
        ]
    )
    finish_classifier(model, "label", "p", classes)
    answers = GraphRunner(normalise(model, CAMERA), CAMERA).run(
        np.array([[3.0, 0.0], [0.0, 3.0], [-3.0, 0.0]], np.float32)
    )
    assert answers["label"].tolist() == [0, 1, 2]
    assert answers["probabilities"].shape == (3, 3)


def test_a_renamed_tensor_makes_room_for_itself() -> None:
    model = linear_model()
    rename_tensor(model, "p", "scores")
    assert [value.name for value in model.graph.output] == ["scores"]
    assert model.graph.node[0].output[0] == "scores_inner"
    onnx.checker.check_model(model)


def test_trees_shrink_and_answer_the_same_bits() -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_wine
    from sklearn.ensemble import RandomForestClassifier

    rows, targets = load_wine(return_X_y=True)
    rows = rows.astype(np.float32)
    forest = RandomForestClassifier(30, max_depth=3, random_state=0).fit(rows, targets)
    model = to_onnx(
        forest, rows[:1], options={"zipmap": False}, target_opset={"": 18, ML_DOMAIN: 3}
    )
    rename_tensor(model, model.graph.input[0].name, "features")
    plain = normalise(model, CAMERA)
    shrink_trees(model)
    small = normalise(model, CAMERA)
    assert len(small) < 0.8 * len(plain)
    expected, got = GraphRunner(plain, CAMERA).run(rows), GraphRunner(small, CAMERA).run(rows)
    np.testing.assert_array_equal(got["probabilities"], expected["probabilities"])
    np.testing.assert_array_equal(got["label"], expected["label"])


def test_operators_are_counted_with_their_domain() -> None:
    model = linear_model()
    assert count_operators(model) == {"MatMul": 1, "Softmax": 1}
    assert find_opset(model, "") == 18
    assert find_opset(model, ML_DOMAIN) == 0
