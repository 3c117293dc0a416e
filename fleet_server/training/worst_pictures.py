"""Name the held-out pictures that a model answers worst: what to look at first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet_server.training.metrics import PROBABILITY_MIN, Answers

WORST_SHOWN = 10


def find_worst(
    truth: NDArray[Any], answers: Answers, classes: Sequence[str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Give the pictures with the largest error, the worst first.

    Args:
        truth: Class indexes, or values [rows] or [rows, targets].
        answers: Of the same pictures.
        classes: Names by index; empty for a regression.
        names: Of the pictures.

    Returns:
        Of each ``picture``, ``truth``, ``answer`` and ``error``: one minus the probability of the
        true class, or the difference of the values (of several, in units of their spread).
    """
    if classes:
        given = answers.probabilities[np.arange(len(truth)), truth]
        errors = 1.0 - np.clip(given, PROBABILITY_MIN, 1.0)
        right: list[Any] = [classes[index] for index in truth]
        said: list[Any] = [classes[index] for index in answers.labels]
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
