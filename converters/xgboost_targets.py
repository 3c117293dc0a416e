"""Take an XGBoost model of several targets apart: a booster each, from the same trees.

onnxmltools reads the trees of all targets as those of one. Each target's own trees and start are a
model by themselves, told apart by ``tree_info`` of XGBoost's JSON; nothing is trained. Left out,
and refused by ``boosted.check_xgboost``: trees whose leaves hold a number a target
(``multi_output_tree``), dart, gblinear and several quantiles.
"""

import json
from typing import Any

from sklearn.multioutput import MultiOutputRegressor

_SPLIT_BY = "reg:quantileerror"
"""Objective whose targets are its quantiles: part of it makes no booster."""


def split_targets(estimator: Any, repairs: list[str]) -> Any:
    """Give a regressor of one booster a target; the estimator itself where it cannot be split."""
    booster = estimator.get_booster()
    settings = json.loads(booster.save_config())["learner"]  # small, whatever the trees are
    count = int(settings["learner_model_param"].get("num_target", 1))
    if count < 2:
        return estimator
    whole = json.loads(booster.save_raw("json"))
    learner = whole["learner"]
    if not _can_split(learner):
        return estimator
    from converters.from_boosted import XgboostRegressor

    parts = []
    for target in range(count):
        part = XgboostRegressor(_load(json.dumps(_take_target(whole, target, count))))
        part.missing = getattr(estimator, "missing", part.missing)
        if "best_iteration" in learner["attributes"]:
            part.best_iteration = int(learner["attributes"]["best_iteration"])
        parts.append(part)
    several = MultiOutputRegressor(parts[0])
    several.estimators_, several.n_features_in_ = parts, estimator.n_features_in_
    repairs.append(f"{type(estimator).__name__}: its {count} targets written as a booster each")
    return several


def _can_split(learner: Any) -> bool:
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree" or learner["objective"]["name"] == _SPLIT_BY:
        return False
    trees = booster["model"]["trees"]
    return all(int(tree["tree_param"]["size_leaf_vector"]) <= 1 for tree in trees)


def _take_target(whole: Any, target: int, count: int) -> Any:
    """Give the JSON of one target's model."""
    learner = whole["learner"]
    model = learner["gradient_booster"]["model"]
    mine = [n for n, owner in enumerate(model["tree_info"]) if owner == target]
    starts = json.loads(learner["learner_model_param"]["base_score"])
    start = starts[target if len(starts) > 1 else 0] if isinstance(starts, list) else starts
    own = {
        **model,
        "trees": [{**model["trees"][n], "id": place} for place, n in enumerate(mine)],
        "tree_info": [0] * len(mine),
        "gbtree_model_param": {**model["gbtree_model_param"], "num_trees": str(len(mine))},
    }
    if "iteration_indptr" in model:
        own["iteration_indptr"] = [place // count for place in model["iteration_indptr"]]
    parameters = {
        **learner["learner_model_param"],
        "num_target": "1",
        "base_score": f"[{start!r}]" if isinstance(starts, list) else repr(start),
    }
    booster = {**learner["gradient_booster"], "model": own}
    return {
        **whole,
        "learner": {**learner, "gradient_booster": booster, "learner_model_param": parameters},
    }


def _load(text: str) -> Any:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(text.encode()))
    return booster
