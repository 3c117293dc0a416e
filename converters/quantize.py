"""The int8 rungs: dynamic and static (QDQ, a scale a channel). "Nothing to quantize" is an answer.

Weights keep 7 bits (``reduce_range``) unless the profile says that all its processors have VNNI or
Arm dot products: 8-bit ones saturate on x86 without VNNI, and the same file then answers
differently there. Only matrix products are quantized, and in the static rungs convolutions with
what rectifies and pools behind them: around them float arithmetic costs less than the conversion to
int8 and back, and the final probabilities keep their resolution.
"""

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from converters.graph import count_operators, parse_model
from converters.normalise import normalise
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.schema import INPUT_NAME

Array = NDArray[Any]
CALIBRATION_BATCH_ROWS = 64
OPERATORS = {
    Precision.INT8_DYNAMIC: ("Gemm", "MatMul"),
    Precision.INT8_STATIC: ("Conv", "Gemm", "MatMul"),
}
_FOLLOWERS = ("Clip", "MaxPool", "Relu")
"""Taken along in static rungs: between two products they cost less in int8 than two casts."""
_QUANTIZED = frozenset({"MatMulInteger", "ConvInteger", "QuantizeLinear", "DynamicQuantizeLinear"})


class Ranges(StrEnum):
    """How a static rung finds the range of an activation."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


_METHODS = {
    Ranges.MINMAX: CalibrationMethod.MinMax,
    Ranges.ENTROPY: CalibrationMethod.Entropy,
    Ranges.PERCENTILE: CalibrationMethod.Percentile,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """The outcome of one rung.

    Attributes:
        model: Normalised bytes; None when there is no such build.
        note: Why there is none.
    """

    model: bytes | None
    note: str = ""


def find_obstacle(source: ModelProto, precision: Precision) -> str:
    """Tell why a graph has no such rung; empty when it may have."""
    if list_quantizable(source, precision):
        return ""
    names = ", ".join(name.rpartition(":")[2] for name in count_operators(source))
    return f"no quantizable operator among {names}"


def list_quantizable(source: ModelProto, precision: Precision) -> list[NodeProto]:
    """Give the nodes of the main graph that multiply with a constant."""
    constants = {tensor.name for tensor in source.graph.initializer}
    return [
        node
        for node in source.graph.node
        if node.op_type in OPERATORS[precision]
        and len(node.input) > 1
        and node.input[1] in constants
    ]


def list_followers(source: ModelProto, products: Sequence[str]) -> list[str]:
    """Name the nodes behind some products that stay in int8 with them."""
    names = set(products)
    quantized = {name for node in source.graph.node if node.name in names for name in node.output}
    followers = []
    for node in source.graph.node:
        if node.op_type in _FOLLOWERS and node.input[0] in quantized:
            followers.append(node.name)
            quantized.update(node.output)
    return followers


def quantize(
    fp32: bytes,
    precision: Precision,
    rows: Array,
    profile: DeviceProfile,
    *,
    ranges: Ranges = Ranges.MINMAX,
    nodes: Sequence[str] | None = None,
    cache: Path | None = None,
) -> Quantized:
    """Build one int8 rung from the normalised fp32 graph.

    Args:
        fp32: Normalised bytes.
        precision: ``int8_dynamic`` or ``int8_static``.
        rows: Finite training rows, float32 [N, width], that give the activation ranges.
        profile: Bounds of the result.
        ranges: How a static rung finds them.
        nodes: Names of the products to quantize; None takes all.
        cache: File that keeps the ranges for further builds of the same graph and rows.
    """
    source = parse_model(fp32, what="the fp32 graph")
    obstacle = find_obstacle(source, precision)
    if obstacle:
        return Quantized(model=None, note=obstacle)
    if precision is Precision.INT8_STATIC and len(rows) == 0:
        return Quantized(model=None, note="no calibration row is free of missing values")
    try:
        with tempfile.TemporaryDirectory(prefix="edge-convert-") as directory, _quiet_quantizer():
            path = Path(directory) / "quantized.onnx"
            if precision is Precision.INT8_DYNAMIC:
                _write_dynamic(source, path, profile, nodes)
            else:
                fed = _Rows(rows if ranges is Ranges.MINMAX else _cut_even(rows))
                _write_static(source, path, profile, nodes, fed, ranges, cache)
            quantized = parse_model(path.read_bytes(), what="the quantized graph")
        model = normalise(quantized, profile)
    except Exception as error:  # noqa: BLE001 - the quantizer raises anything; the rung is then out
        return Quantized(model=None, note=f"the quantizer fails: {str(error)[:200]}")
    if not _QUANTIZED & set(count_operators(quantized)):
        return Quantized(model=None, note="the quantizer changed nothing")
    return Quantized(model=model)


def _write_dynamic(
    source: ModelProto, path: Path, profile: DeviceProfile, nodes: Sequence[str] | None
) -> None:
    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=list(OPERATORS[Precision.INT8_DYNAMIC]),
        nodes_to_quantize=None if nodes is None else list(nodes),
        per_channel=False,
        reduce_range=not profile.int8_full_range,
        weight_type=QuantType.QInt8,
    )


def _write_static(
    source: ModelProto,
    path: Path,
    profile: DeviceProfile,
    nodes: Sequence[str] | None,
    rows: CalibrationDataReader,
    ranges: Ranges,
    cache: Path | None,
) -> None:
    if nodes is not None:
        nodes = [*nodes, *list_followers(source, nodes)]
    quantize_static(
        source,
        path,
        rows,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*OPERATORS[Precision.INT8_STATIC], *_FOLLOWERS],
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=not profile.int8_full_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=_METHODS[ranges],
        calibration_cache_path=cache,
    )


def _cut_even(rows: Array) -> Array:
    """Leave out what makes a last, smaller batch: histograms are of batches of one size."""
    kept = len(rows) - len(rows) % CALIBRATION_BATCH_ROWS
    return rows[: kept or len(rows)]


class _Rows(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    """Feed calibration rows batch by batch."""

    def __init__(self, rows: Array) -> None:
        numbers = np.asarray(rows, np.float32)
        self._batches = iter(
            numbers[start : start + CALIBRATION_BATCH_ROWS]
            for start in range(0, len(numbers), CALIBRATION_BATCH_ROWS)
        )

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def _is_not_quantizer(record: logging.LogRecord) -> bool:
    return "quantization" not in record.pathname


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """Keep the quantizer's advice from stdout and the root logger, which it would configure."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    root.addFilter(_is_not_quantizer)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(_is_not_quantizer)
        root.removeHandler(nowhere)
