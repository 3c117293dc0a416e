from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from converters.errors import InvalidRequestError
from converters.metrics import find_metric, score_targets
from edge_agent.contract.schema import Task

Array = NDArray[Any]
TRUTH = np.array([0, 0, 1, 1, 2, 2, 2, 1])
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.3, 0.4, 0.3],
        [0.1, 0.9, 0.0],
        [0.5, 0.4, 0.1],
        [0.0, 0.3, 0.7],
        [0.2, 0.2, 0.6],
        [0.1, 0.8, 0.1],
        [0.0, 1.0, 0.0],
    ]
)
LABELS = PROBABILITIES.argmax(axis=1)
ANSWERS: dict[str, Array] = {"label": LABELS, "probabilities": PROBABILITIES}
VALUES = np.array([1.0, 2.5, -3.0, 4.0])
PREDICTED = {"value": np.array([1.5, 2.0, -3.5, 4.25], np.float32)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", reference.accuracy_score(TRUTH, LABELS)),
        ("balanced_accuracy", reference.balanced_accuracy_score(TRUTH, LABELS)),
        ("f1_macro", reference.f1_score(TRUTH, LABELS, average="macro")),
        ("log_loss", reference.log_loss(TRUTH, PROBABILITIES)),
        ("brier", reference.brier_score_loss(TRUTH, PROBABILITIES, scale_by_half=False)),
    ],
)
def test_a_classification_metric_agrees_with_scikit_learn(name: str, expected: float) -> None:
    assert find_metric(name, Task.CLASSIFICATION).score(TRUTH, ANSWERS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae", reference.mean_absolute_error(VALUES, PREDICTED["value"])),
        ("mse", reference.mean_squared_error(VALUES, PREDICTED["value"])),
        ("rmse", reference.root_mean_squared_error(VALUES, PREDICTED["value"])),
        ("r2", reference.r2_score(VALUES, PREDICTED["value"])),
    ],
)
def test_a_regression_metric_agrees_with_scikit_learn(name: str, expected: float) -> None:
    assert find_metric(name, Task.REGRESSION).score(VALUES, PREDICTED) == pytest.approx(expected)


def test_the_default_is_accuracy_or_mean_absolute_error() -> None:
    assert find_metric("", Task.CLASSIFICATION).name == "accuracy"
    assert find_metric("", Task.REGRESSION).name == "mae"


@pytest.mark.parametrize(
    ("name", "task", "source", "shipped"),
    [("accuracy", Task.CLASSIFICATION, 0.9, 0.8), ("mae", Task.REGRESSION, 0.8, 0.9)],
)
def test_a_drop_is_positive_when_the_shipped_graph_is_worse(
    name: str, task: Task, source: float, shipped: float
) -> None:
    metric = find_metric(name, task)
    assert metric.drop(source, shipped) == pytest.approx(0.1)
    assert metric.drop(shipped, source) == pytest.approx(-0.1)


def test_a_metric_of_the_other_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match="known: mae, mse, rmse, r2"):
        find_metric("accuracy", Task.REGRESSION)


@pytest.mark.parametrize(
    ("name", "agreed"),
    [
        ("mae", reference.mean_absolute_error),
        ("mse", reference.mean_squared_error),
        ("rmse", reference.root_mean_squared_error),
        ("r2", reference.r2_score),
    ],
)
def test_a_metric_of_several_targets_is_the_mean_of_each(name: str, agreed: Any) -> None:
    truth = np.column_stack([VALUES, VALUES[::-1] * 100])
    predicted = truth + np.array([[0.5, 10.0], [-1, 0], [0, 20], [0.25, -30]])
    metric = find_metric(name, Task.REGRESSION)
    each = agreed(truth, predicted, multioutput="raw_values")
    assert score_targets(metric, truth, {"value": predicted}) == pytest.approx(each.tolist())
    assert metric.score(truth, {"value": predicted}) == pytest.approx(each.mean())
    assert score_targets(metric, VALUES, PREDICTED) == []


def test_several_targets_are_judged_by_what_units_do_not_weigh() -> None:
    assert find_metric("", Task.REGRESSION, targets=2).name == "r2"
