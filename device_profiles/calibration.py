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
        ms: Median milliseconds by graph; ``call`` is a graph of no work, ``memory`` a copy.
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


def find_kinds(operators: Mapping[str, int], *, model_bytes: int) -> tuple[str, ...]:
    """Name the reference graphs that do the kind of work a graph does, the largest share first.

    >>> find_kinds({"Gemm": 13, "Relu": 14}, model_bytes=4_000)
    ('matmul_fp32',)
    """
    names = set(operators)
    is_int8 = bool(names & _QUANTIZED)
    found = []
    if names & _CONVOLUTIONS:
        found.append("conv_int8" if is_int8 else "conv_fp32")
    if any(name.startswith("ai.onnx.ml:TreeEnsemble") for name in names):
        found.append("trees")
    if names & _PRODUCTS:
        found.append("matmul_int8" if is_int8 else "matmul_fp32")
    if model_bytes >= MEMORY_BOUND_BYTES:
        found.append(MEMORY)
    return tuple(found)


MEMORY_BOUND_BYTES = 1_048_576
"""A graph that does not fit into a small processor's cache waits for memory as well."""
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"})
_PRODUCTS = frozenset(
    {"MatMul", "Gemm", "QLinearMatMul", "MatMulInteger", "LSTM", "GRU", "Einsum"}
    | {"ai.onnx.ml:LinearClassifier", "ai.onnx.ml:LinearRegressor"}
    | {"ai.onnx.ml:SVMClassifier", "ai.onnx.ml:SVMRegressor"}
)
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    | {"MatMulInteger", "ConvInteger"}
)


def estimate_latency(
    measured_ms: float, kinds: tuple[str, ...], here: Calibration, there: Calibration
) -> LatencyEstimate | None:
    """Tell what a latency measured here is likely to be there.

    The time of one call without work counts as overhead and is scaled by that graph; the rest is
    scaled by the graphs of the same kinds. The range spans every ratio that was used, widened by
    the noise of both machines.

    Args:
        measured_ms: Measured on the machine of ``here``.
        kinds: As ``find_kinds`` gives them.
        here: The machine it was measured on.
        there: The machine it is wanted for.

    Returns:
        None when the two have no reference graph in common.
    """
    ratios = {
        name: there.ms[name] / here.ms[name]
        for name in (CALL, *kinds)
        if name in here.ms and name in there.ms
    }
    if CALL not in ratios or not measured_ms > 0:
        return None
    work = [ratio for name, ratio in ratios.items() if name != CALL] or [ratios[CALL]]
    of_work = math.exp(sum(map(math.log, work)) / len(work))
    overhead = min(1.0, here.ms[CALL] / measured_ms)
    likely = measured_ms * (overhead * ratios[CALL] + (1 - overhead) * of_work)
    noise = max((one.noise.get(name, 0.0) for one in (here, there) for name in ratios), default=0.0)
    spread = 1 + max(NOISE_MIN, noise)
    return LatencyEstimate(
        ms=likely,
        low_ms=measured_ms * min(ratios.values()) / spread,
        high_ms=measured_ms * max(ratios.values()) * spread,
        because=tuple(ratios),
    )


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
