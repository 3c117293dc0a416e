"""Build every rung the profile allows, compare each with the source and time them together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from converters.errors import ConversionError
from converters.ladder import LadderLimits, Rung
from converters.measure import Latency, measure_latencies
from converters.metrics import PrimaryMetric
from converters.parity import Parity, compare_outputs
from converters.quantize import quantize
from converters.request import BuildRequest
from converters.rows import Rows
from converters.runtime import GraphRunner
from device_profiles.profile import Precision
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The held-out questions with the source's answers."""

    schema: ModelSchema
    targets: Array
    truth: Mapping[str, Array]
    metric: PrimaryMetric
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltRung:
    """One rung that exists."""

    model: bytes
    runner: GraphRunner
    outputs: Mapping[str, Array]
    parity: Parity


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Every rung, measured; ``built`` holds those that exist."""

    rungs: tuple[Rung, ...]
    built: Mapping[Precision, BuiltRung]
    limits: LadderLimits
    runs: Mapping[str, int]


def climb(
    request: BuildRequest, rows: Rows, exam: Exam, fp32: bytes, limits: LadderLimits
) -> Ladder:
    """Build, compare and time every precision the profile allows."""
    notes: dict[Precision, str] = {}
    built = {Precision.FP32: _try_model(fp32, request, rows, exam)}
    for precision in request.profile.precisions:
        if precision is Precision.FP32:
            continue
        result = quantize(fp32, precision, rows.calibration, request.profile)
        if result.model is None:
            notes[precision] = result.note
            continue
        try:
            built[precision] = _try_model(result.model, request, rows, exam)
        except ConversionError as error:
            notes[precision] = str(error)
    latencies = measure_latencies(
        {precision: one.runner for precision, one in built.items()}, rows.holdout, request.plan
    )
    rungs = [Rung(precision=precision, note=note) for precision, note in notes.items()]
    rungs += [_measured(p, one, latencies[p], exam) for p, one in built.items()]
    order = list(Precision)
    return Ladder(
        rungs=tuple(sorted(rungs, key=lambda rung: order.index(rung.precision))),
        built=built,
        limits=limits,
        runs={str(precision): latency.runs for precision, latency in latencies.items()},
    )


def _try_model(model: bytes, request: BuildRequest, rows: Rows, exam: Exam) -> BuiltRung:
    runner = GraphRunner(model, request.profile)
    outputs = runner.run(rows.holdout)
    return BuiltRung(
        model=model,
        runner=runner,
        outputs=outputs,
        parity=compare_outputs(exam.schema.task, exam.truth, outputs),
    )


def _measured(precision: Precision, one: BuiltRung, latency: Latency, exam: Exam) -> Rung:
    score = float(exam.metric.score(exam.targets, one.outputs))
    return Rung(
        precision=precision,
        model_bytes=len(one.model),
        latency_ms_p50=latency.p50_ms,
        latency_ms_p95=latency.p95_ms,
        latency_ratio=latency.ratio,
        latency_noise=latency.noise,
        flip_share=one.parity.flip_share,
        rows_off_share=one.parity.rows_off_share,
        max_abs_error=one.parity.max_abs_error,
        metric=score,
        metric_drop=exam.metric.drop(exam.score, score),
    )
