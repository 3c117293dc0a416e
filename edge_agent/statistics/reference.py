"""``reference.json``: the training distribution a device's windows are compared with.

Bins are fixed here once, at build time: quantile edges of the training rows, rounded to nothing
(each edge *is* a float32 training value), so a device that compares float32 with float32 puts
a training row into the bin it was counted in. A value that many rows share gets a bin of its own;
ties make fewer bins, never empty ones. A category has a bin for each of its commonest values and
one for the rest (``category_bins.py``).

Left out: the test (``fleet_server/core/drift_test.py``) and the counting (``binning.py``).
Invariants: edges strictly ascend and lie above ``low``; counts match the layout; the same input
gives the same bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.schema import CATEGORIES_MAX, Dtype, Feature, ModelSchema, Role, Task
from edge_agent.statistics.category_bins import group_categories
from edge_agent.statistics.reference_fields import (
    check_counts,
    check_edges,
    read_code,
    read_count,
    read_number,
    read_text,
)

REFERENCE_FORMAT = 1
REFERENCE_FORMAT_TYPED = 2
"""Of references with categories, which older code would bin wrongly."""
REFERENCE_BYTES_MAX = 4_194_304
BINS_MAX = 10
COLUMNS_MAX = 1_024
"""Columns watched; of a wider input an evenly spaced part is watched."""
CLASSES_MAX = 256
BIN_SHARE_MIN = 0.02
"""Bins with fewer of the training rows are joined to a neighbour: rare bins test badly."""
CONFIDENCE_EDGES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
LATENCY_EDGES_MS = (
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
)  # fmt: skip
_HASH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReference:
    """One watched column of the packed input tensor.

    Attributes:
        name: Column name of the schema.
        column: Index in the packed tensor.
        edges: At most 9 ascending float32 values; bin = number of edges <= value.
        low: Smallest training value.
        high: Largest training value; beyond either a row counts as ``outside``.
        counts: Training rows per bin, then missing, then outside (0 for a number).
        codes: Of a category, the bin of each index of the schema's list, -1 for one that no
            training row had; edges, low and high are then of the bins. Empty for a number.
        labels: Of a category, the name of each bin.
    """

    name: str
    column: int
    edges: tuple[float, ...]
    low: float
    high: float
    counts: tuple[int, ...]
    codes: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_edges(self.name, self.edges)
        if not self.low <= self.high or any(not self.low < e <= self.high for e in self.edges):
            raise MalformedError(f"reference {self.name!r}: edges are not in (low, high]")
        check_counts(self.name, self.counts, len(self.edges) + 3)
        if self.codes and (len(self.labels) != self.bins or max(self.codes) >= self.bins):
            raise MalformedError(
                f"reference {self.name!r}: {len(self.labels)} names and codes up to"
                f" {max(self.codes)} for {self.bins} bins"
            )

    @property
    def bins(self) -> int:
        """Bins without ``missing`` and ``outside``."""
        return len(self.edges) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOutputReference:
    """Answers of a classification: predicted class x confidence, row-major.

    Attributes:
        classes: Names by label index.
        confidence_edges: 9 ascending numbers in (0, 1).
        counts: ``len(classes) * 10`` numbers.
    """

    classes: tuple[str, ...]
    confidence_edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        check_edges("confidence", self.confidence_edges)
        if len(self.confidence_edges) != BINS_MAX - 1:
            raise MalformedError(f"reference: needs {BINS_MAX - 1} confidence edges")
        if not 1 <= len(self.classes) <= CLASSES_MAX:
            raise MalformedError(
                f"reference: {len(self.classes)} classes, must be 1 to {CLASSES_MAX}"
            )
        check_counts("answers", self.counts, len(self.classes) * BINS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueOutputReference:
    """Answers of a regression.

    Attributes:
        edges: At most 9 ascending float32 values.
        counts: ``len(edges) + 1`` numbers.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        check_edges("answers", self.edges)
        check_counts("answers", self.counts, len(self.edges) + 1)


OutputReference = ClassOutputReference | ValueOutputReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Everything the bins of one package's windows need.

    Attributes:
        rows: Training rows behind the features' counts.
        features: Watched columns in the order of the packed tensor.
        output: Answers; its own row count is the sum of its counts.
        latency_edges_ms: 15 ascending numbers.
    """

    rows: int
    features: tuple[FeatureReference, ...]
    output: OutputReference
    latency_edges_ms: tuple[float, ...] = LATENCY_EDGES_MS

    def __post_init__(self) -> None:
        check_edges("latency", self.latency_edges_ms)
        if len(self.latency_edges_ms) != len(LATENCY_EDGES_MS):
            raise MalformedError(f"reference: needs {len(LATENCY_EDGES_MS)} latency edges")
        for feature in self.features:
            if sum(feature.counts) != self.rows:
                raise MalformedError(
                    f"reference {feature.name!r}: counts add to {sum(feature.counts)},"
                    f" not to {self.rows} rows"
                )
        columns = [f.column for f in self.features]
        if any(a >= b for a, b in pairwise(columns)):
            raise MalformedError("reference: columns do not ascend")

    @property
    def is_typed(self) -> bool:
        """Whether a feature is a category."""
        return any(f.codes for f in self.features)

    def encode(self) -> bytes:
        """Encode as JSON; the same reference always gives the same bytes."""
        return dump_object(
            {
                "format": REFERENCE_FORMAT_TYPED if self.is_typed else REFERENCE_FORMAT,
                "rows": self.rows,
                "features": [_feature_to_json(f) for f in self.features],
                "output": _output_to_json(self.output),
                "latency_edges_ms": list(self.latency_edges_ms),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Reference":
        """Decode; raises ContractError."""
        what = "reference.json"
        fields = Fields(
            parse_object(payload, what=what, limit_bytes=REFERENCE_BYTES_MAX), what=what
        )
        if fields.integer("format") not in (REFERENCE_FORMAT, REFERENCE_FORMAT_TYPED):
            raise MalformedError(f"{what}: of a later format; upgrade the agent")
        return cls(
            rows=fields.integer("rows"),
            features=fields.items("features", _feature_from_json, items_max=COLUMNS_MAX),
            output=_output_from_json(fields.mapping("output")),
            latency_edges_ms=fields.items("latency_edges_ms", read_number, items_max=64),
        )


def reference_hash(encoded: bytes) -> bytes:
    """Return the 8 bytes by which a window names its reference.

    >>> reference_hash(b"{}").hex()
    '44136fa355b3678a'
    """
    return hashlib.sha256(encoded).digest()[:_HASH_BYTES]


def build_reference(
    schema: ModelSchema, features: NDArray[np.float32], outputs: Mapping[str, NDArray[Any]]
) -> Reference:
    """Count the training distribution.

    Args:
        schema: Names the columns, the outputs and the classes.
        features: float32 [rows, width], the rows the model was trained on.
        outputs: The shipped graph's outputs by tensor name. They may come from other rows than
            ``features`` and should: a model is surer of the rows it was trained on, so the
            answers of held-out rows are what devices will be compared with.

    Raises:
        ValueError: No rows, the wrong width, an output missing, or more than 256 classes.
    """
    if features.ndim != 2 or features.shape[0] < 1 or features.shape[1] != schema.width:
        raise ValueError(
            f"features have shape {features.shape}, need [1 or more rows, {schema.width}]"
        )
    rows = np.ascontiguousarray(features, dtype=np.float32)
    # All of them, unless there are more than COLUMNS_MAX.
    width = rows.shape[1]
    watched = {width * k // COLUMNS_MAX for k in range(COLUMNS_MAX)}
    declared = [(feature, name) for feature in schema.features for name in feature.columns]
    return Reference(
        rows=len(rows),
        features=tuple(
            _count_category(feature, column, rows[:, column])
            if feature.dtype == Dtype.CATEGORY
            else _count_feature(name, column, rows[:, column])
            for column, (feature, name) in enumerate(declared)
            if column in watched
        ),
        output=_count_output(schema, outputs),
    )


def quantile_edges(values: NDArray[np.float32]) -> tuple[float, ...]:
    """Choose at most 9 edges, each one of the finite ``values``.

    >>> quantile_edges(np.arange(100, dtype=np.float32))
    (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
    >>> quantile_edges(np.array([0.0] * 85 + [1.0] * 5 + [2.0] * 10, dtype=np.float32))
    (1.0, 2.0)
    >>> quantile_edges(np.full(50, 7, dtype=np.float32))
    ()
    """
    ordered = np.sort(values)
    m = len(ordered)
    if m == 0:
        return ()
    picked = ordered[[m * k // BINS_MAX for k in range(1, BINS_MAX)]]
    candidates, repeats = np.unique(picked, return_counts=True)
    for atom in candidates[repeats > 1]:
        above = np.searchsorted(ordered, atom, side="right")
        if above < m:
            candidates = np.append(candidates, ordered[above])
    edges: list[float] = []
    need, start = max(1.0, BIN_SHARE_MIN * m), 0
    for edge in np.unique(candidates):
        below = int(np.searchsorted(ordered, edge, side="left"))
        if below - start >= need and m - below >= need:
            edges.append(float(edge))
            start = below
    return tuple(edges)


def _count_feature(name: str, column: int, values: NDArray[np.float32]) -> FeatureReference:
    finite = values[np.isfinite(values)]
    edges = quantile_edges(finite)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    bins = np.searchsorted(np.array(edges, np.float32), finite, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1).tolist()
    return FeatureReference(
        name=name,
        column=column,
        edges=edges,
        low=low,
        high=high,
        counts=(*counts, len(values) - len(finite), 0),
    )


def _count_category(feature: Feature, column: int, values: NDArray[np.float32]) -> FeatureReference:
    finite = values[np.isfinite(values)].astype(np.intp)
    listed = finite[(finite >= 0) & (finite < len(feature.categories))]
    by_code = np.bincount(listed, minlength=len(feature.categories)).tolist()
    codes, groups = group_categories(by_code, bins_max=BINS_MAX, share_min=BIN_SHARE_MIN)
    labels = [feature.categories[g[0]] if len(g) == 1 else f"{len(g)} others" for g in groups]
    labels = labels or [""]
    counts = [sum(by_code[code] for code in group) for group in groups] or [0]
    return FeatureReference(
        name=feature.name,
        column=column,
        edges=tuple(float(place) for place in range(1, len(labels))),
        low=0.0,
        high=float(len(labels) - 1),
        counts=(*counts, len(values) - len(finite), len(finite) - len(listed)),
        codes=codes,
        labels=tuple(labels),
    )


def _count_output(schema: ModelSchema, outputs: Mapping[str, NDArray[Any]]) -> OutputReference:
    if schema.task is Task.REGRESSION:
        values = np.asarray(_by_role(schema, outputs, Role.VALUE), np.float32).reshape(-1)
        values = values[np.isfinite(values)]
        edges = quantile_edges(values)
        bins = np.searchsorted(np.array(edges, np.float32), values, side="right")
        return ValueOutputReference(
            edges=edges, counts=tuple(np.bincount(bins, minlength=len(edges) + 1).tolist())
        )
    classes = len(schema.classes)
    if not 1 <= classes <= CLASSES_MAX:
        raise ValueError(f"drift reference: {classes} classes, must be 1 to {CLASSES_MAX}")
    labels = np.asarray(_by_role(schema, outputs, Role.LABEL)).reshape(-1).astype(np.int64)
    sure = np.asarray(_by_role(schema, outputs, Role.PROBABILITIES), np.float32).max(axis=1)
    valid = np.isfinite(sure) & (labels >= 0) & (labels < classes)
    confidence = np.searchsorted(np.array(CONFIDENCE_EDGES, np.float32), sure[valid], side="right")
    cells = np.bincount(labels[valid] * BINS_MAX + confidence, minlength=classes * BINS_MAX)
    return ClassOutputReference(
        classes=schema.classes,
        confidence_edges=tuple(float(np.float32(edge)) for edge in CONFIDENCE_EDGES),
        counts=tuple(cells.tolist()),
    )


def _by_role(schema: ModelSchema, outputs: Mapping[str, NDArray[Any]], role: Role) -> NDArray[Any]:
    for output in schema.outputs:
        if output.role is role and output.name in outputs:
            return outputs[output.name]
    raise ValueError(f"drift reference: no output with role {role} among {sorted(outputs)}")


def _output_to_json(output: OutputReference) -> dict[str, Any]:
    if isinstance(output, ClassOutputReference):
        return {
            "kind": "classes",
            "classes": list(output.classes),
            "confidence_edges": list(output.confidence_edges),
            "counts": list(output.counts),
        }
    return {"kind": "value", "edges": list(output.edges), "counts": list(output.counts)}


def _output_from_json(value: Any) -> OutputReference:
    fields = Fields(value, what="reference.json output")
    kind = fields.text("kind", chars_max=16)
    counts = fields.items("counts", read_count, items_max=CLASSES_MAX * BINS_MAX)
    if kind == "value":
        return ValueOutputReference(
            edges=fields.items("edges", read_number, items_max=BINS_MAX - 1), counts=counts
        )
    if kind != "classes":
        raise MalformedError(f"reference.json output: kind {kind!r} is not classes or value")
    return ClassOutputReference(
        classes=fields.items("classes", read_text, items_max=CLASSES_MAX),
        confidence_edges=fields.items("confidence_edges", read_number, items_max=BINS_MAX - 1),
        counts=counts,
    )


def _feature_to_json(feature: FeatureReference) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": feature.name,
        "column": feature.column,
        "edges": list(feature.edges),
        "low": feature.low,
        "high": feature.high,
        "counts": list(feature.counts),
    }
    if feature.codes:
        fields |= {"codes": list(feature.codes), "labels": list(feature.labels)}
    return fields


def _feature_from_json(value: Any) -> FeatureReference:
    fields = Fields(value, what="reference.json feature")
    return FeatureReference(
        name=fields.text("name", chars_max=160),
        column=fields.integer("column"),
        edges=fields.items("edges", read_number, items_max=BINS_MAX - 1),
        low=fields.number("low"),
        high=fields.number("high"),
        counts=fields.items("counts", read_count, items_max=BINS_MAX + 2),
        codes=fields.items("codes", read_code, (), items_max=CATEGORIES_MAX),
        labels=fields.items("labels", read_text, (), items_max=BINS_MAX),
    )
