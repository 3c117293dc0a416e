"""Which estimators and steps a spec may name, and why the others may not.

Only names that were converted and compared with their source are listed; a dotted name is looked
up here before anything is imported, so a spec can never name arbitrary code.
"""

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from edge_agent.contract.schema import Task


def _names(module: str, names: str) -> frozenset[str]:
    return frozenset(f"sklearn.{module}.{name}" for name in names.split())


CLASSIFIERS = (
    _names("linear_model", "LogisticRegression LogisticRegressionCV SGDClassifier")
    | _names("tree", "DecisionTreeClassifier ExtraTreeClassifier")
    | _names(
        "ensemble",
        "RandomForestClassifier ExtraTreesClassifier GradientBoostingClassifier"
        " HistGradientBoostingClassifier AdaBoostClassifier BaggingClassifier",
    )
    | _names("naive_bayes", "GaussianNB BernoulliNB MultinomialNB ComplementNB")
    | _names("neighbors", "KNeighborsClassifier")
    | _names("neural_network", "MLPClassifier")
    | _names("discriminant_analysis", "LinearDiscriminantAnalysis")
)
REGRESSORS = (
    _names(
        "linear_model",
        "LinearRegression Ridge RidgeCV Lasso LassoCV ElasticNet ElasticNetCV Lars LassoLars"
        " BayesianRidge ARDRegression HuberRegressor TheilSenRegressor SGDRegressor"
        " TweedieRegressor PoissonRegressor GammaRegressor QuantileRegressor",
    )
    | _names("svm", "SVR NuSVR LinearSVR")
    | _names("tree", "DecisionTreeRegressor ExtraTreeRegressor")
    | _names(
        "ensemble",
        "RandomForestRegressor ExtraTreesRegressor GradientBoostingRegressor"
        " HistGradientBoostingRegressor AdaBoostRegressor BaggingRegressor",
    )
    | _names("neighbors", "KNeighborsRegressor")
    | _names("neural_network", "MLPRegressor")
)
STEPS = (
    _names(
        "preprocessing",
        "StandardScaler MinMaxScaler MaxAbsScaler RobustScaler Normalizer Binarizer"
        " PolynomialFeatures PowerTransformer",
    )
    | _names("decomposition", "PCA IncrementalPCA TruncatedSVD KernelPCA")
    | _names("feature_selection", "VarianceThreshold SelectKBest SelectPercentile")
    | _names("random_projection", "GaussianRandomProjection")
)

_NO_PROBABILITIES = (
    "it gives no probabilities, which telemetry and drift need; use LogisticRegression"
)
REFUSED: Mapping[str, str] = {
    "TunedThresholdClassifierCV": "its threshold is lost in conversion",
    "FixedThresholdClassifier": "its threshold is lost in conversion",
    "GaussianProcessClassifier": "it cannot run on the device",
    "RadiusNeighborsClassifier": "it fails on a row without neighbours",
    "RadiusNeighborsRegressor": "it fails on a row without neighbours",
    "CategoricalNB": "it fails on a category that training did not see",
    "QuadraticDiscriminantAnalysis": "its converted label has the wrong shape",
    "LinearSVC": _NO_PROBABILITIES,
    "RidgeClassifier": _NO_PROBABILITIES,
    "RidgeClassifierCV": _NO_PROBABILITIES,
    "Perceptron": _NO_PROBABILITIES,
    "PassiveAggressiveClassifier": _NO_PROBABILITIES,
    "SVC": _NO_PROBABILITIES,
    "NuSVC": _NO_PROBABILITIES,
    "NearestCentroid": _NO_PROBABILITIES,
    "QuantileTransformer": "its float32 form moves answers by several percent",
    "KBinsDiscretizer": "rounding to float32 moves rows into other bins",
    "KernelRidge": "there is no conversion for it",
    "DummyClassifier": "there is no conversion for it",
    "DummyRegressor": "there is no conversion for it",
}
"""Reasons by class name, for names people are likely to try."""


def judge_estimator(name: str, task: Task) -> str:
    """Say why an estimator may not be used; empty when it may.

    >>> judge_estimator("sklearn.tree.DecisionTreeClassifier", Task.CLASSIFICATION)
    ''
    """
    wanted = CLASSIFIERS if task is Task.CLASSIFICATION else REGRESSORS
    others = REGRESSORS if task is Task.CLASSIFICATION else CLASSIFIERS
    if name in wanted:
        return ""
    if name in others:
        return f"{_short(name)} does not answer a {task}"
    return _why_not(name, wanted)


def judge_step(name: str) -> str:
    """Say why a preprocessing step may not be used; empty when it may."""
    return "" if name in STEPS else _why_not(name, STEPS)


def judge_params(name: str, params: Mapping[str, Any]) -> dict[str, str]:
    """Say which parameters an allowed estimator or step does not take.

    Imports the class, and scikit-learn with it.
    """
    known = list(inspect.signature(load_class(name)).parameters)
    wrong = {}
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            wrong[key] = f"{_short(name)} has no such parameter; {hint}"
    return wrong


def load_class(name: str) -> type[Any]:
    """Import an allowed class; raises KeyError for any other name."""
    if name not in CLASSIFIERS | REGRESSORS | STEPS:
        raise KeyError(name)
    module, _, attribute = name.rpartition(".")
    loaded: type[Any] = getattr(import_module(module), attribute)
    return loaded


def _why_not(name: str, wanted: frozenset[str]) -> str:
    short = _short(name)
    if short in REFUSED:
        return f"{short} is refused: {REFUSED[short]}"
    same = [full for full in sorted(wanted) if _short(full) == short]
    near = same or difflib.get_close_matches(name, sorted(wanted), 1, cutoff=0.75)
    if near:
        return f"{name[:120]!r} is not supported; did you mean {near[0]}?"
    return f"{name[:120]!r} is not supported; docs/spec.md lists the names that are"


def _short(name: str) -> str:
    return name.rpartition(".")[2]
