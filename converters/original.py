"""Run a graph of newer operator sets than a profile's as it was: the truth of what is lowered.

onnxruntime answers where it knows the operators, under the oldest numbers that mean the same. Where
it is older than the graph, onnx's own reference implementation does: slow, but the definition.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from converters.errors import RuntimeRefusedError, say_reason
from converters.graph import count_operators
from converters.needs import find_operators
from converters.opsets import restate
from converters.runtime import GraphRunner, runtime_version
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import INPUT_NAME

Array = NDArray[Any]
Answer = Callable[[Array], dict[str, Array]]
BATCH_ROWS = 512


def load_original(model: ModelProto, profile: DeviceProfile) -> Answer:
    """Give what answers rows [N, width] float32 as the graph does, outputs by name.

    Raises:
        RuntimeRefusedError: Neither runs it.
    """
    same = restate(model)
    try:
        return GraphRunner(same.SerializeToString(), profile).run
    except RuntimeRefusedError as refusal:
        return _load_reference(same, refusal)


def _load_reference(model: ModelProto, refusal: RuntimeRefusedError) -> Answer:
    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as error:  # noqa: BLE001 - operators it lacks raise several kinds
        raise _refuse(model, error) from refusal

    def answer(rows: Array) -> dict[str, Array]:
        packed = np.ascontiguousarray(rows, np.float32)
        starts = range(0, max(1, len(packed)), BATCH_ROWS)
        try:
            parts = [_run(evaluator, packed[start : start + BATCH_ROWS]) for start in starts]
        except Exception as error:  # noqa: BLE001 - whatever its operators raise
            raise _refuse(model, error) from refusal
        return {
            name: np.concatenate([np.asarray(part[place]) for part in parts])
            for place, name in enumerate(evaluator.output_names)
        }

    return answer


def _run(evaluator: ReferenceEvaluator, rows: Array) -> Sequence[Any]:
    """Answer rows; a list, in the order of the outputs."""
    answers: Any = evaluator.run(None, {INPUT_NAME: rows})
    return list(answers)


def _refuse(model: ModelProto, error: Exception) -> RuntimeRefusedError:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    versions = find_operators(count_operators(model), opsets)
    newest = sorted(versions.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{name} {version}" for name, version in newest)
    return RuntimeRefusedError(
        f"nothing here runs the graph as it is ({named}), so a lowered one cannot be compared:"
        f" onnxruntime {runtime_version()} does not load it and onnx's reference implementation"
        f" says: {say_reason(error)}"
    )
