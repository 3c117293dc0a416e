"""The fp16 rungs: weights stored in half the bytes, or the whole graph computed in fp16.

Stored weights are cast back to float32 once, when the graph is loaded: half the transfer, the
latency of fp32. Processors without fp16 arithmetic run a whole fp16 graph slower than fp32; it is
measured like any other rung.
"""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.graph import fresh_name, parse_model
from converters.normalise import normalise
from converters.quantize import Quantized, list_quantizable
from device_profiles.profile import DeviceProfile, Precision

ELEMENTS_MIN = 256
"""Smaller constants gain less than the node that casts them costs."""
_HALF_MAX = float(np.finfo(np.float16).max)


def store_half(fp32: bytes, profile: DeviceProfile) -> Quantized:
    """Store large float32 constants as fp16, cast back when the graph is loaded."""
    model = parse_model(fp32, what="the fp32 graph")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < ELEMENTS_MIN:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.all(np.abs(values) <= _HALF_MAX):
            continue
        name, stored = tensor.name, fresh_name(model, f"{tensor.name}_half")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    if not casts:
        return Quantized(model=None, note=f"no float32 constant of {ELEMENTS_MIN} or more numbers")
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _finish(model, profile)


def compute_half(fp32: bytes, profile: DeviceProfile) -> Quantized:
    """Compute the whole graph in fp16, with float32 at its ends."""
    source = parse_model(fp32, what="the fp32 graph")
    if not list_quantizable(source, Precision.INT8_STATIC):
        return Quantized(model=None, note="no matrix product to compute in fp16")
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(source, keep_io_types=True)
        _sort(model)
        return _finish(model, profile)
    except Exception as error:  # noqa: BLE001 - the tool raises anything; the rung is then out
        return Quantized(model=None, note=f"the fp16 converter fails: {str(error)[:200]}")


def _sort(model: ModelProto) -> None:
    """Put each node behind those it reads from: the tool appends its casts anywhere."""
    waiting, ready = list(model.graph.node), {""}
    ready.update(value.name for value in model.graph.input)
    ready.update(tensor.name for tensor in model.graph.initializer)
    made = {name for node in waiting for name in node.output}
    ordered: list[NodeProto] = []
    while waiting:
        able = [n for n in waiting if all(i in ready or i not in made for i in n.input)]
        if not able:
            raise ValueError("the fp16 graph leads back to itself")
        names = {id(node) for node in able}
        ordered += able
        ready.update(name for node in able for name in node.output)
        waiting = [node for node in waiting if id(node) not in names]
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _finish(model: ModelProto, profile: DeviceProfile) -> Quantized:
    try:
        return Quantized(model=normalise(model, profile))
    except onnx.checker.ValidationError as error:
        return Quantized(model=None, note=f"the fp16 graph is not sound: {error}")
