"""What a device and a builder refuse of an ONNX file before any runtime sees it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    StringStringEntryProto,
    TensorProto,
    TrainingInfoProto,
    helper,
    numpy_helper,
)

from edge_agent.contract.errors import ContractError, MalformedError, TooLargeError
from edge_agent.contract.onnx_check import OnnxLimits, check_onnx
from edge_agent.contract.onnx_growth import count_implied
from tests.support.serving import classifier_graph

WEIGHTS = np.ones((4, 3), np.float32)


def model_of(*nodes: NodeProto, constants: tuple[TensorProto, ...] = ()) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return model


def node(operator: str, *inputs: str, **attributes: Any) -> NodeProto:
    made: NodeProto = helper.make_node(operator, list(inputs), ["y"], **attributes)
    return made


def plain() -> ModelProto:
    return model_of(node("Identity", "x"))


def numbers(name: str, *values: int) -> TensorProto:
    made: TensorProto = numpy_helper.from_array(np.array(values, np.int64), name)
    return made


def typed(kind: int, dims: list[int], **data: Any) -> ModelProto:
    return model_of(
        node("Identity", "x"),
        constants=(TensorProto(name="w", data_type=kind, dims=dims, **data),),
    )


def nested(depth: int) -> ModelProto:
    inner = helper.make_graph([node("Identity", "x")], "g", [], [])
    for _ in range(depth):
        inner = helper.make_graph(
            [node("If", "c", then_branch=inner, else_branch=inner)], "g", [], []
        )
    return model_of(*inner.node)


def sparse_model() -> ModelProto:
    model = plain()
    model.graph.sparse_initializer.append(
        SparseTensorProto(
            values=numpy_helper.from_array(np.ones(1, np.float32), "w"),
            indices=numbers("", 0),
            dims=[10**6, 10**6],
        )
    )
    return model


def external() -> ModelProto:
    model = typed(TensorProto.FLOAT, [1])
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(StringStringEntryProto(key="location", value="/etc/passwd"))
    return model


def external_by_key_only() -> ModelProto:
    model = typed(TensorProto.FLOAT, [1], float_data=[1.0])
    model.graph.initializer[0].external_data.append(
        StringStringEntryProto(key="location", value="w.bin")
    )
    return model


def external_inside_an_attribute() -> ModelProto:
    return model_of(node("Constant", value=external().graph.initializer[0]))


def with_function() -> ModelProto:
    model = plain()
    model.functions.append(
        helper.make_function("", "Twice", ["a"], ["b"], [node("Identity", "a")], [])
    )
    return model


def with_training() -> ModelProto:
    model = plain()
    model.training_info.append(TrainingInfoProto())
    return model


def two_domains() -> ModelProto:
    return model_of(helper.make_node("Exec", ["x"], ["y"], domain="evil"))


def microsoft() -> ModelProto:
    return model_of(helper.make_node("QLinearAdd", ["x"], ["y"], domain="com.microsoft"))


def hidden_domain() -> ModelProto:
    inner = helper.make_graph([helper.make_node("Exec", [], ["y"], domain="evil")], "g", [], [])
    return model_of(node("If", "c", then_branch=inner, else_branch=inner))


def opaque() -> ModelProto:
    model = plain()
    # TypeProto.Opaque is not in this library's protobuf; field 7 of the type, written by hand.
    model.graph.value_info.add().MergeFromString(b"\x0a\x01v\x12\x02\x3a\x00")
    return model


def deep_type() -> ModelProto:
    model = plain()
    inner = model.graph.value_info.add(name="v").type
    for _ in range(12):
        inner = inner.sequence_type.elem_type
    inner.tensor_type.elem_type = 1
    return model


REFUSED: list[tuple[Callable[[], ModelProto], str]] = [
    (external, "constant 'w' lies in another file"),
    (external_by_key_only, "constant 'w' lies in another file"),
    (external_inside_an_attribute, "lies in another file"),
    (lambda: typed(TensorProto.FLOAT, [2], raw_data=b"1234"), "has 4 bytes where .* needs 8"),
    (lambda: typed(TensorProto.FLOAT, [10**5, 10**4]), "has 0 numbers where .* needs 1000000000"),
    (lambda: typed(TensorProto.INT64, [3], int64_data=[1, 300]), "has 2 numbers .* needs 3"),
    (lambda: typed(TensorProto.STRING, [2], string_data=[b"a"]), "has 1 numbers .* needs 2"),
    (lambda: typed(TensorProto.FLOAT, [-1]), r"negative size in \[-1\]"),
    (lambda: typed(TensorProto.FLOAT, [1] * 33, float_data=[1.0]), "more than 32 dimensions"),
    (lambda: typed(99, [0]), "unknown type 99"),
    (
        lambda: typed(TensorProto.FLOAT, [1], float_data=[1.0], raw_data=b"1234"),
        "written in two ways",
    ),
    (
        lambda: typed(TensorProto.FLOAT, [1], float_data=[1.0], int32_data=[1]),
        "has 1 numbers where",
    ),
    (sparse_model, "a sparse constant' of 1,000,000,000,000 numbers"),
    (two_domains, "Exec of domain 'evil'"),
    (microsoft, "QLinearAdd of domain 'com.microsoft'"),
    (hidden_domain, "Exec of domain 'evil'"),
    (lambda: model_of(NodeProto(op_type="../x", output=["y"])), "no operator name but '../x'"),
    (lambda: model_of(NodeProto(output=["y"])), "no operator name"),
    (
        lambda: model_of(NodeProto(op_type="Identity", overload="o", output=["y"])),
        "calls an overload of Identity",
    ),
    (with_function, "a model-local function is there"),
    (with_training, "training information is there"),
    (lambda: nested(5), "operator If nests graphs deeper than 4"),
    (lambda: model_of(*[nested(1).graph.node[0]] * 130), "inner graphs above 256"),
    (opaque, "opaque type"),
    (deep_type, "a type nests deeper than 8"),
    (
        lambda: model_of(node("Identity", "x"), NodeProto(op_type="Identity", input=["n" * 5_000])),
        "the name of a tensor has 5000 bytes, the limit is 4096",
    ),
    (ModelProto, "has no nodes"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_a_file_that_no_runtime_shall_be_shown_is_refused_by_name(
    make: Callable[[], ModelProto], words: str
) -> None:
    with pytest.raises(ContractError, match=words):
        check_onnx(make().SerializeToString())


VAST = 2**20
GROWING: list[tuple[ModelProto, str]] = [
    (
        model_of(node("ConstantOfShape", "s"), constants=(numbers("s", VAST, VAST),)),
        "ConstantOfShape with 's'",
    ),
    (model_of(node("Expand", "x", "s"), constants=(numbers("s", VAST, VAST),)), "Expand"),
    (model_of(node("Tile", "x", "s"), constants=(numbers("s", VAST, VAST),)), "Tile"),
    (
        model_of(
            node("Range", "a", "b", "c"),
            constants=(numbers("a", 0), numbers("b", 2**40), numbers("c", 1)),
        ),
        "Range",
    ),
    (model_of(node("OneHot", "x", "d", "v"), constants=(numbers("d", 2**40),)), "OneHot"),
    (model_of(node("Pad", "x", "p"), constants=(numbers("p", 0, 2**40, 0, 0),)), "Pad"),
    (model_of(node("RandomNormal", shape=[VAST, VAST])), "RandomNormal"),
    (model_of(node("Conv", "x", "w", pads=[2**30, 2**30, 0, 0])), "Conv"),
    (model_of(node("Resize", "x", "", "", "s"), constants=(numbers("s", VAST, VAST),)), "Resize"),
]


@pytest.mark.parametrize(("model", "words"), GROWING)
def test_a_shape_that_asks_for_more_than_memory_is_refused(model: ModelProto, words: str) -> None:
    with pytest.raises(ContractError, match=f"operator {words}.* out of nothing"):
        check_onnx(model.SerializeToString())


@pytest.mark.parametrize(
    "constant",
    [
        {"value": numbers("", VAST, VAST)},
        {"value_ints": [VAST, VAST]},
        {"value": TensorProto(data_type=TensorProto.INT64, dims=[2], int64_data=[VAST, VAST])},
    ],
)
def test_a_shape_is_found_however_it_is_written(constant: dict[str, Any]) -> None:
    made = helper.make_node("Constant", [], ["s"], **constant)
    model = model_of(made, node("ConstantOfShape", "s"))
    with pytest.raises(ContractError, match="ConstantOfShape with 's'"):
        check_onnx(model.SerializeToString())


def test_many_modest_shapes_add_up() -> None:
    shape = numbers("s", 2**13, 2**13)
    two = model_of(*[node("ConstantOfShape", "s")] * 2, constants=(shape,))
    assert check_onnx(two.SerializeToString()).implied_elements == 2**27
    three = model_of(*[node("ConstantOfShape", "s")] * 3, constants=(shape,))
    with pytest.raises(ContractError, match=r"asks for 2\.01e\+08 numbers"):
        check_onnx(three.SerializeToString())


def test_an_infinite_range_is_counted_as_infinite() -> None:
    assert count_implied("Range", [(0.0,), (1.0,), (0.0,)], {}) == float("inf")
    assert count_implied("Range", [(0.0,), None, (1.0,)], {}) == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (OnnxLimits(bytes_max=10), "the limit is 10"),
        (OnnxLimits(nodes_max=2), "has over 2 nodes"),
        (OnnxLimits(tensors_max=0), "has over 0 constants"),
        (OnnxLimits(elements_max=11), "brings the constants above 11"),
        (OnnxLimits(text_bytes_max=20), "have over 20 bytes"),
    ],
)
def test_each_limit_decides_alone(limits: OnnxLimits, words: str) -> None:
    content = classifier_graph(WEIGHTS)
    check_onnx(content)
    with pytest.raises(ContractError, match=words):
        check_onnx(content, limits)


def test_the_limits_themselves_are_allowed() -> None:
    content = classifier_graph(WEIGHTS)
    outline = check_onnx(content)
    assert (outline.nodes, outline.tensors, outline.elements) == (3, 1, 12)
    exact = OnnxLimits(bytes_max=len(content), nodes_max=3, tensors_max=1, elements_max=12)
    assert check_onnx(content, exact) == outline


def test_a_single_field_written_twice_is_refused() -> None:
    """Parsers merge the two, so each half would be small and the whole vast."""
    model = plain().SerializeToString()
    with pytest.raises(ContractError, match="the graph is written twice"):
        check_onnx(model + plain().SerializeToString())
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "w").SerializeToString()
    attribute = AttributeProto(name="value", type=AttributeProto.TENSOR).SerializeToString()
    half = b"\x2a" + bytes([len(tensor)]) + tensor
    doubled = AttributeProto()
    doubled.ParseFromString(attribute + half + half)
    assert list(doubled.t.dims) == [2, 2]  # what a parser makes of it
    raw = attribute + half + half
    inner = b"\x22\x08Constant\x2a" + bytes([len(raw)]) + raw
    graph = b"\x0a" + bytes([len(inner)]) + inner
    with pytest.raises(ContractError, match="field 5 of an attribute of Constant is written twice"):
        check_onnx(b"\x3a" + bytes([len(graph)]) + graph)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        b"PK\x03\x04",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x0b\x0c",
        b"\x00\x01",
        b"\xff" * 64,
        b"\x3a\x02\x08\x01",
    ],
)
def test_what_is_not_a_model_is_refused(content: bytes) -> None:
    with pytest.raises(ContractError, match=r"model\.onnx"):
        check_onnx(content)


def test_a_file_larger_than_any_is_refused_unread() -> None:
    with pytest.raises(TooLargeError, match="the limit is 100"):
        check_onnx(bytes(101), OnnxLimits(bytes_max=100))


def test_long_lists_of_numbers_are_skipped_and_broken_ones_found() -> None:
    trees = node("TreeEnsembleRegressor", "x", nodes_ids=list(range(200_000)), domain="ai.onnx.ml")
    trees.attribute.append(helper.make_attribute("nodes_values", [0.5] * 200_000))
    trees.attribute.append(helper.make_attribute("nodes_modes", ["BRANCH_LEQ", "LEAF"] * 50_000))
    content = model_of(trees).SerializeToString()
    assert check_onnx(content).nodes == 1
    with pytest.raises(MalformedError):
        check_onnx(content[:1_000_000])


def test_both_ways_of_writing_numbers_are_read() -> None:
    packed = typed(TensorProto.FLOAT, [2], float_data=[1.0, 2.0]).SerializeToString()
    assert check_onnx(packed).elements == 2
    loose = TensorProto(name="w", data_type=TensorProto.INT64).SerializeToString()
    loose += b"\x08\x02" + b"\x38\x05\x38\x06"  # dims and int64_data, one by one
    graph = GraphProto(node=[node("Identity", "x")]).SerializeToString()
    graph += b"\x2a" + bytes([len(loose)]) + loose
    assert check_onnx(b"\x3a" + bytes([len(graph)]) + graph).elements == 2
