"""The answers' part of ``reference.json``: classes by confidence or a value, of one or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields
from edge_agent.contract.outputs import (
    LABEL_CHARS_MAX,
    LABELS_CLASSES_MAX,
    LABELS_MAX,
    TARGET_CHARS_MAX,
    TARGETS_MAX,
    slice_labels,
)
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
        _check_confidence(self.confidence_edges)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReference:
    """Answers of one of several labels; counts as of a ``ClassOutputReference``."""

    name: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= CLASSES_MAX:
            raise MalformedError(
                f"reference: label {self.name!r} has {len(self.classes)} classes, must be 1 to"
                f" {CLASSES_MAX}"
            )
        check_counts(f"answers {self.name}", self.counts, len(self.classes) * BINS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsOutputReference:
    """Answers of a classification of several labels, each counted by itself.

    Attributes:
        labels: In the order of the schema; every row is counted once in each.
        confidence_edges: As of a ``ClassOutputReference``, the same for all.
    """

    labels: tuple[LabelReference, ...]
    confidence_edges: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_confidence(self.confidence_edges)
        classes = sum(len(label.classes) for label in self.labels)
        if not 2 <= len(self.labels) <= LABELS_MAX or classes > LABELS_CLASSES_MAX:
            raise MalformedError(
                f"reference: {len(self.labels)} labels of {classes} classes together, must be 2 to"
                f" {LABELS_MAX} of at most {LABELS_CLASSES_MAX}"
            )
        if len({sum(label.counts) for label in self.labels}) != 1:
            raise MalformedError("reference: the labels count different numbers of rows")

    @property
    def counts(self) -> tuple[int, ...]:
        """Counts of all labels, one behind the other."""
        return tuple(count for label in self.labels for count in label.counts)

    @property
    def columns(self) -> tuple[slice, ...]:
        """Where the probabilities of each label stand."""
        ends = accumulate(len(label.classes) for label in self.labels)
        return tuple(slice(a, b) for a, b in pairwise((0, *ends)))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each label stands in ``counts``."""
        return tuple(slice(BINS_MAX * s.start, BINS_MAX * s.stop) for s in self.columns)


OutputReference = (
    ClassOutputReference | ValueOutputReference | TargetsOutputReference | LabelsOutputReference
)


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
    return _count_labels(
        schema,
        np.asarray(_by_role(schema, outputs, Role.LABEL)).astype(np.int64),
        np.asarray(_by_role(schema, outputs, Role.PROBABILITIES), np.float32),
    )


def _count_labels(
    schema: ModelSchema, labels: NDArray[np.int64], shares: NDArray[np.float32]
) -> OutputReference:
    labels = labels.reshape(len(labels), -1)
    columns = slice_labels(schema.labels) or (slice(0, len(schema.classes)),)
    classes = [len(label.classes) for label in schema.labels] or [len(schema.classes)]
    if not all(1 <= count <= CLASSES_MAX for count in classes):
        raise ValueError(f"drift reference: {max(classes)} classes, must be 1 to {CLASSES_MAX}")
    sure = np.stack([shares[:, place].max(axis=1) for place in columns], axis=1)
    is_valid = (np.isfinite(sure) & (labels >= 0) & (labels < np.array(classes))).all(axis=1)
    confidence = np.searchsorted(np.array(CONFIDENCE_EDGES, np.float32), sure, side="right")
    cells = (labels * BINS_MAX + confidence)[is_valid].T
    counts = [
        tuple(np.bincount(own, minlength=count * BINS_MAX).tolist())
        for own, count in zip(cells, classes, strict=True)
    ]
    edges = tuple(float(np.float32(edge)) for edge in CONFIDENCE_EDGES)
    if not schema.labels:
        return ClassOutputReference(
            classes=schema.classes, confidence_edges=edges, counts=counts[0]
        )
    return LabelsOutputReference(
        confidence_edges=edges,
        labels=tuple(
            LabelReference(name=label.name, classes=label.classes, counts=own)
            for label, own in zip(schema.labels, counts, strict=True)
        ),
    )


def _check_confidence(edges: tuple[float, ...]) -> None:
    check_edges("confidence", edges)
    if len(edges) != BINS_MAX - 1:
        raise MalformedError(f"reference: needs {BINS_MAX - 1} confidence edges")


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
    if isinstance(output, LabelsOutputReference):
        return {
            "kind": "labels",
            "confidence_edges": list(output.confidence_edges),
            "labels": [
                {"name": one.name, "classes": list(one.classes), "counts": list(one.counts)}
                for one in output.labels
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
    if kind == "labels":
        return LabelsOutputReference(
            labels=fields.items("labels", _label_from_json, items_max=LABELS_MAX),
            confidence_edges=fields.items("confidence_edges", read_number, items_max=BINS_MAX - 1),
        )
    counts = fields.items("counts", read_count, items_max=CLASSES_MAX * BINS_MAX)
    if kind == "value":
        return ValueOutputReference(
            edges=fields.items("edges", read_number, items_max=BINS_MAX - 1), counts=counts
        )
    if kind != "classes":
        raise MalformedError(
            f"reference.json output: kind {kind!r} is not classes, value, targets or labels"
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


def _label_from_json(value: Any) -> LabelReference:
    fields = Fields(value, what="reference.json label")
    return LabelReference(
        name=fields.text("name", chars_max=LABEL_CHARS_MAX),
        classes=fields.items("classes", read_text, items_max=CLASSES_MAX),
        counts=fields.items("counts", read_count, items_max=CLASSES_MAX * BINS_MAX),
    )
