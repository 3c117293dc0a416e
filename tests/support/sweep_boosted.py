"""LightGBM and XGBoost models for the sweep of conversion: objectives, boosters, surroundings."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.sweep import Outcome, judge_model, merge
from tests.support.sweep_cases import CLASSES, NUMBERS, PAIR, SEVERAL, SweepCase
from tests.support.sweep_rows import load_rows

Array = NDArray[Any]
BOOSTED = "LightGBM and XGBoost"
_FEW = {"n_estimators": 8, "random_state": 0, "n_jobs": 1}
_LIGHT = {**_FEW, "verbose": -1, "min_child_samples": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedCase:
    """One model: how it is made of rows and targets, and of which table."""

    name: str
    kind: str
    fit: Callable[[Array, Array], Any]


def _light(**how: Any) -> Any:
    plain = lightgbm.LGBMRegressor if how.pop("numbers", False) else lightgbm.LGBMClassifier
    kind = how.pop("kind", plain)
    return kind(**{**_LIGHT, **how})


def _extreme(**how: Any) -> Any:
    kind = xgboost.XGBRegressor if how.pop("numbers", False) else xgboost.XGBClassifier
    return kind(**{**_FEW, **how})


def _indexed(model: Any) -> Callable[[Array, Array], Any]:
    """XGBoost takes class indexes only."""
    return lambda rows, targets: model.fit(rows, np.unique(targets, return_inverse=True)[1])


def _light_booster(rows: Array, targets: Array) -> Any:
    indexes = np.unique(targets, return_inverse=True)[1]
    how = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1, "seed": 0}
    return lightgbm.train(how, lightgbm.Dataset(rows, indexes), num_boost_round=5)


def _extreme_booster(rows: Array, targets: Array) -> Any:
    indexes = np.unique(targets, return_inverse=True)[1]
    how = {"objective": "binary:logistic", "nthread": 1, "seed": 0}
    return xgboost.train(how, xgboost.DMatrix(rows, indexes), num_boost_round=5)


def _with_holes(model: Any) -> Callable[[Array, Array], Any]:
    def fit(rows: Array, targets: Array) -> Any:
        holed = rows.copy()
        holed[::5, ::2] = np.nan
        return model.fit(holed, targets)

    return fit


def _ranked(model: Any) -> Callable[[Array, Array], Any]:
    """Six queries, the better half of the rows being relevant."""

    def fit(rows: Array, targets: Array) -> Any:
        queries = np.arange(len(rows)) * 6 // len(rows)
        how = (
            {"qid": queries}
            if isinstance(model, xgboost.XGBRanker)
            else {"group": np.bincount(queries)}
        )
        return model.fit(rows, (targets > np.median(targets)).astype(int), **how)

    return fit


def list_boosted() -> list[BoostedCase]:
    """Give every case; models are made anew each time."""
    light_numbers = {
        f"LGBMRegressor, {objective}": _light(numbers=True, objective=objective)
        for objective in ("regression", "huber", "quantile", "poisson", "gamma", "tweedie", "fair")
    }
    extreme_numbers = {
        f"XGBRegressor, {objective}": _extreme(numbers=True, objective=objective)
        for objective in (
            *("reg:squarederror", "reg:absoluteerror", "reg:gamma", "count:poisson"),
            *("reg:tweedie", "reg:logistic"),
        )
    }
    numbers = {
        **light_numbers,
        "LGBMRegressor, sqrt": _light(numbers=True, reg_sqrt=True),
        "LGBMRegressor, linear leaves": _light(numbers=True, linear_tree=True),
        "LGBMRegressor, forest": _light(
            numbers=True, boosting_type="rf", bagging_freq=1, bagging_fraction=0.7
        ),
        "StandardScaler > LGBMRegressor": make_pipeline(StandardScaler(), _light(numbers=True)),
        "VotingRegressor of LGBMRegressor and Ridge": VotingRegressor(
            [("trees", _light(numbers=True)), ("linear", Ridge())]
        ),
        **extreme_numbers,
        "XGBRegressor, linear": _extreme(numbers=True, booster="gblinear"),
        "XGBRegressor, dart": _extreme(numbers=True, booster="dart", rate_drop=0.5),
        "XGBRegressor, zero as missing": _extreme(numbers=True, missing=0.0),
        "XGBRFRegressor": xgboost.XGBRFRegressor(**_FEW),
        "StandardScaler > XGBRegressor": make_pipeline(StandardScaler(), _extreme(numbers=True)),
        "PCA > XGBRegressor": make_pipeline(PCA(4), _extreme(numbers=True)),
    }
    classes = {
        "LGBMClassifier": _light(),
        "LGBMClassifier, one against rest": _light(objective="multiclassova"),
        "LGBMClassifier, dart": _light(boosting_type="dart"),
        "CalibratedClassifierCV of LGBMClassifier": CalibratedClassifierCV(_light(), cv=2),
        "CalibratedClassifierCV of LGBMClassifier, isotonic": CalibratedClassifierCV(
            _light(), cv=2, method="isotonic"
        ),
    }
    pair = {
        "LGBMClassifier, forest": _light(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7),
        "LGBMClassifier, zero as missing": _light(zero_as_missing=True),
        "LGBMClassifier, steep sigmoid": _light(sigmoid=2.0),
        "StackingClassifier with LGBMClassifier": StackingClassifier(
            [("trees", _light()), ("linear", LogisticRegression())], cv=2
        ),
    }
    several = {
        "XGBRegressor, several targets": _extreme(numbers=True),
        "MultiOutputRegressor of LGBMRegressor": MultiOutputRegressor(_light(numbers=True)),
        "MultiOutputRegressor of XGBRegressor": MultiOutputRegressor(_extreme(numbers=True)),
        "RegressorChain of LGBMRegressor": RegressorChain(_light(numbers=True)),
    }
    return [
        *(BoostedCase(name=name, kind=SEVERAL, fit=m.fit) for name, m in several.items()),
        *(BoostedCase(name=name, kind=NUMBERS, fit=m.fit) for name, m in numbers.items()),
        *(BoostedCase(name=name, kind=CLASSES, fit=m.fit) for name, m in classes.items()),
        *(BoostedCase(name=name, kind=PAIR, fit=m.fit) for name, m in pair.items()),
        *(
            BoostedCase(name=name, kind=NUMBERS, fit=_ranked(model))
            for name, model in {
                "LGBMRanker": _light(kind=lightgbm.LGBMRanker),
                "LGBMRanker, dart": _light(kind=lightgbm.LGBMRanker, boosting_type="dart"),
                "XGBRanker": xgboost.XGBRanker(**_FEW),
            }.items()
        ),
        BoostedCase(
            name="CalibratedClassifierCV of LGBMClassifier, forest",
            kind=PAIR,
            fit=CalibratedClassifierCV(
                _light(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7), cv=2
            ).fit,
        ),
        BoostedCase(
            name="CalibratedClassifierCV of XGBClassifier",
            kind=CLASSES,
            fit=_indexed(CalibratedClassifierCV(_extreme(), cv=2)),
        ),
        BoostedCase(
            name="XGBClassifier, linear", kind=CLASSES, fit=_indexed(_extreme(booster="gblinear"))
        ),
        BoostedCase(
            name="XGBClassifier, dart",
            kind=PAIR,
            fit=_indexed(_extreme(booster="dart", rate_drop=0.5)),
        ),
        BoostedCase(name="LGBMClassifier, holes", kind=PAIR, fit=_with_holes(_light())),
        BoostedCase(name="lightgbm Booster", kind=CLASSES, fit=_light_booster),
        BoostedCase(name="XGBClassifier", kind=CLASSES, fit=_indexed(_extreme())),
        BoostedCase(
            name="XGBClassifier, early stopping",
            kind=PAIR,
            fit=_stopped,
        ),
        BoostedCase(name="XGBClassifier, two classes", kind=PAIR, fit=_indexed(_extreme())),
        BoostedCase(
            name="XGBRFClassifier", kind=PAIR, fit=_indexed(xgboost.XGBRFClassifier(**_FEW))
        ),
        BoostedCase(name="xgboost Booster", kind=PAIR, fit=_extreme_booster),
    ]


def _stopped(rows: Array, targets: Array) -> Any:
    indexes = np.unique(targets, return_inverse=True)[1]
    model = _extreme(n_estimators=60, early_stopping_rounds=2)
    return model.fit(rows, indexes, eval_set=[(rows[::3], indexes[::3])], verbose=False)


def judge_boosted(case: BoostedCase) -> Outcome:
    """Fit, convert and compare one model, on float64 and float32 rows."""
    rows, targets = load_rows(SweepCase(kind=case.kind, name="", make=dict, feed="numbers"))
    targets = np.abs(targets) if case.kind == NUMBERS else targets
    if case.name.endswith("reg:logistic"):
        targets = targets / 1_000
    cut = len(rows) * 6 // 10
    found = []
    for dtype in (np.float64, np.float32):
        typed = rows.astype(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = case.fit(typed[:cut], targets[:cut])
            found.append(judge_model(model, case.kind, typed[:cut], typed[cut:]))
    return merge(BOOSTED, case.name, *found)
