import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.needs import find_needs, find_operators, has_full_range
from converters.outline import read_outline
from converters.reference_times import measure_here
from converters.request import MeasurementPlan
from device_profiles.calibration import CALL, GRAPHS
from device_profiles.profile import Precision


def quantized_graph(largest: int) -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.array([[largest, -3]], np.int8), "w")
    zero = numpy_helper.from_array(np.array([-128], np.int8), "z")
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "s"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [weights, zero, scale],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("largest", "is_full"), [(64, False), (-64, False), (65, True), (-65, True), (-128, True)]
)
def test_weights_beyond_seven_bits_are_full_range(largest: int, is_full: bool) -> None:
    model = quantized_graph(largest)
    assert has_full_range(model) is is_full
    assert find_needs(model, Precision.INT8_STATIC).is_full_range is is_full
    assert find_needs(model, Precision.FP32).is_full_range is False


def test_weights_that_are_cast_before_use_have_no_range() -> None:
    model = quantized_graph(127)
    model.graph.node[0].CopyFrom(helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT))
    assert not has_full_range(model)
    assert not read_outline(model.SerializeToString(), what="w").is_full_range


def test_operators_carry_the_version_that_the_operator_set_means() -> None:
    needs = find_needs(quantized_graph(1), Precision.INT8_STATIC, package_bytes=7, rss_bytes=9)
    assert needs.operators == {"DequantizeLinear": 13}
    assert (needs.ir, needs.opset, needs.package_bytes, needs.rss_bytes) == (9, 18, 7, 9)
    found = find_operators({"ai.onnx.ml:Scaler": 1, "Swish": 1}, {"": 18, "ai.onnx.ml": 3})
    assert found == {"ai.onnx.ml:Scaler": 1, "Swish": 0}


def test_the_building_machine_is_measured_once_a_process() -> None:
    plan = MeasurementPlan(rounds=3, round_s=0.001)
    found = measure_here(1, plan)
    assert set(found.ms) == set(GRAPHS)
    assert found.ms["conv_fp32"] > found.ms[CALL]
    assert measure_here(1, MeasurementPlan(rounds=3, round_s=0.001)) is found
