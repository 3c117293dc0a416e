"""Name the held-out pictures that a model answers worst: what to look at first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.outputs import NamedLabel, slice_labels
from fleet_server.training.metrics import PROBABILITY_MIN, Answers

WORST_SHOWN = 10


def find_worst(
    truth: NDArray[Any],
    answers: Answers,
    classes: Sequence[str],
    names: Sequence[str],
    labels: Sequence[NamedLabel] = (),
) -> list[dict[str, Any]]:
    """Give the pictures with the largest error, the worst first.

    Args:
        truth: Class indexes or values, [rows] or [rows, labels or targets].
        answers: Of the same pictures.
        classes: Names by index; empty for a regression and for several labels.
        names: Of the pictures.
        labels: Of several labels, name and classes of each.

    Returns:
        Of each ``picture``, ``truth``, ``answer`` and ``error``: one minus the probability of the
        true class, or the difference of the values (of several, in units of their spread). Of
        several labels or targets it is that of the worst.
    """
    if labels:
        own = [answers.take_label(place, part) for place, part in enumerate(slice_labels(labels))]
        each = [_miss(truth[:, place], one) for place, one in enumerate(own)]
        errors = np.max(each, axis=0)
        right: list[Any] = [_name(row, labels) for row in truth]
        said: list[Any] = [_name(row, labels) for row in answers.labels]
    elif classes:
        errors = _miss(truth, answers)
        right = [classes[index] for index in truth]
        said = [classes[index] for index in answers.labels]
    else:
        errors = np.abs(answers.values - truth)
        if errors.ndim == 2:
            spread = np.std(truth, axis=0)
            errors = (errors / np.where(spread > 0, spread, 1.0)).max(axis=1)
        right, said = truth.tolist(), answers.values.tolist()
    worst = np.argsort(-errors, kind="stable")[:WORST_SHOWN]
    return [
        {
            "picture": names[place],
            "truth": right[place],
            "answer": said[place],
            "error": round(float(errors[place]), 6),
        }
        for place in worst
    ]


def _miss(truth: NDArray[Any], answers: Answers) -> NDArray[np.float64]:
    given = answers.probabilities[np.arange(len(truth)), truth]
    return np.asarray(1.0 - np.clip(given, PROBABILITY_MIN, 1.0))


def _name(row: NDArray[Any], labels: Sequence[NamedLabel]) -> dict[str, str]:
    return {one.name: one.classes[index] for one, index in zip(labels, row, strict=True)}
