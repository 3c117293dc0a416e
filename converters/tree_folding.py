"""Fold scalers and roundings into the thresholds of trees, alone or inside voting and stacking.

Works on the copy that ``repairs.py`` made. Members of an ensemble see the ensemble's own input, so
their trees are as exact as trees by themselves; members that are no trees stay as they are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.multioutput import RegressorChain
from sklearn.pipeline import Pipeline

from converters.tree_thresholds import (
    FOLDABLE_SCALERS,
    fold_into_thresholds,
    is_tree_model,
    rounds_to_float32,
)

_LISTS = {
    "VotingClassifier": "estimators_",
    "VotingRegressor": "estimators_",
    "StackingClassifier": "estimators_",
    "StackingRegressor": "estimators_",
    "OneVsRestClassifier": "estimators_",
    "OneVsOneClassifier": "estimators_",
    "AdaBoostClassifier": "estimators_",
    "AdaBoostRegressor": "estimators_",
    "CalibratedClassifierCV": "calibrated_classifiers_",
    "MultiOutputRegressor": "estimators_",
    "RegressorChain": "estimators_",
}
Dtype = type[np.floating[Any]]


def fold_scalers(estimator: Any, width: int, dtype: Dtype, repairs: list[str]) -> Any | None:
    """Give the bare trees with every scaler folded in; None when something else comes first."""
    steps, trees = _flatten_steps(estimator)
    if any(type(step).__name__ not in FOLDABLE_SCALERS for step in steps):
        return None
    transform = _chain(steps) if steps else None
    if transform is None and rounds_to_float32(trees):
        return trees
    changed = fold_into_thresholds(trees, width, transform, dtype)
    if changed is None:
        return trees if transform is None else None
    names = ", ".join(type(step).__name__ for step in steps) or "the rounding to float32"
    repairs.append(
        f"{type(trees).__name__}: {names} folded into the thresholds"
        f" ({changed} changed, every branch kept)"
    )
    return trees


def fold_members(ensemble: Any, width: int, dtype: Dtype, repairs: list[str]) -> None:
    """Fold what comes before the trees among an ensemble's members, in place."""
    if type(ensemble).__name__ == "TransformedTargetRegressor":
        ensemble.regressor_ = _fold_member(ensemble.regressor_, width, dtype, repairs)
        return
    attribute = _LISTS.get(type(ensemble).__name__, "")
    members = getattr(ensemble, attribute, None)
    if members is None:
        return
    if isinstance(ensemble, RegressorChain):  # each sees the answers before it as well
        ensemble.estimators_ = [
            _fold_member(member, width + place, dtype, repairs)
            for place, member in enumerate(members)
        ]
        return
    seen: dict[int, Any] = {}

    def fold(inner: Any) -> Any:
        if id(inner) not in seen:
            is_model = hasattr(inner, "get_params")  # a dropped member is none
            seen[id(inner)] = _fold_member(inner, width, dtype, repairs) if is_model else inner
        return seen[id(inner)]

    if attribute == "calibrated_classifiers_":
        for member in members:
            member.estimator = fold(member.estimator)
    else:
        setattr(ensemble, attribute, type(members)(fold(member) for member in members))


def _fold_member(member: Any, width: int, dtype: Dtype, repairs: list[str]) -> Any:
    steps, last = _flatten_steps(member)
    if is_tree_model(last):
        folded = fold_scalers(member, width, dtype, repairs)
        return member if folded is None else folded
    if not steps:
        fold_members(last, width, dtype, repairs)
    return member


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
