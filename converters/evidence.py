"""``evidence.json``: how a package came to be, with every number that decided.

Numbers only from held-out rows. Latencies are measured, so they alone differ between two builds of
the same inputs; nothing else here depends on time. Non-finite numbers are written as text, which
JSON has no other way for.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.ladder import Choice, LadderLimits, Rung
from converters.metrics import (
    SUBSET_ACCURACY,
    PrimaryMetric,
    score_labels,
    score_subset,
    score_targets,
)
from converters.pareto import find_front, point_of
from converters.parity import Parity, WorstRow
from converters.request import MeasurementPlan
from edge_agent.contract.fields import dump_object, parse_object
from edge_agent.contract.schema import ModelSchema, Role, Task

Array = NDArray[Any]
EVIDENCE_FORMAT = 1
EVIDENCE_BYTES_MAX = 4_194_304
CONFUSION_CLASSES_MAX = 64
_FIGURES = (
    *("model_bytes", "load_ms", "latency_ms_p50", "latency_ms_p95", "rss_bytes", "flip_share"),
    *("rows_off_share", "max_abs_error", "error_quantiles", "metric", "metric_drop"),
)
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx")


def encode_evidence(evidence: Mapping[str, Any]) -> bytes:
    """Encode; the same evidence always gives the same bytes.

    Raises:
        InvalidRequestError: Not JSON values, or larger than a package may carry.
    """
    try:
        content = dump_object(_finite(evidence))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"evidence_context holds more than JSON values: {error}"
        ) from error
    if len(content) > EVIDENCE_BYTES_MAX:
        raise InvalidRequestError(
            f"evidence has {len(content)} bytes, the limit is {EVIDENCE_BYTES_MAX}"
        )
    return content


def describe_rungs(
    rungs: Sequence[Rung], choice: Choice, hashes: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Give every rung with its numbers and the reasons against it."""
    front = {point.name for point in find_front([point_of(r) for r in rungs if r.is_built])}
    described = []
    for rung in rungs:
        entry: dict[str, Any] = {
            "name": rung.name,
            "precision": str(rung.precision),
            "is_built": rung.is_built,
        }
        if rung.settings:
            entry["settings"] = rung.settings
        if rung.is_built:
            entry |= {name: getattr(rung, name) for name in _FIGURES}
            entry["latency_ratio"] = rung.latency_ratio.value
            entry["latency_ratio_interval"] = [rung.latency_ratio.low, rung.latency_ratio.high]
            if rung.samples is not None and rung.samples.scores.size:
                entry["metric_drop_interval"] = [rung.metric_drop_low, rung.metric_drop_high]
            entry["sha256"] = hashes[rung.name]
            entry["reasons_against"] = list(choice.refusals.get(rung.name, ()))
            if rung.name in choice.beaten:
                entry["beaten_by"] = choice.beaten[rung.name]
            entry["is_on_front"] = rung.name in front
        else:
            entry["note"] = rung.note
        described.append(entry)
    return described


def describe_parity(parity: Parity, tolerance: float) -> dict[str, Any]:
    """Give the comparison with the source, worst rows included."""
    described: dict[str, Any] = {
        "tolerance": tolerance,
        "rows": parity.rows,
        "flips": parity.flips,
        "rows_off": parity.rows_off,
        "max_abs_error": parity.max_abs_error,
        "error_quantiles": parity.error_quantiles,
        "worst": [_describe_worst(row) for row in parity.worst],
    }
    if parity.targets:
        described["targets"] = [asdict(target) for target in parity.targets]
    if parity.labels:
        described["labels"] = [asdict(label) for label in parity.labels]
    return described


def _describe_worst(row: WorstRow) -> dict[str, Any]:
    described = asdict(row)
    for name in ("target", "label"):
        if not described[name]:
            del described[name]
    return described


def describe_answers(
    schema: ModelSchema, targets: Array, outputs: Mapping[str, Array]
) -> dict[str, Any]:
    """Give the confusion matrix of a classification or the residuals of a regression."""
    if schema.task is Task.REGRESSION:
        residuals = np.asarray(outputs[Role.VALUE], np.float64) - targets
        if not schema.targets:
            return {"residual_percentiles": _find_percentiles(residuals)}
        each = zip(schema.targets, residuals.T, strict=True)
        return {"residual_percentiles": {name: _find_percentiles(own) for name, own in each}}
    truth, told = np.asarray(targets, np.int64), np.asarray(outputs[Role.LABEL])
    if schema.labels:
        if schema.probability_columns > CONFUSION_CLASSES_MAX * 2:
            return {}
        counts_of = {
            label.name: _confuse(truth[:, n], told[:, n], len(label.classes))
            for n, label in enumerate(schema.labels)
        }
        return {"confusion": {"rows": "truth", "columns": "prediction", "labels": counts_of}}
    classes = len(schema.classes)
    if classes > CONFUSION_CLASSES_MAX:
        return {}
    counts = _confuse(truth, told, classes)
    return {"confusion": {"rows": "truth", "columns": "prediction", "counts": counts}}


def _confuse(truth: Array, told: Array, classes: int) -> list[list[int]]:
    counts = np.bincount(truth * classes + told, minlength=classes * classes)
    table: list[list[int]] = counts.reshape(classes, classes).tolist()
    return table


def describe_metric_of_each(
    schema: ModelSchema,
    metric: PrimaryMetric,
    targets: Array,
    source: Mapping[str, Array],
    shipped: Mapping[str, Array],
) -> dict[str, Any]:
    """Give the metric of each target or label, of the source and of what ships; else nothing.

    Of several labels also the share of rows of which all are right.
    """
    if schema.labels:
        pair = (source, shipped)
        each = [score_labels(metric, targets, outputs) for outputs in pair]
        exact = [score_subset(targets, outputs) for outputs in pair]
        return {
            SUBSET_ACCURACY: {"source": exact[0], "shipped": exact[1]},
            "labels": {
                label.name: {"source": was, "shipped": now}
                for label, was, now in zip(schema.labels, *each, strict=False)
            },
        }
    if not schema.targets:
        return {}
    scores = [score_targets(metric, targets, outputs) for outputs in (source, shipped)]
    return {
        "targets": {
            name: {"source": was, "shipped": now}
            for name, was, now in zip(schema.targets, *scores, strict=True)
        }
    }


def _find_percentiles(residuals: Array) -> dict[str, float]:
    shares = (0, 5, 25, 50, 75, 95, 100)
    return {str(share): float(np.percentile(residuals, share)) for share in shares}


def describe_limits(limits: LadderLimits) -> dict[str, Any]:
    """Give the limits that were in force."""
    return asdict(limits)


def describe_front(plan: MeasurementPlan) -> dict[str, Any]:
    """Give what of every latency is the way of a picture to the network; nothing without one."""
    if plan.front_ms_p95 == 0:
        return {}
    return {"front_ms": {"p50": plan.front_ms_p50, "p95": plan.front_ms_p95}}


@cache
def describe_machine() -> Mapping[str, Any]:
    """Name what the figures were measured with; looked up once a process."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return {"arch": platform.machine(), "versions": versions}


def read_evidence(content: bytes) -> dict[str, Any]:
    """Read what ``encode_evidence`` wrote; raises ContractError."""
    return parse_object(content, what="evidence.json", limit_bytes=EVIDENCE_BYTES_MAX)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
