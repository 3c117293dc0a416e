"""Climb a ladder: build its rungs, then time them against each other and measure their memory."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.calibration import pick_calibration
from converters.criteria import Samples, draw_scores, draw_shares, find_spread
from converters.ladder import LadderLimits, Rung
from converters.measure import measure_latencies
from converters.memory import PROBE, Footprint
from converters.request import BuildRequest, Effort
from converters.rows import Rows
from converters.rungs import (
    BuiltRung,
    Exam,
    Workshop,
    build_base,
    build_compact,
    build_precisions,
)
from converters.smaller import build_smaller
from converters.source import SourceModel

Array = NDArray[Any]
ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Every rung, measured; ``built`` holds those that exist.

    Attributes:
        rungs: fp32 first.
        built: By name.
        limits: What must hold.
        runs: Timed calls of each rung in one round.
        notes: What is worth saying about the rows it was calibrated with and the measurement.
    """

    rungs: tuple[Rung, ...]
    built: Mapping[str, BuiltRung]
    limits: LadderLimits
    runs: Mapping[str, int]
    notes: tuple[str, ...]


def climb(
    request: BuildRequest,
    rows: Rows,
    exam: Exam,
    fp32: bytes,
    limits: LadderLimits,
    source: SourceModel,
) -> Ladder:
    """Build, compare and measure what the profile allows and the request asks for."""
    calibration = pick_calibration(rows.calibration)
    work = Workshop(request=request, rows=rows, exam=exam, calibration=calibration, limits=limits)
    build_base(work, fp32)
    is_brief = request.effort is Effort.BRIEF
    if not is_brief:
        fp32 = build_compact(work, fp32)
        build_precisions(work, fp32)
        build_smaller(work, fp32, source)
    latencies = measure_latencies(
        {name: one.runner for name, one in work.built.items()}, rows.holdout, request.plan
    )
    is_alone = len(work.built) == 1  # nothing to compare with, so no samples are drawn
    truth = np.zeros(0) if is_alone else _draw(exam, exam.truth)
    notes = list(calibration.notes)
    rungs = []
    for rung in work.rungs:
        if not rung.is_built:
            rungs.append(rung)
            continue
        one, latency = work.built[rung.name], latencies[rung.name]
        footprint = Footprint()
        if not is_brief:
            footprint = PROBE.measure(one.model, rows.holdout, request.profile)
        if footprint.note:
            notes.append(f"{rung.name}: {footprint.note}")
        scores = np.zeros(0) if is_alone else _draw(exam, one.outputs)
        sign = 1 if exam.metric.is_higher_better else -1
        lost = sign * (truth - scores) if truth.size == scores.size else np.zeros(0)
        spread = find_spread(lost) if lost.size else None
        rungs.append(
            replace(
                rung,
                load_ms=footprint.load_ms,
                latency_ms_p50=latency.p50_ms,
                latency_ms_p95=latency.p95_ms,
                latency_ratio=latency.ratio,
                rss_bytes=footprint.rss_bytes,
                metric_drop_low=spread.low if spread else rung.metric_drop,
                metric_drop_high=spread.high if spread else rung.metric_drop,
                samples=Samples(
                    latency_ms=latency.rounds_ms,
                    hits=_find_hits(exam, one.outputs),
                    scores=scores,
                    is_higher_better=exam.metric.is_higher_better,
                ),
            )
        )
    return Ladder(
        rungs=tuple(rungs),
        built=work.built,
        limits=limits,
        runs={name: latency.runs for name, latency in latencies.items()},
        notes=tuple(dict.fromkeys(notes)),
    )


def _draw(exam: Exam, outputs: Mapping[str, Array]) -> Array:
    """Give the metric over resamples of the held-out rows, the same for every rung."""
    hits = _find_hits(exam, outputs)
    if hits is not None:
        return draw_shares(hits)

    def score(places: Array) -> float:
        drawn = {name: values[places] for name, values in outputs.items()}
        return float(exam.metric.score(exam.targets[places], drawn))

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a resample may lack a class
        return draw_scores(len(exam.targets), score)


def _find_hits(exam: Exam, outputs: Mapping[str, Array]) -> Array | None:
    if exam.metric.name != ACCURACY or exam.schema.labels:
        return None
    found: Array = np.asarray(outputs["label"]) == exam.targets
    return found
