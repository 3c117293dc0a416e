"""Graphs of newer and older operator sets come to those of a profile and answer the same."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx.version_converter
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node

from converters.attempts import PLAIN, Way, convert_in_turn
from converters.build import BuildRequest, build_loaded
from converters.errors import InvalidRequestError, NoRungFitsError, ProfileMisfitError
from converters.graph import ML_DOMAIN, count_operators, find_opset
from converters.lowering_plan import plan_lowering
from converters.normalise import normalise
from converters.onnx_graph import OnnxGraph
from converters.opsets import bring_up
from converters.request import Effort
from converters.source import Conversion
from device_profiles.catalog import load_profile
from device_profiles.profile import DeviceProfile
from tests.support.convert import QUICK, schema_of

CAMERA = load_profile("camera")
SCHEMA = schema_of(16, ["a", "b", "c"])
ROWS = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)
Constants = dict[str, NDArray[Any]]


def network(
    opset: int,
    inner: Sequence[NodeProto] = (),
    constants: Constants | None = None,
    *,
    pool: str = "GlobalMaxPool",
    ir: int = 10,
) -> ModelProto:
    """Make a small network of pictures of 4 by 4; ``inner`` makes ``c2`` of ``c``."""
    draw = np.random.default_rng(0)
    fixed = {
        "sides": np.array([-1, 1, 4, 4]),
        "kernel": draw.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "weights": draw.normal(size=(4, 3)).astype(np.float32),
        **(constants or {}),
    }
    nodes = [
        make_node("Reshape", ["x", "sides"], ["grid"]),
        make_node("Conv", ["grid", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        *inner,
        make_node(pool, ["c2" if inner else "c"], ["pooled"]),
        make_node("Flatten", ["pooled"], ["flat"]),
        make_node("MatMul", ["flat", "weights"], ["scores"]),
        make_node("Softmax", ["scores"], ["p"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])]
    if ir < 4:
        inputs += [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in fixed.items()
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in fixed.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def scaled(operator: str, **attributes: Any) -> tuple[list[NodeProto], Constants]:
    names = ["c", "scale", "bias"] if operator == "GroupNormalization" else ["c", "scale"]
    constants = {name: np.full(4, 2, np.float32) for name in names[1:]}
    return [make_node(operator, names, ["c2"], **attributes)], constants


def plain(operator: str, *more: str, **attributes: Any) -> list[NodeProto]:
    return [make_node(operator, ["c", *more], ["c2"], **attributes)]


def branches() -> list[NodeProto]:
    inner = [
        helper.make_graph(
            [make_node(operator, ["c"], ["made"])],
            "branch",
            [],
            [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)],
        )
        for operator in ("Relu", "Identity")
    ]
    return [make_node("If", ["yes"], ["c2"], then_branch=inner[0], else_branch=inner[1])]


def profile_of(opset: int, ml: int = 3) -> DeviceProfile:
    return replace(CAMERA, opset_max=opset, opset_ml_max=ml)


def convert(model: ModelProto, profile: DeviceProfile) -> tuple[Conversion, bytes]:
    graph = OnnxGraph(model.SerializeToString(), SCHEMA, profile)
    done = graph.convert(SCHEMA, profile, ROWS)
    return done, normalise(done.model, profile)


@pytest.mark.parametrize(
    ("model", "opset", "words"),
    [
        (network(17, plain("Tanh"), pool="GlobalAveragePool"), 14, "17 written as 14: no operator"),
        (network(22), 18, "22 lowered to 18: Conv 22, Flatten 21, GlobalMaxPool 22, Reshape 21"),
        (network(24, plain("Swish")), 18, r"Swish 24 \(written out as others\)"),
        (network(22, plain("Gelu")), 18, r"Gelu 20 \(written out as others\)"),
        (network(22, plain("HardSwish")), 13, r"HardSwish 22 \(written out as others\)"),
        (network(24, *scaled("RMSNormalization")), 18, r"RMSNormalization 23 \(written out"),
        (network(21, *scaled("GroupNormalization", num_groups=2)), 17, "GroupNormalization 21 "),
        (
            network(21, plain("ReduceMean", "axes"), {"axes": np.array([2, 3])}, pool="Identity"),
            17,
            "ReduceMean 18",
        ),
        (
            network(22, plain("Pad", "by"), {"by": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
            17,
            "Pad 21",
        ),
        (network(21, branches(), {"yes": np.array(True)}), 18, "If 21"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str | int) else "graph",
)
def test_a_newer_graph_is_lowered_and_compared_with_what_it_was(
    model: ModelProto, opset: int, words: str
) -> None:
    profile = profile_of(opset)
    done, content = convert(model, profile)
    (repair,), (attempt,) = done.repairs, done.tries
    assert repair == attempt.way
    assert re.search(words, repair)
    assert attempt.rows == len(ROWS)
    assert attempt.is_exact
    assert attempt.max_abs_error < 1e-6
    written = onnx.load_model_from_string(content)
    assert find_opset(written, "") == opset
    assert written.ir_version == 8
    assert convert(model, profile)[1] == content


def test_a_graph_newer_than_the_runtime_here_is_compared_with_the_reference() -> None:
    """onnx writes operator set 28 unasked, and no onnxruntime reads it."""
    done, content = convert(network(28, plain("Cast", to=TensorProto.FLOAT), ir=14), CAMERA)
    assert done.repairs[0].startswith("operator set 28 lowered to 18: Cast 28, Conv 22,")
    assert done.tries[0].is_exact
    assert find_opset(onnx.load_model_from_string(content), "") == 18


@pytest.mark.parametrize(
    ("model", "opset", "words"),
    [
        (
            network(21, plain("AveragePool", kernel_shape=[2, 2], dilations=[2, 2])),
            18,
            "opset_max: needs 21: AveragePool uses dilations, which operator set 18 lacks, has at"
            " most 18",
        ),
        (
            network(
                22,
                plain("Pad", "by", "", "axes"),
                {"by": np.array([1, 1, 1, 1]), "axes": np.array([2, 3])},
            ),
            17,
            "needs 22: Pad uses 4 inputs, which operator set 18 brought",
        ),
        (
            network(26, plain("CumProd", "axis"), {"axis": np.array(1)}),
            18,
            "needs 26: CumProd 26 has no older definition that says the same",
        ),
        (
            network(18, branches(), {"yes": np.array(True)}),
            15,
            "needs 18: onnx knows no way to convert If 16",
        ),
        (network(99), 18, "needs 99: onnx .* knows operator sets to"),
    ],
    ids=["attribute", "input", "new", "no way", "unknown"],
)
def test_what_cannot_be_lowered_is_refused_by_operator_and_version(
    model: ModelProto, opset: int, words: str
) -> None:
    way = Way(name=PLAIN, make=lambda: model)
    with pytest.raises(ProfileMisfitError, match=words):
        convert_in_turn([way], SCHEMA, profile_of(opset), None, lambda _: {})


def labelled(version: int, **attributes: Any) -> ModelProto:
    """Look a label up that the graph finds by itself."""
    model = network(18, plain("Tanh"))
    model.opset_import.append(helper.make_opsetid(ML_DOMAIN, version))
    model.graph.node.extend(
        [
            make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
            make_node("LabelEncoder", ["best"], ["label"], domain=ML_DOMAIN, **attributes),
        ]
    )
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    model.graph.output.insert(0, label)
    return model


def test_operators_of_machine_learning_are_lowered_where_they_mean_the_same() -> None:
    keys = {"keys_int64s": [0, 1, 2], "values_int64s": [2, 0, 1], "default_int64": -1}
    done, content = convert(labelled(4, **keys), CAMERA)
    assert done.repairs == ("operator set 4 of ai.onnx.ml lowered to 3: ai.onnx.ml:LabelEncoder 4",)
    assert done.tries[0].is_exact
    assert find_opset(onnx.load_model_from_string(content), ML_DOMAIN) == 3
    tensor = numpy_helper.from_array(np.array([0, 1, 2]))
    newer = labelled(4, keys_tensor=tensor, values_tensor=tensor, default_tensor=tensor)
    with pytest.raises(ProfileMisfitError, match="LabelEncoder uses default_tensor, keys_tensor"):
        convert(newer, CAMERA)


def test_an_old_graph_is_raised_where_it_answers_the_same() -> None:
    done, content = convert(network(9, plain("Dropout"), ir=3), CAMERA)
    assert done.repairs == ("operator set 9 raised to 13",)
    assert done.tries[0].is_exact
    written = onnx.load_model_from_string(content)
    assert (find_opset(written, ""), written.ir_version) == (13, 8)
    assert "Dropout" not in count_operators(written)


def test_an_old_graph_that_cannot_be_raised_stays_as_it_is() -> None:
    model = network(9, plain("Upsample", "by", mode="linear"), {"by": np.ones(4, np.float32)})
    with pytest.raises(InvalidRequestError, match="operator set 9 cannot be raised to 99"):
        bring_up(model, 99)
    model.graph.node[2].attribute[0].s = b"nearest"
    done, _ = convert(model, CAMERA)
    assert done.tries[-1].is_exact


def test_a_lowering_that_changes_answers_ships_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were onnx's converter wrong about an operator, the rows would show it."""
    right = onnx.version_converter.convert_version

    def wrong(model: ModelProto, version: int) -> ModelProto:
        converted = right(model, version)
        for node in converted.graph.node:
            if node.op_type == "Tanh":
                node.op_type = "Relu"
        return converted

    monkeypatch.setattr(onnx.version_converter, "convert_version", wrong)
    content = network(22, plain("Tanh")).SerializeToString()
    request = BuildRequest(
        estimator=None,
        schema=SCHEMA,
        profile=CAMERA,
        calibration=ROWS,
        holdout=ROWS,
        holdout_targets=np.arange(len(ROWS)) % 3,
        plan=QUICK,
        effort=Effort.BRIEF,
    )
    with pytest.raises(NoRungFitsError, match="differs from its source after: operator set 22"):
        build_loaded(request, OnnxGraph(content, SCHEMA, CAMERA))


def test_a_plan_names_what_changes_and_what_stands_against_it() -> None:
    plan = plan_lowering(["Cast", "Gelu", "Relu"], {"": 21}, CAMERA)
    assert (
        plan.sentence == "operator set 21 lowered to 18: Cast 21, Gelu 20 (written out as others)"
    )
    assert (plan.opsets[""], plan.written_out, plan.obstacles) == (18, ("Gelu",), ())
    against = plan_lowering(["Cast", "GridSample"], {"": 21}, CAMERA)
    assert "GridSample 20 has no older definition" in str(against.obstacles[0])
    assert plan_lowering(["Cast"], {"": 18}, CAMERA).sentence == ""
