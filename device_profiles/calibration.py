"""Times of the reference graphs on one machine, and what another machine's figure means there.

A latency that was measured elsewhere is scaled by how much slower this machine is on graphs of the
same kind. That is an estimate with a range and is never called anything else. Pure.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SUITE = 1
"""Number of the set of reference graphs; figures of different sets are not compared."""
CALL, MEMORY = "call", "memory"
GRAPHS = (CALL, "matmul_fp32", "matmul_int8", "conv_fp32", "conv_int8", "trees", MEMORY)
MS_MAX = 1e6
NOISE_MAX = 10.0
THREADS_MAX = 4_096
_RELEASE = re.compile(r"[0-9A-Za-z.+-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the reference graphs took on one machine.

    Attributes:
        onnxruntime: Release that ran them.
        threads: Of one request.
        ms: Milliseconds by graph, of the fastest round; ``call`` is a graph of no work, ``memory``
            a copy.
        noise: Spread between rounds (interquartile range) as a share, by graph.
    """

    onnxruntime: str
    threads: int
    ms: Mapping[str, float]
    noise: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the optional ``calibration`` of a report, a profile or an evidence file."""
        return {
            "suite": SUITE,
            "onnxruntime": self.onnxruntime,
            "threads": self.threads,
            "ms": {name: round(value, 6) for name, value in self.ms.items()},
            "noise": {name: round(value, 4) for name, value in self.noise.items()},
        }

    @classmethod
    def from_report(cls, value: Any) -> "Calibration | None":
        """Read what ``to_json`` gave; anything else counts as not measured.

        >>> Calibration.from_report({"suite": 1, "ms": {"call": -1}}) is None
        True
        """
        if not isinstance(value, Mapping) or value.get("suite") != SUITE:
            return None
        release, threads = value.get("onnxruntime"), value.get("threads")
        ms = _figures(value.get("ms"), MS_MAX)
        if not isinstance(release, str) or not _RELEASE.fullmatch(release) or CALL not in ms:
            return None
        if isinstance(threads, bool) or not isinstance(threads, int):
            return None
        if not 1 <= threads <= THREADS_MAX:
            return None
        noise = {n: v for n, v in _figures(value.get("noise"), NOISE_MAX).items() if n in ms}
        return cls(onnxruntime=release, threads=threads, ms=ms, noise=noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEstimate:
    """A latency nobody measured: the likely figure and the range it is believed to lie in.

    Attributes:
        ms: Of one row.
        low_ms: Lower end.
        high_ms: Upper end.
        because: The graphs whose ratios were used.
    """

    ms: float
    low_ms: float
    high_ms: float
    because: tuple[str, ...]

    def __str__(self) -> str:
        return f"~{self.ms:.3g} ms ({self.low_ms:.3g} to {self.high_ms:.3g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a graph does for one row, as far as its operators and size tell.

    Attributes:
        kinds: Reference graphs that do the same.
        product_bytes: Size of the graph, when each of its weights is multiplied once a row, so
            that its size tells how much work there is; None when weights are used many times.
    """

    kinds: tuple[str, ...]
    product_bytes: int | None = None


def find_work(operators: Mapping[str, int], *, model_bytes: int) -> Work:
    """Tell what kind of work a graph does.

    >>> find_work({"Gemm": 13, "Relu": 14}, model_bytes=4_000)
    Work(kinds=('matmul_fp32',), product_bytes=4000)
    """
    names = set(operators)
    suffix = "int8" if names & _QUANTIZED else "fp32"
    found = []
    if names & _CONVOLUTIONS:
        found.append(f"conv_{suffix}")
    if any(name.startswith("ai.onnx.ml:TreeEnsemble") for name in names):
        found.append("trees")
    if names & (_PRODUCTS | _RECURRENT):
        found.append(f"matmul_{suffix}")
    is_once = found == [f"matmul_{suffix}"] and not names & _RECURRENT
    if model_bytes >= MEMORY_BOUND_BYTES and not is_once:
        found.append(MEMORY)
    return Work(kinds=tuple(found), product_bytes=model_bytes if is_once else None)


MEMORY_BOUND_BYTES = 1_048_576
"""A graph that does not fit into a small processor's cache waits for memory as well."""
PRODUCT_BYTES = {"matmul_fp32": 786_432, "matmul_int8": 196_608}
"""Weights of the reference graphs, each of which is multiplied once."""
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "Loop", "Scan", "Einsum"})
_PRODUCTS = frozenset(
    {"MatMul", "Gemm", "QLinearMatMul", "MatMulInteger"}
    | {"ai.onnx.ml:LinearClassifier", "ai.onnx.ml:LinearRegressor"}
    | {"ai.onnx.ml:SVMClassifier", "ai.onnx.ml:SVMRegressor"}
)
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    | {"MatMulInteger", "ConvInteger"}
)


def estimate_latency(
    measured_ms: float, work: Work, here: Calibration, there: Calibration
) -> LatencyEstimate | None:
    """Tell what a latency measured here is likely to be there.

    Work is scaled by the graphs of its kinds, everything else (the call, the passing on between
    operators) by the graph of no work. How much is work follows from the size of the graph where
    that tells it, and is all but one call where it does not. The range is what half and twice the
    work would give, or any single ratio, widened by the noise of both machines.

    Args:
        measured_ms: Measured on the machine of ``here``.
        work: As ``find_work`` gives it.
        here: The machine it was measured on.
        there: The machine it is wanted for.

    Returns:
        None when the two have no reference graph in common.
    """
    ratios = {
        name: there.ms[name] / here.ms[name]
        for name in (CALL, *work.kinds)
        if name in here.ms and name in there.ms
    }
    if CALL not in ratios or not 0 < measured_ms < math.inf:
        return None
    of_call, kinds = ratios[CALL], [ratio for name, ratio in ratios.items() if name != CALL]
    of_work = math.exp(sum(map(math.log, kinds)) / len(kinds)) if kinds else of_call
    work_ms = _work_ms(measured_ms, work, here)

    def compose(part_ms: float) -> float:
        part_ms = min(part_ms, measured_ms)
        return (measured_ms - part_ms) * of_call + part_ms * of_work

    if work.product_bytes is None:
        ends = [measured_ms * ratio for ratio in ratios.values()]
    else:
        ends = [compose(work_ms / 2), compose(2 * work_ms)]
    noise = max((one.noise.get(name, 0.0) for one in (here, there) for name in ratios), default=0.0)
    spread = 1 + max(NOISE_MIN, noise)
    return LatencyEstimate(
        ms=compose(work_ms),
        low_ms=min(ends) / spread,
        high_ms=max(ends) * spread,
        because=tuple(ratios),
    )


def _work_ms(measured_ms: float, work: Work, here: Calibration) -> float:
    """Tell how much of a latency is work of the graph's kinds."""
    rest = max(0.0, measured_ms - here.ms[CALL])
    if work.product_bytes is None:
        return rest
    name = work.kinds[0]
    if name not in here.ms:
        return rest
    a_byte_ms = max(0.0, here.ms[name] - here.ms[CALL]) / PRODUCT_BYTES[name]
    return min(rest, work.product_bytes * a_byte_ms)


NOISE_MIN = 0.25
"""No estimate claims to be closer than a quarter: other graphs are not these graphs."""


def _figures(value: Any, high: float) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {
        name: float(value[name])
        for name in GRAPHS
        if isinstance(value.get(name), int | float)
        and not isinstance(value[name], bool)
        and 0 <= value[name] <= high
        and (high != MS_MAX or value[name] > 0)
    }
