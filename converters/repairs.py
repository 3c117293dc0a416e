"""Know which fitted estimators convert falsely, refuse those, and repair the ones that can be.

Each entry was measured (docs/conversion.md): these convert without a word and then answer
differently from scikit-learn. What is repaired is a copy; the caller's estimator stays as it is.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from converters.errors import UnsupportedEstimatorError
from converters.tree_thresholds import (
    FOLDABLE_SCALERS,
    fold_into_thresholds,
    is_tree_model,
    rounds_to_float32,
)
from edge_agent.contract.schema import Task

_DEPTH_MAX = 20
_REFUSED = {
    "TunedThresholdClassifierCV": (
        "its threshold would be left out of the graph without a word",
        "Give the estimator inside it (estimator_) and apply the threshold in the application.",
    ),
    "FixedThresholdClassifier": (
        "its threshold would be left out of the graph without a word",
        "Give the estimator inside it (estimator_) and apply the threshold in the application.",
    ),
    "RadiusNeighborsClassifier": (
        "the graph fails on a row without neighbours",
        "Use KNeighborsClassifier.",
    ),
    "RadiusNeighborsRegressor": (
        "the graph fails on a row without neighbours",
        "Use KNeighborsRegressor.",
    ),
    "GaussianProcessClassifier": (
        "the graph needs an operator that a plain onnxruntime lacks",
        "Use SVC inside CalibratedClassifierCV(ensemble=False).",
    ),
    "MultiOutputClassifier": (
        "a package answers one target",
        "Train and convert one classifier a target.",
    ),
    "MultiOutputRegressor": (
        "a package answers one target",
        "Train and convert one regressor a target.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A copy of an estimator that converts faithfully.

    Attributes:
        estimator: To convert.
        is_double: Convert for float64 input and round to float32 before the last step.
        repairs: What was changed, one sentence each.
    """

    estimator: Any
    is_double: bool
    repairs: tuple[str, ...]


def check_convertible(estimator: Any, task: Task) -> None:
    """Refuse what cannot become a faithful graph.

    Raises:
        UnsupportedEstimatorError: With the reason and what to use instead.
    """
    for inner in _iterate_estimators(estimator, 0):
        name = type(inner).__name__
        if name in _REFUSED:
            raise UnsupportedEstimatorError(name, *_REFUSED[name])
        if name == "KBinsDiscretizer" and inner.encode == "onehot":
            raise UnsupportedEstimatorError(
                name, "its sparse one-hot result is refused", 'Set encode="onehot-dense".'
            )
    last = find_last_step(estimator)
    name = type(last).__name__
    is_classifier = hasattr(last, "classes_")
    if task is Task.CLASSIFICATION and not is_classifier:
        raise UnsupportedEstimatorError(
            name, "the schema says classification and it is not a fitted classifier", "Check task."
        )
    if task is Task.REGRESSION and (is_classifier or not hasattr(estimator, "predict")):
        raise UnsupportedEstimatorError(
            name, "the schema says regression and it is not a fitted regressor", "Check task."
        )
    if task is Task.CLASSIFICATION and not hasattr(estimator, "predict_proba"):
        raise UnsupportedEstimatorError(
            name,
            "it has no predict_proba, and a package answers probabilities",
            f"Wrap it: CalibratedClassifierCV({name}(...), ensemble=False), or use"
            " LogisticRegression.",
        )


def prepare(estimator: Any, width: int, dtype: type[np.floating[Any]] = np.float64) -> Prepared:
    """Copy an estimator and repair what is known to convert falsely.

    Args:
        estimator: Fitted.
        width: Columns of the input.
        dtype: What the source model is fed.
    """
    last = find_last_step(estimator)
    repairs: list[str] = []
    clone = copy.deepcopy(estimator)
    for inner in _iterate_estimators(clone, 0):
        if type(inner).__name__ == "VotingClassifier":
            inner.flatten_transform = False
            repairs.append("VotingClassifier: flatten_transform switched off")
    if type(last).__name__ == "LinearDiscriminantAnalysis":
        clone = _replace_binary_discriminant(clone, repairs)
    has_trees = is_tree_model(last)
    if has_trees:
        folded = _fold_scalers(clone, width, dtype, repairs)
        if folded is not None:
            return Prepared(estimator=folded, is_double=False, repairs=tuple(repairs))
    is_double = (
        isinstance(clone, Pipeline)
        and has_trees
        and rounds_to_float32(last)
        and dtype is np.float64
    )
    return Prepared(estimator=clone, is_double=is_double, repairs=tuple(repairs))


def find_last_step(estimator: Any) -> Any:
    """Give the estimator that answers: the last step of nested pipelines."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def _iterate_estimators(estimator: Any, depth: int) -> Iterator[Any]:
    """Give an estimator and those inside it, fitted ones where there are any."""
    yield estimator
    if depth >= _DEPTH_MAX or not hasattr(estimator, "get_params"):
        return
    inner = list(estimator.get_params(deep=False).values())
    if isinstance(estimator, Pipeline):
        inner += [step for _, step in estimator.steps]
    for value in inner:
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield from _iterate_estimators(value, depth + 1)


def _fold_scalers(
    estimator: Any, width: int, dtype: type[np.floating[Any]], repairs: list[str]
) -> Any | None:
    """Give the bare trees with every scaler folded in; None when something else comes first."""
    steps, trees = _flatten_steps(estimator)
    if any(type(step).__name__ not in FOLDABLE_SCALERS for step in steps):
        return None
    transform = _chain(steps) if steps else None
    if transform is None and rounds_to_float32(trees):
        return trees
    changed = fold_into_thresholds(trees, width, transform, dtype)
    if changed is None:
        return None
    names = ", ".join(type(step).__name__ for step in steps) or "the rounding to float32"
    repairs.append(
        f"{type(trees).__name__}: {names} folded into the thresholds"
        f" ({changed} changed, every branch kept)"
    )
    return trees


def _flatten_steps(estimator: Any) -> tuple[list[Any], Any]:
    if not isinstance(estimator, Pipeline):
        return [], estimator
    steps: list[Any] = []
    for _, step in estimator.steps[:-1]:
        if step in (None, "passthrough"):
            continue
        inner, last = _flatten_steps(step)
        steps += [*inner, last]
    inner, last = _flatten_steps(estimator.steps[-1][1])
    return steps + inner, last


def _chain(steps: list[Any]) -> Callable[[Any], Any]:
    def transform(rows: Any) -> Any:
        for step in steps:
            rows = step.transform(rows)
        return rows

    return transform


def _replace_binary_discriminant(estimator: Any, repairs: list[str]) -> Any:
    """Give a binary LDA the sigmoid that scikit-learn uses; its converter writes a softmax."""
    last = find_last_step(estimator)
    if len(last.classes_) != 2:
        return estimator
    logistic = LogisticRegression()
    for name in ("coef_", "intercept_", "classes_", "n_features_in_"):
        setattr(logistic, name, getattr(last, name))
    logistic.n_iter_ = np.array([1])
    repairs.append("LinearDiscriminantAnalysis: two classes written as a logistic model")
    return _with_last_step(estimator, logistic)


def _with_last_step(estimator: Any, last: Any) -> Any:
    if not isinstance(estimator, Pipeline):
        return last
    name, step = estimator.steps[-1]
    estimator.steps[-1] = (name, _with_last_step(step, last))
    return estimator
