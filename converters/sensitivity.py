"""Find the nodes whose int8 form costs most: each quantized alone, measured, never guessed.

Measured against the fp32 graph on calibration rows, so that the held-out rows stay unseen by the
search. The number of trials is bounded; of a larger graph the nodes with the most weights are
tried, and the others keep what the full rung does with them.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import ConversionError
from converters.graph import parse_model
from converters.parity import compare_outputs
from converters.quantize import Ranges, list_quantizable, quantize
from converters.runtime import GraphRunner
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.schema import Task

Array = NDArray[Any]
NODES_TRIED_MAX = 24
ROWS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    """What quantizing one node alone does to the answers.

    Attributes:
        node: Its name.
        operator: Its kind.
        flip_share: Share of rows with another label than fp32.
        mean_abs_error: Mean over rows of the largest difference of an answer.
    """

    node: str
    operator: str
    flip_share: float
    mean_abs_error: float


def measure_nodes(
    fp32: bytes, task: Task, rows: Array, profile: DeviceProfile, *, ranges: Ranges
) -> list[NodeCost]:
    """Quantize one node at a time and compare; the costliest first.

    Args:
        fp32: Normalised bytes.
        task: What is compared.
        rows: Calibration rows, float32 [N, width].
        profile: Bounds and threads.
        ranges: As in the rung that broke a limit.
    """
    source = parse_model(fp32, what="the fp32 graph")
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in source.graph.initializer}
    nodes = list_quantizable(source, Precision.INT8_STATIC)
    nodes.sort(key=lambda node: -sizes[node.input[1]])
    asked = rows[:ROWS_MAX]
    truth = GraphRunner(fp32, profile).run(asked)
    costs = []
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as directory:
        cache = Path(directory) / "ranges.json"
        for node in nodes[:NODES_TRIED_MAX]:
            result = quantize(
                fp32,
                Precision.INT8_STATIC,
                rows,
                profile,
                ranges=ranges,
                nodes=[node.name],
                cache=cache,
            )
            if result.model is None:
                continue
            try:
                answers = GraphRunner(result.model, profile).run(asked)
            except ConversionError:
                continue
            found = compare_outputs(task, truth, answers)
            costs.append(
                NodeCost(
                    node=node.name,
                    operator=node.op_type,
                    flip_share=found.flip_share,
                    mean_abs_error=_mean_error(task, truth, answers),
                )
            )
    return sorted(costs, key=lambda cost: (-cost.mean_abs_error, -cost.flip_share, cost.node))


def plan_exclusions(names: list[str], costs: list[NodeCost]) -> list[list[str]]:
    """Give the nodes to quantize in each attempt: without the costliest 1, 2, 4 and so on.

    >>> cost = lambda name: NodeCost(node=name, operator="Conv", flip_share=0, mean_abs_error=0)
    >>> plan_exclusions(["a", "b", "c"], [cost("b"), cost("a"), cost("c")])
    [['a', 'c'], ['c']]
    """
    attempts, count = [], 1
    while count < len(names) and count <= len(costs):
        out = {cost.node for cost in costs[:count]}
        attempts.append([name for name in names if name not in out])
        count *= 2
    return attempts


def _mean_error(task: Task, truth: dict[str, Array], answers: dict[str, Array]) -> float:
    name = "probabilities" if task is Task.CLASSIFICATION else "value"
    errors = np.abs(truth[name].astype(np.float64) - answers[name])
    return float(np.mean(errors.reshape(len(errors), -1).max(axis=1)))
