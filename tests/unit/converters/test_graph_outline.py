"""``inspect`` of any ONNX file: what no package may hold is named, nothing is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.errors import InvalidRequestError
from converters.explain import PARTS_SHOWN_MAX, describe_file
from converters.outline import read_outline
from device_profiles.catalog import list_profiles, load_profile
from edge_agent.contract.errors import MalformedError

PROFILES = [load_profile(name) for name in list_profiles()]
FLOAT = TensorProto.FLOAT


def graph_file(
    path: Path,
    nodes: list[Any],
    tensors: list[Any] | None = None,
    *,
    opset: int = 18,
    **settings: Any,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        tensors or [],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, **settings)
    file = path / "any.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def weights(name: str, count: int) -> Any:
    return numpy_helper.from_array(np.zeros((4, count), np.float32), name)


def test_inputs_operators_and_parts_are_told(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "small"], ["h"]),
        helper.make_node("MatMul", ["h", "large"], ["y"]),
    ]
    found = describe_file(
        graph_file(tmp_path, nodes, [weights("small", 4), weights("large", 400)]), PROFILES
    )
    assert found["inputs"] == {"x": [None, 4]}
    assert found["outputs"] == {"y": None}
    assert found["input_types"] == {"x": "float32"}
    assert found["operators"] == {"MatMul": 2}
    assert found["operator_versions"] == {"MatMul": 13}
    assert [part["name"] for part in found["parts"]] == ["large", "small"]
    assert found["parts"][0]["shape"] == [4, 400]
    assert found["remarks"] == []
    assert found["refused"] == ""
    assert all(one["misfits"] == [] for one in found["profiles"])


def test_data_in_another_file_is_named(tmp_path: Path) -> None:
    tensor = weights("w", 4)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    file = graph_file(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor])
    found = describe_file(file, PROFILES)
    assert found["remarks"] == ["data lies in another file: weights.bin"]
    assert "another file" in found["refused"]
    assert found["parts"][0]["file"] == "weights.bin"


def test_custom_operators_are_named_and_fit_no_profile(tmp_path: Path) -> None:
    file = graph_file(tmp_path, [helper.make_node("Magic", ["x"], ["y"], domain="com.acme")])
    found = describe_file(file, PROFILES)
    assert "custom operators of com.acme: Magic" in found["remarks"][0]
    assert "com.acme" in found["refused"]
    for one in found["profiles"]:
        assert one["misfits"] == [
            "operators: needs com.acme:Magic, has no operators of com.acme in CPUExecutionProvider"
            " of onnxruntime 1.22, the oldest the profile lets in (asked: 1.22.0)"
        ]


def test_loops_and_functions_are_named(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "v"], ["u"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("u", FLOAT, None),
        ],
    )
    function = helper.make_function(
        "com.acme", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], []
    )
    file = graph_file(
        tmp_path,
        [helper.make_node("Loop", ["", "", "x"], ["y"], body=body)],
        functions=[function],
    )
    found = describe_file(file, PROFILES)
    assert found["operators"] == {"Add": 1, "Identity": 1, "Loop": 1, "Relu": 1}
    assert any(remark.startswith("Loop: how long it runs") for remark in found["remarks"])
    assert "1 functions of its own: export with functions inlined" in found["remarks"]
    assert found["refused"] != ""


def test_each_profile_says_how_a_newer_operator_set_is_lowered_or_what_stands_against_it(
    tmp_path: Path,
) -> None:
    file = graph_file(tmp_path, [helper.make_node("Swish", ["x"], ["y"])], opset=24)
    camera = describe_file(file, [load_profile("camera")])["profiles"][0]
    assert camera["misfits"] == []
    assert camera["lowered"] == "operator set 24 lowered to 18: Swish 24 (written out as others)"
    file = graph_file(tmp_path, [helper.make_node("CumProd", ["x", "x"], ["y"])], opset=26)
    camera = describe_file(file, [load_profile("camera")])["profiles"][0]
    assert camera["lowered"] == ""
    assert camera["misfits"][0] == (
        "opset_max: needs 26: CumProd 26 has no older definition that says the same, has at most 18"
    )


def test_many_parts_are_summed_up(tmp_path: Path) -> None:
    many = [weights(f"w{n}", 4) for n in range(PARTS_SHOWN_MAX + 3)]
    file = graph_file(tmp_path, [helper.make_node("MatMul", ["x", "w0"], ["y"])], many)
    parts = describe_file(file, [])["parts"]
    assert len(parts) == PARTS_SHOWN_MAX + 1
    assert parts[-1]["name"] == "3 more"


def test_full_range_weights_are_seen(tmp_path: Path) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["y"])]
    for largest, is_full in ((64, False), (-128, True)):
        tensors = [
            numpy_helper.from_array(np.array([[largest, 1]], np.int8), "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        ]
        content = graph_file(tmp_path, nodes, tensors).read_bytes()
        assert read_outline(content, what="w").is_full_range is is_full


@pytest.mark.parametrize("content", [b"", b"graph", b"\x08\x09", b"\x3a\xff\x01", b"\xff" * 40])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.onnx").write_bytes(content)
    with pytest.raises(InvalidRequestError):
        describe_file(tmp_path / "any.onnx", PROFILES)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "any.txt").write_bytes(b"x")
    with pytest.raises(InvalidRequestError, match=r"reads \.onnx and package"):
        describe_file(tmp_path / "any.txt", PROFILES)


def test_every_cut_of_a_file_is_told_or_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    content = graph_file(tmp_path, nodes, [weights("w", 4)]).read_bytes()
    for end in range(len(content)):
        try:
            read_outline(content[:end], what="cut")
        except MalformedError:
            continue


def test_deep_nesting_ends(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    for _ in range(28):
        node = onnx.NodeProto(op_type="If", output=["y"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        inner = helper.make_graph([node], "g", [], [])
    file = tmp_path / "deep.onnx"
    file.write_bytes(helper.make_model(inner).SerializeToString())
    found = describe_file(file, [])
    assert found["operators"]["If"] > 10
    assert found["refused"] != ""
