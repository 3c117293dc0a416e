"""Metrics agree with scikit-learn's, and follow from sums over rows."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.schema import Task
from fleet_server.training.metrics import METRICS, Answers, confusion_matrix, measure_all

CLASS_ORACLES: dict[str, Callable[[Any, Any, Any], float]] = {
    "accuracy": lambda y, label, _: oracle.accuracy_score(y, label),
    "f1_macro": lambda y, label, _: oracle.f1_score(y, label, average="macro", zero_division=0),
    "precision": lambda y, label, _: oracle.precision_score(
        y, label, average="macro", zero_division=0
    ),
    "recall": lambda y, label, _: oracle.recall_score(y, label, average="macro", zero_division=0),
    "log_loss": lambda y, _, p: oracle.log_loss(y, p, labels=range(p.shape[1])),
}


def random_case(seed: int, rows: int, classes: int) -> tuple[Any, Answers]:
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.ones(classes), rows)
    return draw.integers(0, classes, rows), Answers.of_classes(
        probabilities.argmax(1), probabilities
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 5))
def test_class_metrics_agree_with_scikit_learn(seed: int, rows: int, classes: int) -> None:
    truth, answers = random_case(seed, rows, classes)
    measured = measure_all(Task.CLASSIFICATION, truth, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes that are absent
        for name, score in CLASS_ORACLES.items():
            expected = score(truth, answers.labels, answers.probabilities)
            assert measured[name] == pytest.approx(expected, rel=1e-6, abs=1e-9), name


def test_brier_is_halved_for_two_classes_as_in_scikit_learn() -> None:
    truth, answers = random_case(1, 200, 2)
    expected = oracle.brier_score_loss(truth, answers.probabilities[:, 1])
    assert METRICS["brier"].of(truth, answers) == pytest.approx(expected)
    truth, answers = random_case(1, 200, 3)
    expected = oracle.brier_score_loss(truth, answers.probabilities, labels=[0, 1, 2])
    assert METRICS["brier"].of(truth, answers) == pytest.approx(expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(-1e6, 1e6))
def test_value_metrics_agree_with_scikit_learn(seed: int, rows: int, offset: float) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=rows) + offset
    answers = Answers.of_values(truth + draw.normal(size=rows))
    measured = measure_all(Task.REGRESSION, truth, answers)
    assert measured["mae"] == pytest.approx(oracle.mean_absolute_error(truth, answers.values))
    assert measured["rmse"] == pytest.approx(oracle.root_mean_squared_error(truth, answers.values))
    assert measured["r2"] == pytest.approx(oracle.r2_score(truth, answers.values), rel=1e-6)


def test_a_certain_and_wrong_answer_costs_what_float32_can_tell() -> None:
    answers = Answers.of_classes(np.array([1]), np.array([[0.0, 1.0]]))
    loss = METRICS["log_loss"].of(np.array([0]), answers)
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).eps))


def test_the_confusion_matrix_has_truth_in_rows() -> None:
    truth = np.array([0, 0, 1, 2])
    answers = Answers.of_classes(np.array([0, 2, 1, 2]), np.full((4, 3), 1 / 3))
    assert confusion_matrix(truth, answers, 3) == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_answers_with_a_nan_are_not_finite() -> None:
    assert not Answers.of_values(np.array([1.0, np.nan])).is_finite
    assert not Answers.of_classes(np.array([0]), np.array([[np.inf, 0.0]])).is_finite
    assert Answers.of_values(np.array([1.0])).is_finite
