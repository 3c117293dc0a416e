"""What passes between a builder and the child process that runs a foreign graph: plain files.

JSON, ``.npz`` without objects, a schema, a graph, a package. The child is not trusted: it ran
what somebody sent.
"""

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import (
    ConversionError,
    InvalidRequestError,
    NoRungFitsError,
    ProfileMisfitError,
    RuntimeRefusedError,
)
from converters.metrics import find_metric
from converters.request import (
    BuildRequest,
    BuiltPackage,
    Criterion,
    Effort,
    MeasurementPlan,
    ProfileLimits,
    Smaller,
)
from device_profiles.compatibility import Misfit
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.errors import ContractError, TooLargeError
from edge_agent.contract.fields import Fields, parse_object
from edge_agent.contract.schema import CLASSES_MAX, WIDTH_MAX, ModelSchema, Role

if TYPE_CHECKING:
    from converters.guarded import GuardLimits

Array = NDArray[Any]
JOB, GRAPH, SCHEMA_FILE, ROWS = "job.json", "graph.onnx", "schema.json", "rows.npz"
PACKAGE, BUILT, ANSWERS, REFUSAL = "package.tar", "built.json", "answers.npz", "refusal.json"
FACTS = "facts.json"
REFUSAL_BYTES_MAX = 4_194_304
FACTS_BYTES_MAX = 16_777_216
BUILT_BYTES_MAX = 65_536
_KINDS: dict[str, type[ConversionError]] = {
    kind.__name__: kind for kind in (ConversionError, InvalidRequestError, RuntimeRefusedError)
} | dict.fromkeys(("UnsupportedEstimatorError", "MissingLibraryError"), InvalidRequestError)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltFigures:
    """What the package itself does not say."""

    precision: str
    latency_ms_p95: float
    label_flips: float
    max_abs_error: float
    decision: str
    ir: int
    opset: int
    opset_ml: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a model in a file takes and answers.

    Attributes:
        width: Columns.
        columns: Their names; empty where the file has none of its own.
        classes: How many it tells apart; 0 where it answers numbers.
        shape: Sides of one row where it is no plain list of numbers.
    """

    width: int
    columns: tuple[str, ...]
    classes: int
    shape: tuple[int, ...] = ()


def write_build_job(
    home: Path,
    request: BuildRequest,
    content: bytes,
    limits: "GuardLimits",
    *,
    kind: str = "onnx",
) -> None:
    """Write a build for the child.

    Raises:
        InvalidRequestError: A metric of the caller's own, which the child cannot have.
    """
    metric = request.metric or find_metric(
        "",
        request.schema.task,
        targets=len(request.schema.targets),
        labels=request.schema.labels,
    )
    if find_metric(metric.name, request.schema.task, labels=request.schema.labels) != metric:
        raise InvalidRequestError(
            f"metric {metric.name!r} is not one of the named ones, which foreign graphs need"
        )
    arrays = {
        "calibration": np.asarray(request.calibration),
        "holdout": np.asarray(request.holdout),
        "targets": np.asarray(request.holdout_targets),
    }
    job = {
        "task": "build",
        "kind": kind,
        "limits": asdict(request.limits),
        "metric": metric.name,
        "context": dict(request.evidence_context),
        "plan": asdict(request.plan),
        "effort": str(request.effort),
        "smaller": str(request.smaller),
        "prefer": [str(criterion) for criterion in request.prefer],
    }
    _write_job(home, job, content, request.schema, request.profile, arrays, limits)


def write_answer_job(
    home: Path,
    content: bytes,
    schema: ModelSchema,
    profile: DeviceProfile,
    rows: Array,
    limits: "GuardLimits",
    *,
    kind: str = "onnx",
) -> None:
    """Write rows to be answered for the child."""
    arrays = {"rows": np.asarray(rows, np.float32)}
    _write_job(home, {"task": "answer", "kind": kind}, content, schema, profile, arrays, limits)


def write_describe_job(home: Path, content: bytes, limits: "GuardLimits", *, kind: str) -> None:
    """Write a file for the child to look at."""
    (home / GRAPH).write_bytes(content)
    job = {"task": "describe", "kind": kind, "guard": asdict(limits)}
    (home / JOB).write_text(json.dumps(job))


def write_facts(home: Path, facts: FileFacts) -> None:
    """Write what a file takes and answers for the parent."""
    (home / FACTS).write_text(json.dumps(asdict(facts)))


def read_facts(path: Path) -> FileFacts:
    """Read what ``write_facts`` wrote.

    Raises:
        RuntimeRefusedError: Something else.
    """
    what = "the child's description"
    try:
        content = _read_bounded(path, what, FACTS_BYTES_MAX)
        table = Fields(parse_object(content, what=what, limit_bytes=FACTS_BYTES_MAX), what=what)
        return FileFacts(
            width=table.integer("width", low=1, high=WIDTH_MAX),
            columns=table.items("columns", _read_column, items_max=WIDTH_MAX),
            classes=table.integer("classes", high=CLASSES_MAX),
            shape=table.items("shape", int, (), items_max=8),
        )
    except (ContractError, OSError, ValueError) as error:
        raise RuntimeRefusedError(f"the child process says something else: {error}") from error


def _read_column(value: Any) -> str:
    return str(value)[:128]


def _write_job(
    home: Path,
    job: dict[str, Any],
    content: bytes,
    schema: ModelSchema,
    profile: DeviceProfile,
    arrays: dict[str, Array],
    limits: "GuardLimits",
) -> None:
    if any(array.dtype.hasobject for array in arrays.values()):
        raise InvalidRequestError("rows and targets of a foreign graph are numbers")
    (home / GRAPH).write_bytes(content)
    (home / SCHEMA_FILE).write_bytes(schema.encode())
    with (home / ROWS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    whole = {**job, "profile": profile.to_table(), "guard": asdict(limits)}
    (home / JOB).write_text(json.dumps(whole))


def read_request(home: Path, job: dict[str, Any], estimator: Any) -> BuildRequest:
    """Read what ``write_build_job`` wrote; in the child, where the graph is the estimator."""
    schema = ModelSchema.decode((home / SCHEMA_FILE).read_bytes())
    rows = read_rows(home)
    return BuildRequest(
        estimator=estimator,
        schema=schema,
        profile=DeviceProfile.from_table(job["profile"], source=JOB),
        calibration=rows["calibration"],
        holdout=rows["holdout"],
        holdout_targets=rows["targets"],
        limits=ProfileLimits(**job["limits"]),
        metric=find_metric(job["metric"], schema.task, labels=schema.labels),
        evidence_context=job["context"],
        plan=MeasurementPlan(**job["plan"]),
        effort=Effort(job["effort"]),
        smaller=Smaller(job["smaller"]),
        prefer=tuple(map(Criterion, job["prefer"])),
    )


def read_rows(home: Path) -> dict[str, Array]:
    """Read the arrays of a job."""
    with np.load(home / ROWS, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_built(home: Path, built: BuiltPackage) -> None:
    """Write a package and its figures for the parent."""
    figures = BuiltFigures(
        precision=str(built.precision),
        latency_ms_p95=built.latency_ms_p95,
        label_flips=built.label_flips,
        max_abs_error=built.max_abs_error,
        decision=built.decision,
        ir=built.needs.ir,
        opset=built.needs.opset,
        opset_ml=built.needs.opset_ml,
    )
    (home / BUILT).write_text(json.dumps(asdict(figures)))
    (home / PACKAGE).write_bytes(built.blob)


def read_built(path: Path) -> BuiltFigures:
    """Read the figures of a package; raises ContractError or OSError."""
    what = "the child's figures"
    content = _read_bounded(path, what, BUILT_BYTES_MAX)
    table = Fields(parse_object(content, what=what, limit_bytes=BUILT_BYTES_MAX), what=what)
    precision = table.text("precision", chars_max=32)
    return BuiltFigures(
        precision=str(Precision(precision)) if precision in set(Precision) else "fp32",
        latency_ms_p95=table.number("latency_ms_p95", low=0),
        label_flips=table.number("label_flips", low=0, high=1),
        max_abs_error=table.number("max_abs_error", low=0),
        decision=table.text("decision", chars_max=4_096),
        ir=table.integer("ir", high=1_000),
        opset=table.integer("opset", high=1_000),
        opset_ml=table.integer("opset_ml", high=1_000),
    )


def read_answers(path: Path, schema: ModelSchema, rows: int) -> dict[str, Array]:
    """Read outputs by name, no more of them than the schema has.

    Raises:
        RuntimeRefusedError: Other arrays than the schema's outputs of so many rows.
    """
    width = max(1, schema.probability_columns, len(schema.targets))
    limit = 65_536 + 16 * rows * width * len(schema.outputs)
    try:
        content = _read_bounded(path, "the child's answers", limit)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > limit:
            raise TooLargeError("the child's answers", size, limit)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {output.name: arrays[output.name] for output in schema.outputs}
    except (ContractError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RuntimeRefusedError(f"the child process answered something else: {error}") from error
    for output in schema.outputs:
        array = found[output.name]
        is_table = output.role is Role.PROBABILITIES or output.targets
        wanted = (rows, width) if is_table else (rows,)
        if output.labels:
            wanted = (rows, len(output.labels))
        kind = "i" if output.role is Role.LABEL else "f"
        if array.shape != wanted or array.dtype.kind != kind:
            raise RuntimeRefusedError(
                f"{output.name} of {rows} rows is {array.dtype} {array.shape}, not {wanted}"
            )
    return found


def write_refusal(home: Path, error: ConversionError) -> None:
    """Write why there is nothing."""
    value: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)[:65_536]}
    if isinstance(error, ProfileMisfitError):
        value |= {
            "profile": error.profile_id,
            "misfits": [[misfit.field, misfit.need, misfit.have] for misfit in error.misfits],
        }
    if isinstance(error, NoRungFitsError):
        value |= {
            "profile": error.profile_id,
            "sentence": error.sentence,
            "rungs": [dict(rung) for rung in error.rungs],
        }
    (home / REFUSAL).write_text(json.dumps(value))


def read_refusal(path: Path) -> ConversionError:
    """Make the child's error again."""
    what = "the child's refusal"
    try:
        content = _read_bounded(path, what, REFUSAL_BYTES_MAX)
        table = Fields(parse_object(content, what=what, limit_bytes=REFUSAL_BYTES_MAX), what=what)
        kind, message = table.text("kind"), table.text("message", chars_max=65_536)
        if kind == ProfileMisfitError.__name__:
            return ProfileMisfitError(table.text("profile"), table.items("misfits", _read_misfit))
        if kind == NoRungFitsError.__name__:
            sentence = table.text("sentence", chars_max=65_536)
            return NoRungFitsError(table.text("profile"), sentence, table.items("rungs", dict))
    except (ContractError, OSError, TypeError, ValueError) as error:
        return RuntimeRefusedError(f"the child process says something else: {error}")
    return _KINDS.get(kind, RuntimeRefusedError)(message)


def _read_misfit(value: Any) -> Misfit:
    name, need, have = map(str, value)
    return Misfit(field=name, need=need, have=have)


def _read_bounded(path: Path, what: str, limit: int) -> bytes:
    size = path.stat().st_size
    if size > limit:
        raise TooLargeError(what, size, limit)
    return path.read_bytes()
