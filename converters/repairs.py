"""Know which fitted estimators convert falsely, refuse those, and repair the ones that can be.

Each entry was measured (docs/conversion.md): these convert without a word and then answer
differently from scikit-learn. What is repaired is a copy; the caller's estimator stays as it is.
What no entry knows is left to the held-out rows (``attempts.py``).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multioutput import ClassifierChain, RegressorChain
from sklearn.pipeline import Pipeline

from converters.answers import (
    Answer,
    check_declared,
    find_answer,
    find_classes,
    find_last_step,
    has_threshold,
    is_search,
)
from converters.boosted import attach_trees, check_xgboost, is_lightgbm, is_xgboost
from converters.classifier_chain import check_chain, register_classifier_chain
from converters.errors import UnsupportedEstimatorError
from converters.own_converters import make_known
from converters.regressor_chain import register_chain
from converters.text_table import TextTable
from converters.tree_folding import fold_members, fold_scalers
from converters.tree_places import is_loose
from converters.tree_thresholds import is_tree_model
from converters.xgboost_targets import split_targets
from edge_agent.contract.schema import ModelSchema

_DEPTH_MAX = 20
_SELECTORS = ("RFE", "RFECV", "SequentialFeatureSelector")
_REFUSED = {
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
        "it answers several labels a row, a package answers one",
        "Convert each of its estimators_ as a package of its own.",
    ),
    "KNNImputer": (
        "its graph calls functions that cannot be written out",
        "Use SimpleImputer.",
    ),
    "RandomTreesEmbedding": (
        "its graph finds no leaves",
        "Use RandomForestClassifier or RandomForestRegressor.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A threshold that chooses between two classes.

    Attributes:
        positive: Index of the class it is for.
        threshold: Probability from which on it is that class.
    """

    positive: int
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A copy of an estimator that converts faithfully.

    Attributes:
        estimator: To convert.
        answer: What it answers.
        is_loose: Whether there are trees whose thresholds could not be folded, so that they are to
            be written to the last bit.
        is_double: Whether trees read what steps before them compute in float64.
        cut: Threshold that chooses the label, None where the graph's own label is right.
        repairs: What was changed, one sentence each.
    """

    estimator: Any
    answer: Answer
    is_loose: bool
    is_double: bool
    cut: Cut | None
    repairs: tuple[str, ...]


def prepare(
    estimator: Any, schema: ModelSchema, dtype: type[np.floating[Any]] = np.float64
) -> Prepared:
    """Copy an estimator and repair what is known to convert falsely.

    Args:
        estimator: Fitted.
        schema: What goes in and comes out.
        dtype: What the source model is fed.

    Raises:
        UnsupportedEstimatorError: With the reason and what to use instead.
    """
    repairs: list[str] = []
    answer = find_answer(estimator, schema.task)
    if answer is not Answer.LABELS:  # of which each is checked: ``label_source.check_labels``
        check_declared(answer, find_last_step(estimator), schema)
    clone = unwrap(copy.deepcopy(estimator), repairs)
    clone, cut = _take_threshold(clone, repairs)
    clone = unwrap(clone, repairs)
    _check_parts(clone)
    last = find_last_step(clone)
    if cut is not None and not hasattr(last, "predict_proba"):
        raise UnsupportedEstimatorError(
            type(last).__name__,
            "the threshold is on its decision function, which a package does not answer",
            "Use a threshold on a classifier with predict_proba.",
        )
    if is_xgboost(last) and answer is Answer.VALUE:
        clone = with_last_step(clone, split_targets(last, repairs))
    _prepare_parts(clone, repairs)
    clone = _replace_selectors(clone, repairs)
    last = find_last_step(clone)
    if type(last).__name__ == "LinearDiscriminantAnalysis":
        clone = _replace_binary_discriminant(clone, repairs)
    if type(last).__name__ == "LinearSVC":
        clone = _replace_linear_svc(clone)
    last = find_last_step(clone)
    if type(last).__name__ == "OneVsOneClassifier":  # its converter knows whole numbers only
        last.classes_ = np.arange(len(last.classes_))
    if is_tree_model(last):
        folded = fold_scalers(clone, schema.width, dtype, repairs)
        clone = clone if folded is None else folded
    elif not isinstance(clone, Pipeline):
        fold_members(clone, schema.width, dtype, repairs)
    if any(np.any(tree.tree_.missing_go_to_left) for tree in list_trees(clone)):
        repairs.append("missing values go down the branches the trees send them")
    is_computed = _reads_computed(clone)
    is_wide = dtype is np.float64 or any(
        isinstance(one, TextTable) for one in iterate_estimators(clone)
    )
    return Prepared(
        estimator=clone,
        answer=answer,
        is_loose=is_computed or any(map(is_loose, iterate_estimators(clone))),
        is_double=is_computed and is_wide,
        cut=cut,
        repairs=tuple(repairs),
    )


def _reads_computed(estimator: Any) -> bool:
    """Tell whether there are trees behind steps that could not be folded into them."""
    return any(
        isinstance(one, Pipeline)
        and any(step not in (None, "passthrough") for _, step in one.steps[:-1])
        and any(map(is_tree_model, iterate_estimators(one.steps[-1][1])))
        for one in iterate_estimators(estimator)
    )


def _check_parts(estimator: Any) -> None:
    for inner in iterate_estimators(estimator):
        name = type(inner).__name__
        if name in _REFUSED:
            raise UnsupportedEstimatorError(name, *_REFUSED[name])
        if has_threshold(inner):
            raise UnsupportedEstimatorError(
                name,
                "its threshold would be left out of the graph without a word",
                "Make it the last step, or give the estimator inside it (estimator_).",
            )


def _prepare_parts(estimator: Any, repairs: list[str]) -> None:
    for inner in iterate_estimators(estimator):
        if type(inner).__name__ == "VotingClassifier" and inner.voting == "soft":
            inner.flatten_transform = False
            repairs.append("VotingClassifier: flatten_transform switched off")
        make_known(inner)
        if isinstance(inner, RegressorChain):
            register_chain()
        if isinstance(inner, ClassifierChain):
            check_chain(inner)
            register_classifier_chain()
        if is_lightgbm(inner) and hasattr(inner, "booster_"):
            _register(inner)
            repairs += attach_trees(inner)
        elif is_xgboost(inner) and hasattr(inner, "get_booster") and _is_fitted(inner):
            repairs += check_xgboost(inner)
            _register(inner)


def _register(inner: Any) -> None:
    from converters.from_boosted import register_boosted

    register_boosted(inner)


def _is_fitted(inner: Any) -> bool:
    checked = getattr(inner, "__sklearn_is_fitted__", None)
    return checked is None or bool(checked())


def iterate_estimators(estimator: Any) -> Iterator[Any]:
    """Give an estimator and those inside it, fitted ones where there are any; each once."""
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(estimator, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, list | tuple):
            waiting += [(part, depth) for part in reversed(value)]
        elif hasattr(value, "get_params") and not isinstance(value, type):
            if id(value) in seen or depth > _DEPTH_MAX:
                continue
            seen.add(id(value))
            yield value
            waiting += [(part, depth + 1) for part in reversed(_parts(value))]
        elif type(value).__name__ == "_CalibratedClassifier":
            waiting.append((value.estimator, depth + 1))


def list_trees(estimator: Any) -> list[Any]:
    """Give every fitted decision tree of an estimator, in the order they are converted."""
    return [one for one in iterate_estimators(estimator) if hasattr(one, "tree_")]


def _parts(estimator: Any) -> list[Any]:
    parts = list(estimator.get_params(deep=False).values())
    fitted = [value for name, value in vars(estimator).items() if name.endswith("_")]
    return [part for part in (*parts, *fitted) if not isinstance(part, np.ndarray | str)]


def unwrap(estimator: Any, repairs: list[str]) -> Any:
    """Give what a search or a frozen estimator answers with, as the last step."""
    last = find_last_step(estimator)
    if is_search(last):
        inner = last.best_estimator_
    elif type(last).__name__ == "FrozenEstimator":
        inner = last.estimator
    elif type(last).__name__ == "SelfTrainingClassifier":
        inner = last.estimator_
    else:
        return estimator
    repairs.append(f"{type(last).__name__}: its {type(find_last_step(inner)).__name__} alone")
    return unwrap(with_last_step(estimator, inner), repairs)


def _take_threshold(estimator: Any, repairs: list[str]) -> tuple[Any, Cut | None]:
    """Take the threshold off the last step: the graph applies it to the probabilities."""
    last = find_last_step(estimator)
    if not has_threshold(last):
        return estimator, None
    name = type(last).__name__
    if last.response_method == "decision_function" or not hasattr(last.estimator_, "predict_proba"):
        raise UnsupportedEstimatorError(
            name,
            "the threshold is on the decision function, which a package does not answer",
            'Use response_method="predict_proba".',
        )
    fixed = getattr(last, "threshold", 0.5)
    threshold = getattr(last, "best_threshold_", 0.5 if fixed == "auto" else fixed)
    classes = find_classes(last)
    if classes is None or len(classes) != 2:
        raise UnsupportedEstimatorError(name, "it has no two classes", "Fit it on two classes.")
    positive = _find_positive(last, list(classes))
    repairs.append(f"{name}: threshold {threshold:.6g} applied to the probabilities in the graph")
    cut = Cut(positive=positive, threshold=float(threshold))
    return with_last_step(estimator, last.estimator_), cut


def _find_positive(last: Any, classes: list[Any]) -> int:
    wanted = getattr(last, "pos_label", None)
    if wanted is None and hasattr(last, "_curve_scorer"):
        wanted = last._curve_scorer._get_pos_label()  # noqa: SLF001 - what it predicts with
    return classes.index(wanted) if wanted is not None else 1


def _replace_selectors(estimator: Any, repairs: list[str]) -> Any:
    """Write selections of columns as such: their converters write the model that selected."""
    if type(estimator).__name__ in _SELECTORS:
        picked = _pick_columns(estimator, repairs)
        if not hasattr(estimator, "predict"):
            return picked
        return Pipeline([("selected", picked), ("model", estimator.estimator_)])
    if isinstance(estimator, Pipeline):
        count = len(estimator.steps)
        for place, (name, step) in enumerate(estimator.steps):
            is_selector = type(step).__name__ in _SELECTORS
            if is_selector and place < count - 1:
                estimator.steps[place] = (name, _pick_columns(step, repairs))
            else:
                estimator.steps[place] = (name, _replace_selectors(step, repairs))
    return estimator


def _pick_columns(selector: Any, repairs: list[str]) -> ColumnTransformer:
    kept = selector.get_support(indices=True).tolist()
    repairs.append(f"{type(selector).__name__}: its choice of columns alone")
    picked = ColumnTransformer([("kept", "passthrough", kept)])
    return picked.fit(np.zeros((2, selector.n_features_in_)))


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
    return with_last_step(estimator, logistic)


def _replace_linear_svc(estimator: Any) -> Any:
    """Give the same coefficients to a class that skl2onnx converts behind other steps, too."""
    last = find_last_step(estimator)
    ridge = RidgeClassifier()
    for name in ("coef_", "intercept_", "classes_", "n_features_in_"):
        setattr(ridge, name, getattr(last, name))
    return with_last_step(estimator, ridge)


def with_last_step(estimator: Any, last: Any) -> Any:
    """Put another estimator in the place of the one that answers."""
    if not isinstance(estimator, Pipeline):
        return last
    name, step = estimator.steps[-1]
    estimator.steps[-1] = (name, with_last_step(step, last))
    return estimator
