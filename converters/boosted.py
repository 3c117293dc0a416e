"""LightGBM and XGBoost models made ready for their converters. Imports neither of the two.

LightGBM compares float64 with float64 thresholds, a graph float32 with float32: its trees are read
as JSON, the thresholds become the largest float32 that asks the same question, and what the
converter of onnxmltools leaves out is either written into the trees (missing values, averaged
forests, steep sigmoids) or refused. XGBoost compares float32 by itself: its trees change only where
a scaler is folded in.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import UnsupportedEstimatorError

Array = NDArray[Any]
TREES = "trees_to_convert"
"""Attribute of a copied model: its trees as JSON, to be changed and converted."""
WHOLE = "splits by category compare whole numbers; a fraction is no category"
_LIGHTGBM_OBJECTIVES = (
    *("binary", "multiclass", "multiclassova", "regression", "regression_l1", "huber", "quantile"),
    *("poisson", "gamma", "tweedie", "lambdarank", "rank_xendcg"),
)
_XGBOOST_OBJECTIVES = (
    *("binary:logistic", "multi:softprob", "multi:softmax", "reg:squarederror"),
    *("reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror", "reg:quantileerror"),
    *("count:poisson", "reg:gamma", "reg:tweedie", "rank:ndcg", "rank:pairwise", "rank:map"),
)
LINEAR, DART = "gblinear", "dart"
_XGBOOST_BOOSTERS = ("gbtree", DART, LINEAR)


def is_lightgbm(estimator: Any) -> bool:
    """Tell an estimator of LightGBM, or its bare booster made one by ``from_boosted``."""
    return _library(estimator) == "lightgbm" or getattr(estimator, "library", "") == "lightgbm"


def is_xgboost(estimator: Any) -> bool:
    """Tell an estimator of XGBoost, or its bare booster made one by ``from_boosted``."""
    return _library(estimator) == "xgboost" or getattr(estimator, "library", "") == "xgboost"


def is_linear(estimator: Any) -> bool:
    """Tell a fitted XGBoost model without trees."""
    return is_xgboost(estimator) and name_xgboost_booster(estimator.get_booster()) == LINEAR


def attach_trees(estimator: Any) -> tuple[str, ...]:
    """Read the trees of a copied LightGBM model, repair what its converter would leave out.

    Returns:
        What was changed, one sentence each.

    Raises:
        UnsupportedEstimatorError: Trees that no graph of standard operators holds.
    """
    name = type(estimator).__name__
    booster = estimator.booster_
    dump = booster.dump_model()
    objective = str(dump.get("objective", ""))
    kind = objective.split(" ", maxsplit=1)[0]
    if kind not in _LIGHTGBM_OBJECTIVES or "sqrt" in objective:
        raise UnsupportedEstimatorError(
            name,
            f"objective {objective or 'of its own'!r} has no converter",
            f"Train with one of {', '.join(_LIGHTGBM_OBJECTIVES)}.",
        )
    nodes = list(_iterate_nodes(dump))
    if any("leaf_const" in node or "leaf_coeff" in node for node in nodes):
        raise UnsupportedEstimatorError(
            name, "its leaves are linear models (linear_tree)", "Train with linear_tree=False."
        )
    splits = [node for node in nodes if "decision_type" in node]
    if any(node["missing_type"] == "Zero" for node in splits):
        raise UnsupportedEstimatorError(
            name, "it takes zero for missing (zero_as_missing)", "Train with missing values as NaN."
        )
    repairs = []
    for node in splits:
        if node["decision_type"] == "==":
            node["default_left"] = False
        elif node["missing_type"] == "None":
            # It then reads NaN as 0; the converter would follow default_left.
            node["default_left"] = float(node["threshold"]) >= 0
        node["missing_type"] = "NaN"
    scale = find_leaf_scale(dump)
    if scale != 1:
        for node in nodes:
            if "leaf_value" in node:
                node["leaf_value"] = float(node["leaf_value"]) * scale
        repairs.append(f"{name}: leaves scaled by {scale:g}, for averages or a steep sigmoid")
    if any(node["decision_type"] == "==" for node in splits):
        repairs.append(f"{name}: {WHOLE}")
    setattr(estimator, TREES, dump)
    return tuple(repairs)


def list_thresholds(estimator: Any) -> list[tuple[Array, Array, Any]]:
    """Give columns and thresholds of the numeric splits of a copied model, and their writer."""
    if is_xgboost(estimator):
        return _list_xgboost(estimator)
    dump = getattr(estimator, TREES, None)
    if dump is None:
        return []
    splits = [node for node in _iterate_nodes(dump) if node.get("decision_type") == "<="]

    def write(thresholds: Array) -> None:
        for node, threshold in zip(splits, thresholds.tolist(), strict=True):
            node["threshold"] = threshold

    columns = np.array([node["split_feature"] for node in splits], np.int64)
    return [(columns, np.array([float(node["threshold"]) for node in splits]), write)]


def _list_xgboost(estimator: Any) -> list[tuple[Array, Array, Any]]:
    """Give the splits of XGBoost, which asks ``x < t``, as ``x <= the float32 below t``."""
    booster = estimator.get_booster()
    names = {name: n for n, name in enumerate(booster.feature_names or ())}
    trees = read_xgboost_trees(booster)
    setattr(estimator, TREES, trees)
    splits = [node for tree in trees for node in iterate_xgboost(tree) if "split" in node]
    splits = [node for node in splits if not isinstance(node["split_condition"], list)]
    columns = [names[node["split"]] if names else int(node["split"][1:]) for node in splits]
    limits = np.array([node["split_condition"] for node in splits], np.float32)
    below = np.nextafter(limits, np.float32(-np.inf)).astype(np.float64)

    def write(thresholds: Array) -> None:
        above = np.nextafter(thresholds.astype(np.float32), np.float32(np.inf))
        for node, limit in zip(splits, above.tolist(), strict=True):
            node["split_condition"] = limit

    return [(np.array(columns, np.int64), below, write)]


def name_xgboost_booster(booster: Any) -> str:
    """Name what a booster of XGBoost is made of: gbtree, dart or gblinear."""
    return str(json.loads(booster.save_config())["learner"]["gradient_booster"]["name"])


def read_xgboost_trees(booster: Any) -> list[dict[str, Any]]:
    """Read the trees of XGBoost; what dart multiplies a tree with goes into its leaves."""
    trees = [json.loads(tree) for tree in booster.get_dump(dump_format="json", with_stats=True)]
    if name_xgboost_booster(booster) == DART:
        model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
        for tree, weight in zip(trees, model["weight_drop"], strict=True):
            for node in iterate_xgboost(tree):
                if "leaf" in node:
                    node["leaf"] *= weight
    return trees


def iterate_xgboost(tree: Any) -> Iterator[dict[str, Any]]:
    """Give every node of a tree of XGBoost."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.get("children", ())


def has_categories(estimator: Any) -> bool:
    """Tell whether a copied model splits by category somewhere; reads its trees."""
    if is_xgboost(estimator):
        trees = getattr(estimator, TREES, ())
        nodes = (node for tree in trees for node in iterate_xgboost(tree))
        return any(isinstance(node.get("split_condition"), list) for node in nodes)
    dump = getattr(estimator, TREES, None)
    return dump is not None and any(n.get("decision_type") == "==" for n in _iterate_nodes(dump))


def check_xgboost(estimator: Any) -> tuple[str, ...]:
    """Refuse XGBoost models whose converter would leave something out.

    Returns:
        What to know of the graph, one sentence each.

    Raises:
        UnsupportedEstimatorError: A booster other than trees, an objective without converter.
    """
    name = type(estimator).__name__
    learner = json.loads(estimator.get_booster().save_config())["learner"]
    booster, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if booster not in _XGBOOST_BOOSTERS:
        raise UnsupportedEstimatorError(
            name, f"booster {booster!r} has no converter", 'Train with booster="gbtree".'
        )
    missing = getattr(estimator, "missing", np.nan)
    if missing is not None and not np.isnan(missing):
        raise UnsupportedEstimatorError(
            name, f"it takes {missing:g} for missing", "Train with missing values as NaN."
        )
    if objective not in _XGBOOST_OBJECTIVES:
        raise UnsupportedEstimatorError(
            name,
            f"objective {objective!r} has no converter",
            f"Train with one of {', '.join(_XGBOOST_OBJECTIVES)}.",
        )
    if (targets := _count_targets(learner)) > 1:
        raise UnsupportedEstimatorError(
            name,
            f"its {targets} targets are not trees apart (dart, gblinear, leaves of several numbers,"
            " quantiles)",
            "Use MultiOutputRegressor(XGBRegressor(...)), one model a target.",
        )
    kinds = estimator.get_booster().feature_types or ()
    return (f"{name}: {WHOLE}",) if "c" in kinds else ()


def _count_targets(learner: Any) -> int:
    return max(1, int(learner["learner_model_param"].get("num_target", 1)))


def find_leaf_scale(dump: Any) -> float:
    """Give what leaves are multiplied with: 1 / trees of an averaged forest, slope of a sigmoid."""
    scale = 1.0
    if dump.get("average_output"):
        scale /= max(1, len(dump["tree_info"]) // max(1, int(dump["num_tree_per_iteration"])))
    words = str(dump.get("objective", "")).split(" ")
    named = dict(word.split(":", 1) for word in words if ":" in word)
    return scale * float(named.get("sigmoid", 1))


def _iterate_nodes(dump: Any) -> Iterator[dict[str, Any]]:
    for tree in dump["tree_info"]:
        waiting = [tree["tree_structure"]]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [node[side] for side in ("right_child", "left_child") if side in node]


def _library(estimator: Any) -> str:
    """Name the library of an estimator, of a class derived from one as well."""
    modules = [kind.__module__.split(".")[0] for kind in type(estimator).__mro__]
    return next((name for name in modules if name in ("lightgbm", "xgboost")), "")
