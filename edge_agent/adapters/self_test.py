"""Test a package apart from the agent: a crash, a hang or a hunger for memory is a failed test.

The child (``self_test_child.py``) reads the blob, hashes it again, loads it, answers the golden
vectors, measures latency and its own memory, and says so in one line of JSON. Whatever else
happens to it is turned into a code here; nothing a package does raises in the agent.

``package_check.py`` is the same test without the child, for simulated devices.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_agent.adapters.child_process import ChildEnd, run_child, say_status
from edge_agent.adapters.execution_providers import CPU_ONLY, ProviderWish
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import Fields, parse_object
from edge_agent.ports import BlobStore, SelfTestLimits, SelfTestResult

CHILD = (sys.executable, "-m", "edge_agent.adapters.self_test_child")
ANSWER_BYTES_MAX = 65_536


class ChildSelfTester:
    """Tests blobs of a store in child processes, one after another; slow."""

    def __init__(
        self,
        blobs: BlobStore,
        limits: SelfTestLimits,
        *,
        threads: int,
        providers: ProviderWish = CPU_ONLY,
    ) -> None:
        self._blobs, self._limits, self._threads = blobs, limits, threads
        self._providers = providers

    def test(self, sha256: str) -> SelfTestResult:
        """Test the blob of that hash; never raises for what the package does."""
        path = self._blobs.path(sha256)
        return run_self_test(path, sha256, self._limits, self._threads, providers=self._providers)


def run_self_test(
    blob_path: Path,
    sha256: str,
    limits: SelfTestLimits,
    threads: int,
    *,
    providers: ProviderWish = CPU_ONLY,
    child: Sequence[str] = CHILD,
) -> SelfTestResult:
    """Run the child and wait for it, at most ``limits.timeout_s``.

    Args:
        blob_path: The package; the child hashes it again.
        sha256: What was signed.
        limits: Of the device profile.
        threads: Of one request, as it will be served.
        providers: What computes, as it will be served.
        child: Command of the child, to which the request is added as one argument.
    """
    request = json.dumps(
        {
            "path": os.fspath(blob_path),
            "sha256": sha256,
            "threads": threads,
            "providers": providers.to_json(),
            "latency_ms_p95_max": limits.latency_ms_p95_max,
            "rss_bytes_max": limits.rss_bytes_max,
            "timeout_s": limits.timeout_s,
        }
    )
    try:
        end = run_child(
            [*child, request], timeout_s=limits.timeout_s, output_bytes_max=ANSWER_BYTES_MAX
        )
    except OSError as error:
        # The device's fault, not the package's: a code that is tried again.
        return _failed(Code.DISK_ERROR, f"the self-test could not be started: {error}")
    return _judge(end, limits)


def _judge(end: ChildEnd, limits: SelfTestLimits) -> SelfTestResult:
    if end.status is None:
        return _failed(
            Code.SELFTEST_TIMEOUT, f"the self-test did not end within {limits.timeout_s:.0f} s"
        )
    if end.status != 0:
        code = Code.SELFTEST_MEMORY if end.status == -signal.SIGKILL else Code.SELFTEST_CRASH
        why = f": {end.last_words}" if end.status > 0 else ""
        return _failed(code, f"the child {say_status(end.status)}{why}")
    try:
        return decode_result(end.output)
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
