"""What a graph asks of a device, read from the graph itself."""

from collections.abc import Mapping

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from converters.graph import (
    ML_DOMAIN,
    count_operators,
    find_opset,
    iterate_graphs,
    iterate_nodes,
)
from device_profiles.compatibility import PackageNeeds
from device_profiles.profile import Precision

REDUCED_WEIGHT_MAX = 64
"""int8 weights of 7 bits lie in [-64, 64]."""
_INT8 = frozenset({Precision.INT8_DYNAMIC, Precision.INT8_STATIC})


def find_needs(
    model: ModelProto,
    precision: Precision,
    *,
    package_bytes: int = 0,
    rss_bytes: int | None = None,
) -> PackageNeeds:
    """Tell what a graph needs.

    Args:
        model: As it ships.
        precision: Of the graph.
        package_bytes: Of the whole package, once known.
        rss_bytes: Peak memory of a process that served it; None when not measured.
    """
    return PackageNeeds(
        ir=model.ir_version,
        opset=find_opset(model, ""),
        opset_ml=find_opset(model, ML_DOMAIN),
        precision=precision,
        package_bytes=package_bytes,
        operators=find_operators(
            count_operators(model),
            {"": find_opset(model, ""), ML_DOMAIN: find_opset(model, ML_DOMAIN)},
        ),
        rss_bytes=rss_bytes,
        is_full_range=precision in _INT8 and has_full_range(model),
    )


def find_operators(names: Mapping[str, int], opsets: Mapping[str, int]) -> dict[str, int]:
    """Give the version of its definition that each operator means.

    Args:
        names: Operators, ``Gemm`` or ``DOMAIN:NAME``; the values are not looked at.
        opsets: Imported version by domain, ``ai.onnx`` being empty.

    Returns:
        0 for an operator that onnx does not define.

    >>> find_operators({"Gemm": 2, "com.acme:Magic": 1}, {"": 18})
    {'Gemm': 13, 'com.acme:Magic': 0}
    """
    found = {}
    for name in names:
        domain, _, operator = name.rpartition(":")
        try:
            schema = onnx.defs.get_schema(operator, opsets.get(domain, 0), domain)
        except onnx.defs.SchemaError:
            found[name] = 0
        else:
            found[name] = schema.since_version
    return found


def has_full_range(model: ModelProto) -> bool:
    """Tell whether any int8 weight matrix that is multiplied as it is uses more than 7 bits.

    What is cast before it is used was only stored in int8.
    """
    read = {name for node in iterate_nodes(model) if node.op_type != "Cast" for name in node.input}
    for graph in iterate_graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_type != TensorProto.INT8 or len(tensor.dims) < 2:
                continue
            if tensor.name not in read:
                continue
            values = numpy_helper.to_array(tensor)
            if values.size and max(-int(values.min()), int(values.max())) > REDUCED_WEIGHT_MAX:
                return True
    return False
