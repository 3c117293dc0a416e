"""Test a package apart from the agent: a crash, a hang or a hunger for memory is a failed test.

The child (``self_test_child.py``) reads the blob, hashes it again, loads it, answers the golden
vectors, measures latency and its own memory, and says so in one line of JSON. Whatever else
happens to it is turned into a code here; nothing a package does raises in the agent.

``check_package`` is the same test without the child, for simulated devices.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions, open_package
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import Fields, parse_object
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.errors import PackageError
from edge_agent.ports import BlobStore, SelfTestLimits, SelfTestResult

CHILD = (sys.executable, "-m", "edge_agent.adapters.self_test_child")
ANSWER_BYTES_MAX = 65_536
LATENCY_RUNS = 100
LATENCY_RUNS_MIN = 5
LATENCY_ROUND_S = 1.0
LATENCY_ROUNDS = 3
"""A busy device makes one round slow; only a package slow in every round is slow."""


class ChildSelfTester:
    """Tests blobs of a store in child processes, one after another; slow."""

    def __init__(self, blobs: BlobStore, limits: SelfTestLimits, *, threads: int) -> None:
        self._blobs, self._limits, self._threads = blobs, limits, threads

    def test(self, sha256: str) -> SelfTestResult:
        """Test the blob of that hash; never raises for what the package does."""
        return run_self_test(self._blobs.path(sha256), sha256, self._limits, self._threads)


def run_self_test(
    blob_path: Path,
    sha256: str,
    limits: SelfTestLimits,
    threads: int,
    *,
    child: Sequence[str] = CHILD,
) -> SelfTestResult:
    """Run the child and wait for it, at most ``limits.timeout_s``.

    Args:
        blob_path: The package; the child hashes it again.
        sha256: What was signed.
        limits: Of the device profile.
        threads: Of one request, as it will be served.
        child: Command of the child, to which the request is added as one argument.
    """
    request = json.dumps(
        {
            "path": os.fspath(blob_path),
            "sha256": sha256,
            "threads": threads,
            "latency_ms_p95_max": limits.latency_ms_p95_max,
            "rss_bytes_max": limits.rss_bytes_max,
            "timeout_s": limits.timeout_s,
        }
    )
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*child, request],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            # The device's fault, not the package's: a code that is tried again.
            return _failed(Code.DISK_ERROR, f"the self-test could not be started: {error}")
        try:
            status = process.wait(limits.timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return _failed(
                Code.SELFTEST_TIMEOUT, f"the self-test did not end within {limits.timeout_s:.0f} s"
            )
        return _read_outcome(status, output, errors)


def check_package(blob: bytes, sha256: str, limits: SelfTestLimits, threads: int) -> SelfTestResult:
    """Hash, check, load, compare with the golden vectors and measure latency, in this process.

    The graph is checked byte by byte before the runtime sees it. That is done here once, not at
    every load: what is loaded later has the hash that passed.

    Memory is left to the caller: in a process that does other work it says nothing.
    """
    try:
        opened = open_package(blob, sha256)
        check_onnx(opened.model)
        model = LoadedModel.load(opened, RuntimeOptions(intra_op_threads=threads))
    except PackageError as error:
        return _failed(error.code, error.detail)
    except ContractError as error:
        return _failed(Code.PACKAGE_FORMAT, str(error))
    golden = opened.golden
    try:
        mismatch = golden.find_mismatch(opened.schema, model.infer(golden.features))
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises is a failed test
        mismatch = f"the runtime failed: {type(error).__name__}: {error}"[:400]
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


def _read_outcome(status: int, output: IO[bytes], errors: IO[bytes]) -> SelfTestResult:
    if status == -signal.SIGKILL:
        return _failed(
            Code.SELFTEST_MEMORY, "the child was killed, as the kernel does when memory runs out"
        )
    if status < 0:
        return _failed(Code.SELFTEST_CRASH, f"the child died of {_signal_name(-status)}")
    if status > 0:
        return _failed(
            Code.SELFTEST_CRASH, f"the child ended with status {status}: {_last_line(errors)}"
        )
    output.seek(0)
    try:
        return decode_result(output.read(ANSWER_BYTES_MAX + 1))
    except (ContractError, ValueError) as error:
        return _failed(Code.SELFTEST_CRASH, f"the child's answer makes no sense: {error}"[:400])


def encode_result(result: SelfTestResult) -> bytes:
    """Encode what the child found, one line of JSON."""
    return json.dumps(
        {
            "ok": result.ok,
            "code": result.code,
            "detail": result.detail[:512],
            "latency_ms_p95": result.latency_ms_p95,
            "rss_bytes": result.rss_bytes,
        }
    ).encode()


def decode_result(payload: bytes) -> SelfTestResult:
    """Decode what the child found; raises ContractError or ValueError."""
    what = "self-test answer"
    fields = Fields(parse_object(payload, what=what, limit_bytes=ANSWER_BYTES_MAX), what=what)
    is_ok, code = fields.flag("ok"), fields.optional("code")
    if is_ok != (code is None):
        raise ValueError(f"ok {is_ok} with code {code!r:.40}")
    has_latency = fields.rest().get("latency_ms_p95") is not None
    has_memory = fields.rest().get("rss_bytes") is not None
    return SelfTestResult(
        ok=is_ok,
        code=None if code is None else Code(code),
        detail=fields.text("detail", ""),
        latency_ms_p95=fields.number("latency_ms_p95", low=0) if has_latency else None,
        rss_bytes=fields.integer("rss_bytes") if has_memory else None,
    )


def _failed(code: Code, detail: str) -> SelfTestResult:
    return SelfTestResult(ok=False, code=code, detail=detail)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2_048))
    lines = errors.read(2_048).decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no word of why"
