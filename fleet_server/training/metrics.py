"""Metrics as functions of sums over rows, so that one resampling serves them all.

Each metric turns rows into a small matrix of numbers and its value is a function of the column
sums. A bootstrap then needs only weighted sums; a paired comparison uses the same weights for
both models. Of several targets or labels a metric is the mean of that of each. Formulas agree with
scikit-learn's (the tests compare them).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.outputs import NamedLabel, slice_labels
from edge_agent.contract.schema import Task

Floats = NDArray[np.float64]
PROBABILITY_MIN = float(np.finfo(np.float32).eps)
"""Smallest probability the logarithm is taken of: what float32 can tell from 0 beside 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one model answered on held-out rows.

    Attributes:
        labels: int64 [rows], index of the class, or [rows, labels]; empty for a regression.
        probabilities: float64 [rows, classes], of several labels the classes of all; empty for a
            regression.
        values: float64 [rows], or [rows, targets]; empty for a classification.
    """

    labels: NDArray[np.int64]
    probabilities: Floats
    values: Floats

    @classmethod
    def of_classes(cls, labels: NDArray[Any], probabilities: NDArray[Any]) -> "Answers":
        """Take the answers of a classification; a table of one column is one label a row."""
        indexes = np.asarray(labels, np.int64)
        is_several = indexes.ndim == 2 and indexes.shape[1] > 1
        return cls(
            labels=indexes if is_several else indexes.reshape(-1),
            probabilities=np.asarray(probabilities, np.float64),
            values=np.empty(0),
        )

    @classmethod
    def of_values(cls, values: NDArray[Any]) -> "Answers":
        """Take the answers of a regression; a table of one column is one value a row."""
        numbers = np.asarray(values, np.float64)
        is_several = numbers.ndim == 2 and numbers.shape[1] > 1
        return cls(
            labels=np.empty(0, np.int64),
            probabilities=np.empty((0, 0)),
            values=numbers if is_several else numbers.reshape(-1),
        )

    def take_label(self, place: int, columns: slice) -> "Answers":
        """Give the answers of one of several labels, whose classes have these columns."""
        return Answers.of_classes(self.labels[:, place], self.probabilities[:, columns])

    @property
    def is_finite(self) -> bool:
        """Whether every number is finite; nothing else can be judged."""
        return bool(np.isfinite(self.probabilities).all() and np.isfinite(self.values).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As in the spec.
        task: The task it belongs to.
        is_larger_better: Direction.
        is_share: A share of right rows, so bounds come from counts.
        needs_labels: Judges several labels together.
        rows: (truth, answers) to float64 [rows, k].
        value: float64 [..., k] of sums to float64 [...].
    """

    name: str
    task: Task
    is_larger_better: bool
    rows: Callable[[NDArray[Any], Answers], Floats]
    value: Callable[[Floats], Floats]
    is_share: bool = False
    needs_labels: bool = False

    def of(self, truth: NDArray[Any], answers: Answers) -> float:
        """Give the metric's value on these rows."""
        return float(self.value(self.rows(truth, answers).sum(axis=0)))


def confusion_matrix(truth: NDArray[Any], answers: Answers, classes: int) -> list[list[int]]:
    """Count rows by truth (outer) and answer (inner)."""
    cells = np.bincount(truth * classes + answers.labels, minlength=classes * classes)
    return [[int(n) for n in row] for row in cells.reshape(classes, classes)]


def _with_count(scores: Floats) -> Floats:
    return np.column_stack([np.ones(len(scores)), scores])


def _mean(sums: Floats) -> Floats:
    return np.asarray((sums[..., 1:] / sums[..., :1]).mean(axis=-1))


def _root_mean(sums: Floats) -> Floats:
    return np.asarray(np.sqrt(sums[..., 1:] / sums[..., :1]).mean(axis=-1))


def _right(truth: NDArray[Any], answers: Answers) -> Floats:
    return _with_count((truth == answers.labels).astype(np.float64))


def _all_right(truth: NDArray[Any], answers: Answers) -> Floats:
    return _with_count((truth == answers.labels).all(axis=1).astype(np.float64))


def _surprise(truth: NDArray[Any], answers: Answers) -> Floats:
    given = answers.probabilities[np.arange(len(truth)), truth]
    return _with_count(-np.log(np.clip(given, PROBABILITY_MIN, 1.0)))


def _squared_probability_error(truth: NDArray[Any], answers: Answers) -> Floats:
    error = answers.probabilities.copy()
    error[np.arange(len(truth)), truth] -= 1.0
    scale = 0.5 if error.shape[1] == 2 else 1.0
    return _with_count(scale * (error**2).sum(axis=1))


def _cells(truth: NDArray[Any], answers: Answers) -> Floats:
    """Give one-hot columns: right, answered, true, each by class."""
    every = np.eye(answers.probabilities.shape[1])
    true, answered = every[truth], every[answers.labels]
    return np.concatenate([true * answered, answered, true], axis=1)


def _macro(sums: Floats, score: Callable[[Floats, Floats, Floats], Floats]) -> Floats:
    """Average over the classes that occur as truth or as answer; 0 where undefined."""
    right, answered, true = np.split(sums, 3, axis=-1)
    present = (answered + true) > 0
    by_class = np.where(present, score(right, answered, true), 0.0)
    return np.asarray(by_class.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))


def _precision(sums: Floats) -> Floats:
    return _macro(sums, lambda right, answered, _: right / np.maximum(answered, 1e-300))


def _recall(sums: Floats) -> Floats:
    return _macro(sums, lambda right, _, true: right / np.maximum(true, 1e-300))


def _f1(sums: Floats) -> Floats:
    return _macro(
        sums, lambda right, answered, true: 2 * right / np.maximum(answered + true, 1e-300)
    )


def _absolute_error(truth: NDArray[Any], answers: Answers) -> Floats:
    return _with_count(np.abs(answers.values - truth))


def _squared_error(truth: NDArray[Any], answers: Answers) -> Floats:
    return _with_count((answers.values - truth) ** 2)


def _squared_error_and_spread(truth: NDArray[Any], answers: Answers) -> Floats:
    centred = truth - truth.mean(axis=0)  # the spread would drown in a large mean otherwise
    return np.column_stack(
        [np.ones(len(truth)), (answers.values - truth) ** 2, centred, centred**2]
    )


def _explained(sums: Floats) -> Floats:
    error, centred, squared = np.split(sums[..., 1:], 3, axis=-1)
    spread = squared - centred**2 / sums[..., :1]
    return np.asarray((1.0 - error / np.maximum(spread, 1e-300)).mean(axis=-1))


_CLASS, _VALUE = Task.CLASSIFICATION, Task.REGRESSION
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            task=_CLASS,
            is_larger_better=True,
            rows=_right,
            value=_mean,
            is_share=True,
        ),
        Metric(
            name="subset_accuracy",
            task=_CLASS,
            is_larger_better=True,
            rows=_all_right,
            value=_mean,
            is_share=True,
            needs_labels=True,
        ),
        Metric(name="log_loss", task=_CLASS, is_larger_better=False, rows=_surprise, value=_mean),
        Metric(name="f1_macro", task=_CLASS, is_larger_better=True, rows=_cells, value=_f1),
        Metric(name="precision", task=_CLASS, is_larger_better=True, rows=_cells, value=_precision),
        Metric(name="recall", task=_CLASS, is_larger_better=True, rows=_cells, value=_recall),
        Metric(
            name="brier",
            task=_CLASS,
            is_larger_better=False,
            rows=_squared_probability_error,
            value=_mean,
        ),
        Metric(name="mae", task=_VALUE, is_larger_better=False, rows=_absolute_error, value=_mean),
        Metric(
            name="rmse", task=_VALUE, is_larger_better=False, rows=_squared_error, value=_root_mean
        ),
        Metric(
            name="r2",
            task=_VALUE,
            is_larger_better=True,
            rows=_squared_error_and_spread,
            value=_explained,
        ),
    )
}
"""Metrics by name; precision and recall are means over the classes."""


def list_metrics(task: Task, labels: Sequence[NamedLabel] = ()) -> dict[str, Metric]:
    """Give the metrics of a task by name.

    Args:
        task: What they judge.
        labels: Of several labels a metric is the mean of that of each, and ``subset_accuracy``
            the share of rows whose labels are all right.
    """
    known = [metric for metric in METRICS.values() if metric.task is task]
    if not labels:
        return {metric.name: metric for metric in known if not metric.needs_labels}
    return {
        metric.name: metric if metric.needs_labels else _over_labels(metric, labels)
        for metric in known
    }


def measure_all(
    task: Task, truth: NDArray[Any], answers: Answers, labels: Sequence[NamedLabel] = ()
) -> dict[str, float]:
    """Give every metric of the task, as ``list_metrics``."""
    return {name: one.of(truth, answers) for name, one in list_metrics(task, labels).items()}


def _over_labels(metric: Metric, labels: Sequence[NamedLabel]) -> Metric:
    """Make the mean over several labels of a metric of one: its sums side by side."""
    columns = slice_labels(labels)
    nothing = np.zeros(1, np.int64)
    widths = [
        metric.rows(nothing, Answers.of_classes(nothing, np.ones((1, len(label.classes))))).shape[1]
        for label in labels
    ]
    cuts = np.cumsum(widths)[:-1].tolist()

    def rows(truth: NDArray[Any], answers: Answers) -> Floats:
        each = [
            metric.rows(truth[:, place], answers.take_label(place, own))
            for place, own in enumerate(columns)
        ]
        return np.concatenate(each, axis=1)

    def value(sums: Floats) -> Floats:
        parts = np.split(sums, cuts, axis=-1)
        return np.asarray(np.mean([metric.value(part) for part in parts], axis=0))

    return replace(metric, rows=rows, value=value, is_share=False)
