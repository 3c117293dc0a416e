"""Read the attributes of a tree ensemble's ONNX node straight from fitted scikit-learn trees.

The exporter walks every node in Python, which takes longer than growing the trees. Here each tree
is read as arrays. The numbers are the exporter's to the bit, after what ``shrink_trees`` leaves
out: the same thresholds, the same products in the same order. ``graph_template`` compares them
with a full conversion before they are believed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_SINGLE = ("DecisionTree", "ExtraTree")
_FORESTS = ("RandomForest", "ExtraTrees")
_BOOSTED = "GradientBoosting"
_HISTOGRAM = "HistGradientBoosting"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """One tree as arrays over its nodes, in the exporter's order.

    Attributes:
        is_leaf: Boolean.
        features: Column asked; anything at a leaf.
        thresholds: float32, ``x <= threshold`` goes left.
        left: Node on the true side; anything at a leaf.
        right: Node on the false side; anything at a leaf.
        is_missing_left: Boolean: a missing value goes left.
        weights: float64 [nodes, outputs].
        output_base: Number of the first output its leaves add to.
    """

    is_leaf: Array
    features: Array
    thresholds: Array
    left: Array
    right: Array
    is_missing_left: Array
    weights: Array
    output_base: int


def read_tree_attributes(estimator: Any) -> dict[str, Array] | None:
    """Give the node's attributes by name; None when these trees are not read here.

    ``nodes_modes`` is boolean, True at a leaf. Attributes that the smaller graph leaves out are
    absent.
    """
    trees = _read(estimator)
    if trees is None:
        return None
    is_classifier = hasattr(estimator, "classes_")
    sizes = [len(tree.is_leaf) for tree in trees]
    ids = np.repeat(np.arange(len(trees)), sizes)
    leaf = np.concatenate([tree.is_leaf for tree in trees])
    missing = np.concatenate([tree.is_missing_left & ~tree.is_leaf for tree in trees])
    found: dict[str, Array] = {
        "nodes_treeids": ids,
        "nodes_nodeids": np.concatenate([np.arange(size) for size in sizes]),
        "nodes_modes": leaf,
        "nodes_featureids": _at_splits(trees, "features"),
        "nodes_values": _at_splits(trees, "thresholds").astype(np.float32),
        "nodes_truenodeids": _at_splits(trees, "left"),
        "nodes_falsenodeids": _at_splits(trees, "right"),
    }
    if missing.any():
        found["nodes_missing_value_tracks_true"] = missing.astype(np.int64)
    base = _base_values(estimator)
    if base is not None:
        found["base_values"] = base.astype(np.float32)
    return found | _weights(trees, is_classifier=is_classifier)


def _at_splits(trees: list[_Tree], name: str) -> Array:
    return np.concatenate([np.where(tree.is_leaf, 0, getattr(tree, name)) for tree in trees])


def _weights(trees: list[_Tree], *, is_classifier: bool) -> dict[str, Array]:
    """Give one weight for each leaf and output; a classification keeps those that are not zero."""
    parts: dict[str, list[Array]] = {"treeids": [], "nodeids": [], "ids": [], "weights": []}
    for number, tree in enumerate(trees):
        leaves = np.flatnonzero(tree.is_leaf)
        weights = tree.weights[leaves].astype(np.float32)
        if is_classifier:
            kept = weights != 0
            kept[~kept.any(axis=1), 0] = True
        else:
            kept = np.ones(weights.shape, bool)
        rows, outputs = np.nonzero(kept)
        parts["treeids"].append(np.full(len(rows), number))
        parts["nodeids"].append(leaves[rows])
        parts["ids"].append(outputs + tree.output_base)
        parts["weights"].append(weights[rows, outputs])
    prefix = "class" if is_classifier else "target"
    return {f"{prefix}_{name}": np.concatenate(values) for name, values in parts.items()}


def _read(estimator: Any) -> list[_Tree] | None:
    kind = type(estimator).__name__.removesuffix("Classifier").removesuffix("Regressor")
    is_classifier = hasattr(estimator, "classes_")
    if kind in _SINGLE and (estimator.n_outputs_ == 1 or not is_classifier):
        return [_read_grown(estimator.tree_, 1.0, is_classifier=is_classifier)]
    if kind in _FORESTS and (estimator.n_outputs_ == 1 or not is_classifier):
        share = 1.0 / len(estimator.estimators_)
        return [
            _read_grown(tree.tree_, share, is_classifier=is_classifier)
            for tree in estimator.estimators_
        ]
    if kind == _BOOSTED and estimator.init in (None, "zero"):
        return [
            _read_grown(tree.tree_, estimator.learning_rate, output_base=base, takes_missing=False)
            for stage in estimator.estimators_
            for base, tree in enumerate(stage)
        ]
    if kind == _HISTOGRAM:
        return list(_read_histogram(estimator))
    return None


def _read_grown(
    tree: Any,
    factor: float,
    *,
    is_classifier: bool = False,
    output_base: int = 0,
    takes_missing: bool = True,
) -> _Tree:
    """Read a ``Tree``; the leaves of a classifying forest are shares of classes."""
    leaf = tree.children_left == -1
    values = tree.value[:, 0, :] if is_classifier else tree.value[:, :, 0]
    if is_classifier:
        sums = np.cumsum(values, axis=1)[:, -1:]
        weights = values * (factor / np.where(sums != 0.0, sums, 1.0))
        if weights.shape[1] == 2:
            weights = weights[:, 1:]
    else:
        weights = values * factor
    return _Tree(
        is_leaf=leaf,
        features=tree.feature,
        thresholds=_largest_float32_below(tree.threshold),
        left=tree.children_left,
        right=tree.children_right,
        is_missing_left=(tree.missing_go_to_left != 0) & takes_missing,
        weights=weights,
        output_base=output_base,
    )


def _read_histogram(estimator: Any) -> Iterator[_Tree]:
    """Read the trees of a histogram boosting."""
    for stage in estimator._predictors:  # noqa: SLF001 - what the exporter itself reads
        for base, predictor in enumerate(stage):
            nodes = predictor.nodes
            yield _Tree(
                is_leaf=nodes["is_leaf"].astype(bool),
                features=nodes["feature_idx"],
                thresholds=_largest_float32_below(nodes["num_threshold"]),
                left=nodes["left"],
                right=nodes["right"],
                is_missing_left=nodes["missing_go_to_left"].astype(bool),
                weights=nodes["value"][:, None],
                output_base=base,
            )


def _base_values(estimator: Any) -> Array | None:
    """Give what every row starts from, as the exporter finds it."""
    if hasattr(estimator, "_baseline_prediction"):
        return np.ravel(estimator._baseline_prediction)  # noqa: SLF001
    if not hasattr(estimator, "init_"):
        return None
    if estimator.init == "zero":
        return np.zeros(1)
    if hasattr(estimator, "classes_"):
        row = np.zeros((1, estimator.n_features_in_))
        return np.ravel(estimator._raw_predict_init(row))  # noqa: SLF001
    return np.ravel(estimator.init_.constant_)


def _largest_float32_below(thresholds: Array) -> Array:
    """Give the largest float32 that is not above each float64 threshold."""
    with np.errstate(over="ignore"):
        rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)
