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

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.hashing import sha256_of
from edge_agent.contract.schema import CATEGORIES_MAX, Dtype, Feature, ModelSchema
from edge_agent.statistics.category_bins import group_categories
from edge_agent.statistics.output_reference import (
    CLASSES_MAX,
    ClassOutputReference,
    LabelReference,
    LabelsOutputReference,
    OutputReference,
    TargetsOutputReference,
    ValueOutputReference,
    count_output,
    output_from_json,
    output_to_json,
)
from edge_agent.statistics.quantile_edges import BIN_SHARE_MIN, BINS_MAX, quantile_edges
from edge_agent.statistics.reference_fields import (
    check_counts,
    check_edges,
    read_code,
    read_count,
    read_number,
    read_text,
)

__all__ = [
    "BINS_MAX",
    "BIN_SHARE_MIN",
    "CLASSES_MAX",
    "COLUMNS_MAX",
    "LATENCY_EDGES_MS",
    "REFERENCE_BYTES_MAX",
    "REFERENCE_FORMAT",
    "REFERENCE_FORMAT_LABELS",
    "REFERENCE_FORMAT_TARGETS",
    "REFERENCE_FORMAT_TYPED",
    "ClassOutputReference",
    "FeatureReference",
    "LabelReference",
    "LabelsOutputReference",
    "OutputReference",
    "Reference",
    "TargetsOutputReference",
    "ValueOutputReference",
    "build_reference",
    "quantile_edges",
    "reference_hash",
]

REFERENCE_FORMAT = 1
REFERENCE_FORMAT_TYPED = 2
"""Of references with categories, which older code would bin wrongly."""
REFERENCE_FORMAT_TARGETS = 3
"""Of references of several targets."""
REFERENCE_FORMAT_LABELS = 4
"""Of references of several labels."""
REFERENCE_BYTES_MAX = 4_194_304
COLUMNS_MAX = 1_024
"""Columns watched; of a wider input an evenly spaced part is watched."""
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
class Reference:
    """Everything the bins of one package's windows need.

    Attributes:
        rows: Training rows behind the features' counts.
        features: Watched columns in the order of the packed tensor.
        output: Answers; its own row count is the sum of its counts, of each of several targets or
            labels.
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

    @property
    def _format(self) -> int:
        if isinstance(self.output, LabelsOutputReference):
            return REFERENCE_FORMAT_LABELS
        if isinstance(self.output, TargetsOutputReference):
            return REFERENCE_FORMAT_TARGETS
        return REFERENCE_FORMAT_TYPED if self.is_typed else REFERENCE_FORMAT

    def encode(self) -> bytes:
        """Encode as JSON; the same reference always gives the same bytes."""
        return dump_object(
            {
                "format": self._format,
                "rows": self.rows,
                "features": [_feature_to_json(f) for f in self.features],
                "output": output_to_json(self.output),
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
        if not REFERENCE_FORMAT <= fields.integer("format") <= REFERENCE_FORMAT_LABELS:
            raise MalformedError(f"{what}: of a later format; upgrade the agent")
        return cls(
            rows=fields.integer("rows"),
            features=fields.items("features", _feature_from_json, items_max=COLUMNS_MAX),
            output=output_from_json(fields.mapping("output")),
            latency_edges_ms=fields.items("latency_edges_ms", read_number, items_max=64),
        )


def reference_hash(encoded: bytes) -> bytes:
    """Return the 8 bytes by which a window names its reference.

    >>> reference_hash(b"{}").hex()
    '44136fa355b3678a'
    """
    return sha256_of(encoded)[:_HASH_BYTES]


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
        ValueError: No rows, the wrong width, an output missing, or more than 256 classes
            of a label.
    """
    if features.ndim != 2 or features.shape[0] < 1 or features.shape[1] != schema.width:
        raise ValueError(
            f"features have shape {features.shape}, need [1 or more rows, {schema.width}]"
        )
    rows = np.ascontiguousarray(features, dtype=np.float32)
    declared = [(feature, name) for feature in schema.features for name in feature.columns]
    # All of them, unless there are more than COLUMNS_MAX; of a text its length alone.
    numbers, first = list[int](), 0
    for feature in schema.features:
        numbers += range(first, first + (1 if feature.is_text else feature.width))
        first += feature.width
    watched = {numbers[len(numbers) * k // COLUMNS_MAX] for k in range(COLUMNS_MAX)}
    return Reference(
        rows=len(rows),
        features=tuple(
            _count_category(feature, column, rows[:, column])
            if feature.dtype == Dtype.CATEGORY
            else _count_feature(name, column, rows[:, column])
            for column, (feature, name) in enumerate(declared)
            if column in watched
        ),
        output=count_output(schema, outputs),
    )


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
