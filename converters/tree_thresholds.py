"""Rewrite the thresholds of tree models so that a float32 graph takes the very same branches.

scikit-learn and LightGBM compare float64 (or float32 of a float64 scaler's result) with float64
thresholds; a graph compares float32 with float32. A rounding on either side sends a row down
another branch and its answer jumps. For each node the largest float32 ``x`` with
``g(x) <= threshold`` is found, where ``g`` is everything before the comparison; ``x <= that`` is
then the same question, exactly. So a scaler before trees also disappears: it changes nothing for
them.

Works on a copy of the estimator the caller made. Needs ``g`` to be non-decreasing in its own
column and blind to the others: the four scalers of ``FOLDABLE_SCALERS`` are.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.boosted import (
    has_categories,
    is_lightgbm,
    is_linear,
    is_xgboost,
    list_thresholds,
)

Array = NDArray[Any]
FOLDABLE_SCALERS = frozenset({"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"})
_SINGLE = ("DecisionTree", "ExtraTree")
_FORESTS = ("ExtraTrees", "RandomForest", "GradientBoosting")
_MIXED = ("AdaBoost", "Bagging")
_ROUNDED_FIRST = "HistGradientBoosting"
_KEY_LOW, _KEY_HIGH = -0x7F800000, 0x7F7FFFFF
"""Order-preserving integers of float32 -inf and of the largest finite float32."""


def is_tree_model(estimator: Any) -> bool:
    """Tell whether a fitted estimator is made of decision trees and nothing else."""
    if is_lightgbm(estimator) or is_xgboost(estimator):
        return not is_linear(estimator)
    kind = _kind(estimator)
    if kind in _MIXED:
        return all(_kind(member) in _SINGLE for member in estimator.estimators_)
    return kind in (*_SINGLE, *_FORESTS, _ROUNDED_FIRST)


def rounds_to_float32(estimator: Any) -> bool:
    """Tell whether these trees round their input to float32 before they compare."""
    return _kind(estimator) != _ROUNDED_FIRST and not is_lightgbm(estimator)


def fold_into_thresholds(
    estimator: Any,
    width: int,
    transform: Callable[[Array], Array] | None,
    dtype: type[np.floating[Any]] = np.float64,
) -> int | None:
    """Fold ``transform`` and the rounding of the input into the thresholds of fitted trees.

    Args:
        estimator: Fitted tree model; changed in place.
        width: Columns of the input.
        transform: The scalers before it, [N, width] to the same; None when there is none.
        dtype: What the source model is fed; its scalers compute in it.

    Returns:
        How many thresholds changed; None when these trees cannot be rewritten (categorical
        splits, or a boosting that starts from another estimator), and nothing was changed.
    """
    nodes = list(iterate_splits(estimator))
    if not nodes or (transform is not None and has_categories(estimator)):
        return None
    columns = np.concatenate([columns for columns, _, _ in nodes])
    thresholds = np.concatenate([thresholds for _, thresholds, _ in nodes])
    if len(columns) == 0:
        return 0
    if np.any((columns < 0) | (columns >= width)):
        return None
    is_rounding = rounds_to_float32(estimator)

    def before_comparison(rows: Array) -> Array:
        fed = rows.astype(dtype)
        with np.errstate(over="ignore"):
            ready = fed if transform is None else transform(fed)
            return ready.astype(np.float32) if is_rounding else ready

    exact = _largest_float32_below(columns, thresholds, width, before_comparison)
    start, changed = 0, 0
    for _, old, write in nodes:
        part = exact[start : start + len(old)]
        changed += int(np.sum(part != old))
        write(part)
        start += len(old)
    return changed


def _largest_float32_below(
    columns: Array, thresholds: Array, width: int, before: Callable[[Array], Array]
) -> Array:
    """Find for each threshold the largest finite float32 ``x`` of its column with g(x) <= t.

    -inf where even the smallest is above. All columns are searched at once: row ``k`` of the
    probe holds the k-th distinct threshold of every column.
    """
    distinct = [np.unique(thresholds[columns == column]) for column in range(width)]
    depth = max(len(values) for values in distinct)
    wanted = np.zeros((depth, width))
    for column, values in enumerate(distinct):
        wanted[: len(values), column] = values
    low = np.full((depth, width), _KEY_LOW, np.int64)
    high = np.full((depth, width), _KEY_HIGH, np.int64)
    for _ in range(33):
        middle = np.maximum((low + high + 1) // 2, _KEY_LOW + 1)
        fits = before(_float32_of_key(middle)) <= wanted
        low = np.where(fits, middle, low)
        high = np.where(fits, high, middle - 1)
        high = np.maximum(high, low)
    found = _float32_of_key(low).astype(np.float64)
    ranks = np.empty(len(thresholds), np.int64)
    for column, values in enumerate(distinct):
        mine = columns == column
        ranks[mine] = np.searchsorted(values, thresholds[mine])
    exact: Array = np.where(np.isposinf(thresholds), np.inf, found[ranks, columns])
    return exact


def _float32_of_key(keys: Array) -> Array:
    """Give the float32 at a place of the number line; -0 and 0 share key 0.

    >>> _float32_of_key(np.array([1, 0, -1])).tolist()
    [1.401298464324817e-45, 0.0, -1.401298464324817e-45]
    """
    magnitude = np.abs(keys).astype(np.uint32).view(np.float32)
    signed: Array = np.where(keys < 0, -magnitude, magnitude)
    return signed


_Nodes = tuple[Array, Array, Callable[[Array], None]]


def iterate_splits(estimator: Any) -> Iterator[_Nodes]:
    """Give columns and thresholds of the splits of each tree, and a way to write new ones.

    The attributes of fitted trees are the ones skl2onnx itself reads.
    """
    kind = _kind(estimator)
    if is_lightgbm(estimator) or is_xgboost(estimator):
        yield from list_thresholds(estimator)
    elif kind == _ROUNDED_FIRST:
        predictors = [p for stage in estimator._predictors for p in stage]  # noqa: SLF001
        if any(np.any(p.nodes["is_categorical"]) for p in predictors):
            return
        yield from (_hist_gradient_nodes(predictor.nodes) for predictor in predictors)
    elif kind == "GradientBoosting":
        if estimator.init in (None, "zero"):
            yield from (_tree_nodes(tree.tree_) for tree in estimator.estimators_.ravel())
    elif kind == "Bagging":
        columns = estimator.estimators_features_
        for tree, own in zip(estimator.estimators_, columns, strict=True):
            yield _tree_nodes(tree.tree_, np.asarray(own))
    elif kind in _SINGLE:
        yield _tree_nodes(estimator.tree_)
    else:
        yield from (_tree_nodes(tree.tree_) for tree in estimator.estimators_)


def _kind(estimator: Any) -> str:
    return type(estimator).__name__.removesuffix("Classifier").removesuffix("Regressor")


def _hist_gradient_nodes(nodes: Array) -> _Nodes:
    splits = ~nodes["is_leaf"].astype(bool)

    def write(thresholds: Array) -> None:
        nodes["num_threshold"][splits] = thresholds

    return nodes["feature_idx"][splits], nodes["num_threshold"][splits], write


def _tree_nodes(tree: Any, columns: Array | None = None) -> _Nodes:
    """Read a tree; one grown on some of the columns names those."""
    splits = tree.children_left != -1
    own = tree.feature[splits]

    def write(thresholds: Array) -> None:
        tree.threshold[splits] = thresholds

    return own if columns is None else columns[own], tree.threshold[splits], write
