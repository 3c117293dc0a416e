"""The answers' part of ``reference.json``: classes by confidence, a value, or several targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields
from edge_agent.contract.outputs import TARGET_CHARS_MAX, TARGETS_MAX
from edge_agent.contract.schema import ModelSchema, Role, Task
from edge_agent.statistics.quantile_edges import BINS_MAX, quantile_edges
from edge_agent.statistics.reference_fields import (
    check_counts,
    check_edges,
    read_count,
    read_number,
    read_text,
)

CLASSES_MAX = 256
CONFIDENCE_EDGES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReference:
    """Answers of one of several targets; edges and counts as of a ``ValueOutputReference``."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        check_edges(f"answers {self.name}", self.edges)
        check_counts(f"answers {self.name}", self.counts, len(self.edges) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsOutputReference:
    """Answers of a regression of several targets, each binned by itself.

    Attributes:
        targets: In the order of the schema; every row is counted once in each.
    """

    targets: tuple[TargetReference, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.targets) <= TARGETS_MAX:
            raise MalformedError(
                f"reference: {len(self.targets)} targets, must be 2 to {TARGETS_MAX}"
            )
        if len({sum(target.counts) for target in self.targets}) != 1:
            raise MalformedError("reference: the targets count different numbers of rows")

    @property
    def counts(self) -> tuple[int, ...]:
        """Counts of all targets, one behind the other."""
        return tuple(count for target in self.targets for count in target.counts)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each target stands in ``counts``."""
        ends = list(accumulate(len(target.counts) for target in self.targets))
        return tuple(slice(a, b) for a, b in pairwise((0, *ends)))


OutputReference = ClassOutputReference | ValueOutputReference | TargetsOutputReference


def count_output(schema: ModelSchema, outputs: Mapping[str, NDArray[Any]]) -> OutputReference:
    """Count the answers of the shipped graph; raises ValueError."""
    if schema.task is Task.REGRESSION:
        values = np.asarray(_by_role(schema, outputs, Role.VALUE), np.float32)
        columns = values.reshape(len(values), -1)
        columns = columns[np.isfinite(columns).all(axis=1)]
        if not schema.targets:
            edges, counts = _count_values(columns[:, 0])
            return ValueOutputReference(edges=edges, counts=counts)
        counted = [_count_values(column) for column in columns.T]
        return TargetsOutputReference(
            targets=tuple(
                TargetReference(name=name, edges=edges, counts=counts)
                for name, (edges, counts) in zip(schema.targets, counted, strict=True)
            )
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


def _count_values(values: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    edges = quantile_edges(np.ascontiguousarray(values))
    bins = np.searchsorted(np.array(edges, np.float32), values, side="right")
    return edges, tuple(np.bincount(bins, minlength=len(edges) + 1).tolist())


def _by_role(schema: ModelSchema, outputs: Mapping[str, NDArray[Any]], role: Role) -> NDArray[Any]:
    for output in schema.outputs:
        if output.role is role and output.name in outputs:
            return outputs[output.name]
    raise ValueError(f"drift reference: no output with role {role} among {sorted(outputs)}")


def output_to_json(output: OutputReference) -> dict[str, Any]:
    """Give the JSON form."""
    if isinstance(output, ClassOutputReference):
        return {
            "kind": "classes",
            "classes": list(output.classes),
            "confidence_edges": list(output.confidence_edges),
            "counts": list(output.counts),
        }
    if isinstance(output, TargetsOutputReference):
        return {
            "kind": "targets",
            "targets": [
                {"name": one.name, "edges": list(one.edges), "counts": list(one.counts)}
                for one in output.targets
            ],
        }
    return {"kind": "value", "edges": list(output.edges), "counts": list(output.counts)}


def output_from_json(value: Any) -> OutputReference:
    """Read the JSON form; raises ContractError."""
    fields = Fields(value, what="reference.json output")
    kind = fields.text("kind", chars_max=16)
    if kind == "targets":
        return TargetsOutputReference(
            targets=fields.items("targets", _target_from_json, items_max=TARGETS_MAX)
        )
    counts = fields.items("counts", read_count, items_max=CLASSES_MAX * BINS_MAX)
    if kind == "value":
        return ValueOutputReference(
            edges=fields.items("edges", read_number, items_max=BINS_MAX - 1), counts=counts
        )
    if kind != "classes":
        raise MalformedError(
            f"reference.json output: kind {kind!r} is not classes, value or targets"
        )
    return ClassOutputReference(
        classes=fields.items("classes", read_text, items_max=CLASSES_MAX),
        confidence_edges=fields.items("confidence_edges", read_number, items_max=BINS_MAX - 1),
        counts=counts,
    )


def _target_from_json(value: Any) -> TargetReference:
    fields = Fields(value, what="reference.json target")
    return TargetReference(
        name=fields.text("name", chars_max=TARGET_CHARS_MAX),
        edges=fields.items("edges", read_number, items_max=BINS_MAX - 1),
        counts=fields.items("counts", read_count, items_max=BINS_MAX),
    )
