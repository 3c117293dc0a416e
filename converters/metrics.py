"""The one metric that decides how much a converted model may lose.

A metric takes the true targets and a model's outputs by tensor name. Targets of a classifier are
class indexes. Of a regression of several targets a named metric is the mean over the targets of the
metric of each, so ``r2`` is the one that units do not weigh; of several labels the mean over the
labels, and ``subset_accuracy`` the share of rows whose labels are all right. Other metrics than the
named ones: make a ``PrimaryMetric``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from edge_agent.contract.outputs import NamedLabel, slice_labels
from edge_agent.contract.schema import Task

Array = NDArray[Any]
Outputs = Mapping[str, Array]
PROBABILITY_MIN = 1e-15
SUBSET_ACCURACY = "subset_accuracy"
"""Of several labels: rows of which every label is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryMetric:
    """A metric and its direction.

    Attributes:
        name: As in the spec.
        is_higher_better: Direction.
        score: From targets and outputs to a number.
    """

    name: str
    is_higher_better: bool
    score: Callable[[Array, Outputs], float]

    def drop(self, source: float, shipped: float) -> float:
        """Tell how much worse the shipped score is; negative when it is better.

        >>> find_metric("mae", Task.REGRESSION).drop(2.0, 2.5)
        0.5
        """
        return source - shipped if self.is_higher_better else shipped - source


@dataclass(frozen=True, slots=True)
class OverLabels:
    """The mean over several labels of a metric of one; ``columns`` are of their probabilities."""

    score: Callable[[Array, Outputs], float]
    columns: tuple[slice, ...]

    def __call__(self, truth: Array, outputs: Outputs) -> float:
        """Give the mean."""
        return float(np.mean(self.each(truth, outputs)))

    def each(self, truth: Array, outputs: Outputs) -> list[float]:
        """Give the metric of each label."""
        label, shares = np.asarray(outputs["label"]), np.asarray(outputs["probabilities"])
        return [
            float(
                self.score(
                    truth[:, place],
                    {"label": label[:, place], "probabilities": shares[:, columns]},
                )
            )
            for place, columns in enumerate(self.columns)
        ]


def find_metric(
    name: str, task: Task, *, targets: int = 0, labels: Sequence[NamedLabel] = ()
) -> PrimaryMetric:
    """Give a metric by name; an empty name gives ``accuracy``, ``mae``, or ``r2`` of targets.

    Args:
        name: As in the spec.
        task: What it is of.
        targets: How many the schema names.
        labels: Those the schema names.

    Raises:
        InvalidRequestError: Not a metric of this task.
    """
    known = _CLASSIFICATION if task is Task.CLASSIFICATION else _REGRESSION
    if labels:
        columns = slice_labels(labels)
        known = {
            one.name: replace(one, score=OverLabels(one.score, columns)) for one in known.values()
        } | _OF_LABELS
    metric = known.get(name or ("r2" if targets else next(iter(known))))
    if metric is None:
        raise InvalidRequestError(f"no {task} metric {name!r}; known: {', '.join(known)}")
    return metric


def score_labels(metric: PrimaryMetric, truth: Array, outputs: Outputs) -> list[float]:
    """Give the metric of each label alone; empty where a row has one, or it is of all together."""
    return metric.score.each(truth, outputs) if isinstance(metric.score, OverLabels) else []


def score_subset(truth: Array, outputs: Outputs) -> float:
    """Give the share of rows whose labels are all right.

    >>> truth = np.array([[0, 1], [1, 1]])
    >>> score_subset(truth, {"label": np.array([[0, 1], [1, 0]])})
    0.5
    """
    return float(np.mean((np.asarray(outputs["label"]) == truth).all(axis=1)))


def score_targets(metric: PrimaryMetric, truth: Array, outputs: Outputs) -> list[float]:
    """Give the metric of each target alone; empty where a row has one value.

    >>> both = np.array([[1.0, 10.0], [2.0, 30.0]])
    >>> score_targets(find_metric("mae", Task.REGRESSION), both, {"value": both + [0.0, 5.0]})
    [0.0, 5.0]
    """
    if np.ndim(truth) != 2:
        return []
    values = np.asarray(outputs["value"])
    return [
        float(metric.score(truth[:, place], {"value": values[:, place]}))
        for place in range(truth.shape[1])
    ]


def _over_targets(score: Callable[[Array, Outputs], float]) -> Callable[[Array, Outputs], float]:
    """Make the mean over the targets of a metric of one."""

    def mean(truth: Array, outputs: Outputs) -> float:
        if np.ndim(truth) != 2:
            return score(truth, outputs)
        values = np.asarray(outputs["value"])
        columns = range(truth.shape[1])
        return float(np.mean([score(truth[:, c], {"value": values[:, c]}) for c in columns]))

    return mean


def _accuracy(targets: Array, outputs: Outputs) -> float:
    return float(np.mean(outputs["label"] == targets))


def _balanced_accuracy(targets: Array, outputs: Outputs) -> float:
    hits = outputs["label"] == targets
    return float(np.mean([hits[targets == label].mean() for label in np.unique(targets)]))


def _f1_macro(targets: Array, outputs: Outputs) -> float:
    labels = outputs["label"]
    scores = []
    for label in np.union1d(targets, labels):
        both = np.sum((labels == label) & (targets == label))
        either = np.sum(labels == label) + np.sum(targets == label)
        scores.append(2 * both / either)
    return float(np.mean(scores))


def _log_loss(targets: Array, outputs: Outputs) -> float:
    probabilities = np.asarray(outputs["probabilities"], np.float64)
    sums = probabilities.sum(axis=1)
    of_truth = probabilities[np.arange(len(targets)), targets] / np.where(sums > 0, sums, 1)
    return float(-np.mean(np.log(np.clip(of_truth, PROBABILITY_MIN, 1))))


def _brier(targets: Array, outputs: Outputs) -> float:
    probabilities = np.asarray(outputs["probabilities"], np.float64)
    truth = np.eye(probabilities.shape[1])[targets]
    return float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))


def _errors(targets: Array, outputs: Outputs) -> Array:
    difference: Array = np.asarray(outputs["value"], np.float64) - targets
    return difference


def _mae(targets: Array, outputs: Outputs) -> float:
    return float(np.mean(np.abs(_errors(targets, outputs))))


def _mse(targets: Array, outputs: Outputs) -> float:
    return float(np.mean(_errors(targets, outputs) ** 2))


def _rmse(targets: Array, outputs: Outputs) -> float:
    return math.sqrt(_mse(targets, outputs))


def _r2(targets: Array, outputs: Outputs) -> float:
    spread = float(np.mean((targets - np.mean(targets)) ** 2))
    return 1 - _mse(targets, outputs) / spread if spread > 0 else 0.0


def _by_name(
    *metrics: tuple[str, bool, Callable[[Array, Outputs], float]],
) -> dict[str, PrimaryMetric]:
    return {
        name: PrimaryMetric(name=name, is_higher_better=higher, score=score)
        for name, higher, score in metrics
    }


_CLASSIFICATION = _by_name(
    ("accuracy", True, _accuracy),
    ("balanced_accuracy", True, _balanced_accuracy),
    ("f1_macro", True, _f1_macro),
    ("log_loss", False, _log_loss),
    ("brier", False, _brier),
)
_OF_LABELS = _by_name((SUBSET_ACCURACY, True, score_subset))
_REGRESSION = _by_name(
    ("mae", False, _over_targets(_mae)),
    ("mse", False, _over_targets(_mse)),
    ("rmse", False, _over_targets(_rmse)),
    ("r2", True, _over_targets(_r2)),
)
