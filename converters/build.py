"""Build a package: convert, quantize where it helps, compare, measure, choose, pack, try.

``build_package`` is the one way in. Nothing is returned that did not load with onnxruntime from
its own bytes, answer its golden rows and keep every limit. Foreign graphs are built in a child
process (``guarded.py``). The same inputs give the same package
but for the measured times and memory in ``evidence.json``.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from converters.climb import Ladder, climb
from converters.errors import NoRungFitsError
from converters.evidence import describe_rungs
from converters.from_file import ForeignModel
from converters.guarded import build_guarded
from converters.interface import check_schema
from converters.ladder import LadderLimits, choose_rung
from converters.memory import PROBE
from converters.metrics import PrimaryMetric, find_metric
from converters.normalise import normalise
from converters.packing import pack_rung
from converters.parity import compare_outputs
from converters.request import BuildRequest, BuiltPackage, Effort, MeasurementPlan, ProfileLimits
from converters.rows import Rows, check_rows
from converters.rungs import Exam
from converters.shrink_trees import shrink_trees
from converters.source import SourceModel, Try
from converters.unseen import note_unseen

__all__ = [
    "BuildRequest",
    "BuiltPackage",
    "MeasurementPlan",
    "PrimaryMetric",
    "ProfileLimits",
    "build_package",
    "find_metric",
]

LABEL_FLIPS_DEFAULT = 0.02
ROWS_OFF_DEFAULT = 0.01
METRIC_DROP_SHARE_DEFAULT = 0.01
METRIC_DROP_DEFAULT_MIN = 1e-4


def build_package(request: BuildRequest) -> BuiltPackage:
    """Build one package for one profile.

    Raises:
        InvalidRequestError: Rows, targets, schema or context do not fit together.
        UnsupportedEstimatorError: The estimator has no faithful graph.
        ProfileMisfitError: The graph needs more than the profile allows.
        NoRungFitsError: No precision keeps the limits; carries every number.
        RuntimeRefusedError: onnxruntime of this machine refuses the graph.
    """
    model = request.estimator
    if isinstance(model, ForeignModel):
        check_schema(request.schema)
        return build_guarded(request, model.content, model.limits, kind=model.kind)
    from converters.sources import make_source

    is_fed_float32 = np.asarray(request.holdout).dtype == np.float32
    source = make_source(request.estimator, request.schema, is_fed_float32=is_fed_float32)
    return build_loaded(request, source)


def build_loaded(request: BuildRequest, source: SourceModel) -> BuiltPackage:
    """Build one package from a source that runs in this process; see ``build_package``."""
    check_schema(request.schema)
    if request.effort is not Effort.BRIEF:
        PROBE.start()
    rows = check_rows(request.schema, request.calibration, request.holdout, request.holdout_targets)
    unseen = note_unseen(request.schema, rows.holdout)
    conversion = source.convert(request.schema, request.profile, rows.holdout)
    targets = source.index_targets(request.holdout_targets)
    metric = request.metric or find_metric(
        "",
        request.schema.task,
        targets=len(request.schema.targets),
        labels=request.schema.labels,
    )
    truth = source.answer(rows.holdout)
    exam = Exam(
        schema=request.schema,
        targets=targets,
        truth=truth,
        metric=metric,
        score=float(metric.score(targets, truth)),
    )
    fp32 = _shrunk(conversion.model, request)
    ladder = climb(request, rows, exam, fp32, _merge_limits(request, exam), source)
    ladder = replace(ladder, notes=(*unseen, *ladder.notes))
    background = {
        "source": source.name,
        "repairs": list(conversion.repairs),
        "tries": [asdict(one) for one in conversion.tries],
        "input_rounding": _describe_rounding(source, rows, exam),
    }
    return _ship(request, rows, exam, ladder, background, {})


def _shrunk(model: ModelProto, request: BuildRequest) -> bytes:
    small = ModelProto()
    small.CopyFrom(model)
    shrink_trees(small)
    return normalise(small, request.profile)


def _merge_limits(request: BuildRequest, exam: Exam) -> LadderLimits:
    asked, profile = request.limits, request.profile
    drop = asked.metric_drop_max
    if drop is None:
        drop = max(METRIC_DROP_DEFAULT_MIN, METRIC_DROP_SHARE_DEFAULT * abs(exam.score))
    return LadderLimits(
        latency_ms_p95_max=min(
            profile.latency_ms_p95_max, asked.latency_ms_p95_max or profile.latency_ms_p95_max
        ),
        package_bytes_max=min(
            profile.package_bytes_max, asked.package_bytes_max or profile.package_bytes_max
        ),
        rss_bytes_max=profile.rss_bytes_max,
        error_max=asked.error_max,
        metric_drop_max=drop,
        label_flips_max=_first(asked.label_flips_max, LABEL_FLIPS_DEFAULT),
        rows_off_max=_first(asked.rows_off_max, ROWS_OFF_DEFAULT),
    )


def _first(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def _describe_rounding(source: SourceModel, rows: Rows, exam: Exam) -> dict[str, Any]:
    """Tell what rounding the inputs to float32 alone does to the source's answers."""
    if rows.is_exact:
        return {"is_exact": True}
    raw = source.answer(rows.holdout_raw)
    parity = compare_outputs(exam.schema.task, raw, exam.truth)
    return {
        "is_exact": False,
        "flips": parity.flips,
        "rows_off": parity.rows_off,
        "max_abs_error": parity.max_abs_error,
    }


def _explain_changes(background: Mapping[str, Any]) -> str:
    """Name what was done to a graph that no longer answers as its source; empty if it does."""
    tries, repairs = background["tries"], background["repairs"]
    if not repairs or not tries or any(Try(**one).is_exact for one in tries):
        return ""
    return f"; the graph differs from its source after: {'; '.join(repairs)}"


def _ship(
    request: BuildRequest,
    rows: Rows,
    exam: Exam,
    ladder: Ladder,
    background: Mapping[str, Any],
    too_large: Mapping[str, int],
) -> BuiltPackage:
    """Pack the best rung; one whose whole package is too large makes room for the next.

    Args:
        request: What was asked for.
        rows: Checked rows.
        exam: The held-out questions.
        ladder: Every rung, measured.
        background: Goes into the evidence.
        too_large: Package sizes of rungs that were packed already and did not fit.
    """
    hashes = {name: hashlib.sha256(one.model).hexdigest() for name, one in ladder.built.items()}
    choice = choose_rung(ladder.rungs, ladder.limits, too_large, request.order)
    described = describe_rungs(ladder.rungs, choice, hashes)
    if choice.name is None:
        sentence = choice.sentence + _explain_changes(background)
        raise NoRungFitsError(request.profile.id, sentence, described)
    package = pack_rung(request, rows, exam, ladder, choice, {**background, "ladder": described})
    if len(package.blob) <= ladder.limits.package_bytes_max:
        return package
    sizes = {**too_large, choice.name: len(package.blob)}
    return _ship(request, rows, exam, ladder, background, sizes)
