"""Check a package in this process: hash, graph, load, golden vectors, latency.

Left out: memory, which in a process that does other work says nothing; surviving what the package
does to the process (``self_test.py`` runs this in a child).
"""

import time

import numpy as np

from edge_agent.adapters.execution_providers import CPU_ONLY, ProviderWish
from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions, open_package
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.errors import PackageError, words_of
from edge_agent.ports import SelfTestLimits, SelfTestResult

LATENCY_RUNS = 100
LATENCY_RUNS_MIN = 5
LATENCY_ROUND_S = 1.0
LATENCY_ROUNDS = 3
"""A busy device makes one round slow; only a package slow in every round is slow."""


def check_package(
    blob: bytes,
    sha256: str,
    limits: SelfTestLimits,
    threads: int,
    providers: ProviderWish = CPU_ONLY,
) -> SelfTestResult:
    """Hash, check, load, compare with the golden vectors and measure latency, in this process.

    The graph is checked byte by byte before the runtime sees it. That is done here once, not at
    every load: what is loaded later has the hash that passed.

    Memory is left to the caller: in a process that does other work it says nothing.
    """
    try:
        opened = open_package(blob, sha256)
        check_onnx(opened.model)
        model = LoadedModel.load(
            opened, RuntimeOptions(intra_op_threads=threads, providers=providers)
        )
    except PackageError as error:
        return _failed(error.code, error.detail)
    except ContractError as error:
        return _failed(Code.PACKAGE_FORMAT, str(error))
    golden = opened.golden
    try:
        mismatch = golden.find_mismatch(opened.schema, model.infer(golden.features))
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises is a failed test
        mismatch = f"the runtime failed on the golden rows: {words_of(error)}"[:400]
    if mismatch is not None:
        return _failed(Code.SELFTEST_GOLDEN, mismatch)
    p95 = min(_measure_rounds(model, golden.features, limits.latency_ms_p95_max))
    if not p95 <= limits.latency_ms_p95_max:
        return SelfTestResult(
            ok=False,
            code=Code.SELFTEST_LATENCY,
            detail=f"95 % of single rows within {p95:.2f} ms, the profile allows"
            f" {limits.latency_ms_p95_max:.2f} ms",
            latency_ms_p95=p95,
        )
    return SelfTestResult(ok=True, latency_ms_p95=p95)


def _measure_rounds(
    model: LoadedModel, features: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", limit: float
) -> list[float]:
    p95s: list[float] = []
    while len(p95s) < LATENCY_ROUNDS and not (p95s and p95s[-1] <= limit):
        times_ms: list[float] = []
        ends_at = time.perf_counter() + LATENCY_ROUND_S
        while len(times_ms) < LATENCY_RUNS_MIN or (
            len(times_ms) < LATENCY_RUNS and time.perf_counter() < ends_at
        ):
            row = len(times_ms) % len(features)
            began = time.perf_counter()
            model.infer(features[row : row + 1])
            times_ms.append((time.perf_counter() - began) * 1e3)
        p95s.append(float(np.percentile(times_ms, 95)))
    return p95s


def _failed(code: Code, detail: str) -> SelfTestResult:
    return SelfTestResult(ok=False, code=code, detail=detail)
