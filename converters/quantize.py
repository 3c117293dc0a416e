"""The int8 rungs: dynamic and static (QDQ, a scale a channel). "Nothing to quantize" is an answer.

Weights keep 7 bits (``reduce_range``): 8-bit ones saturate on x86 without VNNI, and the same file
then answers differently there. Only matrix products are quantized, and convolutions in the static
rung: around them float arithmetic costs less than the conversion to int8 and back, and the final
probabilities keep their resolution.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from converters.graph import count_operators, iterate_graphs, parse_model
from converters.normalise import normalise
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.schema import INPUT_NAME

Array = NDArray[Any]
CALIBRATION_ROWS_MAX = 512
CALIBRATION_BATCH_ROWS = 64
_OPERATORS = {
    Precision.INT8_DYNAMIC: ["Gemm", "MatMul"],
    Precision.INT8_STATIC: ["Conv", "Gemm", "MatMul"],
}
_QUANTIZED = frozenset({"MatMulInteger", "ConvInteger", "QuantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """The outcome of one rung.

    Attributes:
        model: Normalised bytes; None when there is no such build.
        note: Why there is none.
    """

    model: bytes | None
    note: str = ""


def quantize(
    fp32: bytes, precision: Precision, calibration: Array, profile: DeviceProfile
) -> Quantized:
    """Build one int8 rung from the normalised fp32 graph.

    Args:
        fp32: Normalised bytes.
        precision: ``int8_dynamic`` or ``int8_static``.
        calibration: Training rows [N, width]; evenly spaced ones give the activation ranges.
        profile: Bounds of the result.
    """
    if precision not in _OPERATORS:
        return Quantized(model=None, note=f"{precision} is never faster on a processor; not built")
    source = parse_model(fp32, what="the fp32 graph")
    if not _has_quantizable(source, _OPERATORS[precision]):
        names = ", ".join(name.rpartition(":")[2] for name in count_operators(source))
        return Quantized(model=None, note=f"no quantizable operator among {names}")
    rows = _pick_rows(calibration)
    if precision is Precision.INT8_STATIC and len(rows) == 0:
        return Quantized(model=None, note="no calibration row is free of missing values")
    try:
        quantized = _quantize(source, precision, rows)
        model = normalise(quantized, profile)
    except Exception as error:  # noqa: BLE001 - the quantizer raises anything; the rung is then out
        return Quantized(model=None, note=f"the quantizer fails: {str(error)[:200]}")
    if not _QUANTIZED & set(count_operators(quantized)):
        return Quantized(model=None, note="the quantizer changed nothing")
    return Quantized(model=model)


def _quantize(source: ModelProto, precision: Precision, rows: Array) -> ModelProto:
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as directory, _quiet_quantizer():
        path = Path(directory) / "quantized.onnx"
        if precision is Precision.INT8_DYNAMIC:
            quantize_dynamic(
                source,
                path,
                op_types_to_quantize=_OPERATORS[precision],
                per_channel=False,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
        else:
            quantize_static(
                source,
                path,
                _Rows(rows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS[precision],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        return parse_model(path.read_bytes(), what="the quantized graph")


class _Rows(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    """Feed calibration rows batch by batch."""

    def __init__(self, rows: Array) -> None:
        self._batches = iter(
            rows[start : start + CALIBRATION_BATCH_ROWS]
            for start in range(0, len(rows), CALIBRATION_BATCH_ROWS)
        )

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def _has_quantizable(model: ModelProto, operators: list[str]) -> bool:
    """Tell whether a node to quantize multiplies with a constant."""
    for graph in iterate_graphs(model.graph):
        constants = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type in operators and len(node.input) > 1 and node.input[1] in constants:
                return True
    return False


def _pick_rows(calibration: Array) -> Array:
    rows = np.asarray(calibration, np.float32)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) <= CALIBRATION_ROWS_MAX:
        return rows
    places = np.linspace(0, len(rows) - 1, CALIBRATION_ROWS_MAX).astype(np.int64)
    picked: Array = rows[places]
    return picked


def _is_not_quantizer(record: logging.LogRecord) -> bool:
    return "quantization" not in record.pathname


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """Keep the quantizer's advice from the root logger, which it would even configure."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    root.addFilter(_is_not_quantizer)
    try:
        yield
    finally:
        root.removeFilter(_is_not_quantizer)
        root.removeHandler(nowhere)
