"""Run foreign graphs in a child process: what they do to onnxruntime, they do to the child.

A crash, a hang or a hunger for memory of the child becomes a refusal with the reason. Nothing of
what comes back is a pickle: packages, JSON and plain arrays, all bounded and checked like any
file from outside.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from converters.errors import ConversionError, RuntimeRefusedError
from converters.evidence import read_evidence
from converters.guarded_files import (
    ANSWERS,
    BUILT,
    FACTS,
    PACKAGE,
    REFUSAL,
    FileFacts,
    read_answers,
    read_built,
    read_facts,
    read_refusal,
    write_answer_job,
    write_build_job,
    write_describe_job,
)
from converters.request import BuildRequest, BuiltPackage
from converters.rows import check_rows
from device_profiles.compatibility import PackageNeeds
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.errors import ContractError
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.package import EVIDENCE, MODEL, REFERENCE, SCHEMA, unpack_members
from edge_agent.contract.schema import ModelSchema
from edge_agent.statistics.reference import Reference

Array = NDArray[Any]
CHILD = (sys.executable, "-m", "converters.guarded_child")
_CLASS = re.compile(r"^[\w.]*(?:Error|Exception|Warning): ")
LATE_S = 15.0
"""The child ends itself when its time is up; this much later it is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLimits:
    """What a foreign graph may cost.

    Attributes:
        memory_bytes_max: Data of the child process.
        first_answer_s: Until the graph is loaded and has answered one row.
        total_s: Until everything is done.
    """

    memory_bytes_max: int = 4_294_967_296
    first_answer_s: float = 60.0
    total_s: float = 1_800.0


def build_guarded(
    request: BuildRequest, content: bytes, limits: GuardLimits, *, kind: str = "onnx"
) -> BuiltPackage:
    """Build the package of a foreign model in a child process.

    Raises:
        ConversionError: As ``build_package``.
        RuntimeRefusedError: Also when the child crashes, hangs or asks for too much memory.
    """
    check_rows(request.schema, request.calibration, request.holdout, request.holdout_targets)
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
        home = Path(name)
        write_build_job(home, request, content, limits, kind=kind)
        run_child(home, limits)
        return read_package(home, request.schema)


def answer_guarded(
    content: bytes,
    schema: ModelSchema,
    profile: DeviceProfile,
    rows: Array,
    limits: GuardLimits,
    *,
    kind: str = "onnx",
) -> dict[str, Array]:
    """Have a foreign model answer rows in a child process.

    Raises:
        ConversionError: The graph is refused, or crashes, hangs or asks for too much memory.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
        home = Path(name)
        write_answer_job(home, content, schema, profile, rows, limits, kind=kind)
        run_child(home, limits)
        return read_answers(home / ANSWERS, schema, len(rows))


def describe_guarded(content: bytes, limits: GuardLimits, *, kind: str) -> FileFacts:
    """Have a child process tell what a foreign model takes and answers.

    Raises:
        ConversionError: The file is refused, or its library crashes, hangs or asks for too much.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
        home = Path(name)
        write_describe_job(home, content, limits, kind=kind)
        run_child(home, limits)
        return read_facts(home / FACTS)


def run_child(home: Path, limits: GuardLimits, *, child: Sequence[str] = CHILD) -> None:
    """Run the job in a folder and wait for it.

    Args:
        home: Holds the job; takes what comes of it.
        limits: The child keeps them itself; the total is kept here as well.
        child: Command, to which the folder is added.

    Raises:
        ConversionError: What the child refused, or what happened to it.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*child, os.fspath(home)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise RuntimeRefusedError(
                f"the process that runs foreign graphs does not start: {error}"
            ) from error
        try:
            status = process.wait(limits.total_s + LATE_S)
        except subprocess.TimeoutExpired:
            status = -signal.SIGALRM
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if (home / REFUSAL).exists() and status == 1:
            raise read_refusal(home / REFUSAL)
        if status:
            raise RuntimeRefusedError(_explain(status, limits, errors))


def _explain(status: int, limits: GuardLimits, errors: IO[bytes]) -> str:
    memory = f"the limit is {limits.memory_bytes_max / 2**20:.0f} MiB"
    if status == -signal.SIGALRM:
        return (
            f"the foreign graph did not answer one row within {limits.first_answer_s:g} s, or was"
            f" not done within {limits.total_s:g} s; its child process was ended"
        )
    if status == -signal.SIGKILL:
        return f"the child process with the foreign graph was killed for its memory; {memory}"
    if status < 0:
        return f"onnxruntime crashed on the foreign graph ({_signal_name(-status)})"
    return f"the child process with the foreign graph ended with status {status}: {_last(errors)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2_048))
    lines = errors.read(2_048).decode(errors="replace").strip().splitlines()
    if not lines:
        return "no word of why"
    return ascii(_CLASS.sub("", lines[-1])[:300])[1:-1]


def read_package(home: Path, wanted: ModelSchema) -> BuiltPackage:
    """Take the child's package as one takes a package from anybody.

    Raises:
        ConversionError: It is no package, or one of another schema.
    """
    try:
        figures = read_built(home / BUILT)
        blob = (home / PACKAGE).read_bytes()
        members = unpack_members(blob)
        check_onnx(members[MODEL])
        schema = ModelSchema.decode(members[SCHEMA])
        Reference.decode(members[REFERENCE])
        evidence = read_evidence(members[EVIDENCE])
        needs = PackageNeeds.from_evidence(evidence, package_bytes=len(blob))
    except (ContractError, OSError, ValueError) as error:
        raise ConversionError(f"what the child process built is not a package: {error}") from error
    if schema != wanted:
        raise ConversionError("what the child process built has another schema")
    return BuiltPackage(
        blob=blob,
        sha256=hashlib.sha256(blob).hexdigest(),
        precision=Precision(figures.precision),
        evidence=evidence,
        latency_ms_p95=figures.latency_ms_p95,
        label_flips=figures.label_flips,
        max_abs_error=figures.max_abs_error,
        decision=figures.decision,
        schema=schema,
        reference=members[REFERENCE],
        needs=needs,
    )
