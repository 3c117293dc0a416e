"""What a fitted scikit-learn estimator of several labels a row is made of, and what it answers.

Its graph is put together from parts, each converted as an estimator of its own with every repair
that has: a classifier of one label (``MultiOutputClassifier``, ``OneVsRestClassifier``,
``RidgeClassifier``), or one regressor whose columns are the probabilities of all classes (trees,
forests, nearest neighbours, networks: the same sums, computed once for all labels). A
``ClassifierChain`` is no sum of parts; it has a converter of its own (``classifier_chain.py``).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.multioutput import ClassifierChain
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

from converters.errors import UnsupportedEstimatorError
from edge_agent.contract.outputs import TARGETS_MAX

Array = NDArray[Any]
CHAIN_METHODS = ("predict", "predict_proba")
_FORESTS = {
    "RandomForestClassifier": RandomForestRegressor,
    "ExtraTreesClassifier": ExtraTreesRegressor,
}
_TREES = ("DecisionTreeClassifier", "ExtraTreeClassifier")
_RIDGES = ("RidgeClassifier", "RidgeClassifierCV")


class PartKind(StrEnum):
    """What a part answers."""

    LABEL = "label"
    """One label, as a classifier."""
    SHARES = "shares"
    """The probabilities of all classes of its labels, as the values of a regressor."""
    POSITIVE = "positive"
    """Of each of its labels, which have two classes, the probability of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPart:
    """An estimator that answers some of the labels.

    Attributes:
        labels: Their places.
        estimator: Fitted; the whole pipeline where there are steps before.
        kind: What it answers.
    """

    labels: tuple[int, ...]
    estimator: Any
    kind: PartKind


def find_label_classes(last: Any) -> tuple[Array, ...]:
    """Give the classes of each of several labels, in order; empty for an estimator of one.

    Args:
        last: The estimator that answers.

    Raises:
        UnsupportedEstimatorError: A label has one class only.
    """
    classes = getattr(last, "classes_", None)
    coding = getattr(getattr(last, "_label_binarizer", None), "y_type_", "")
    if isinstance(last, ClassifierChain):
        places = np.argsort(np.asarray(last.order_))
        found = [np.asarray(last.estimators_[place].classes_) for place in places]
    elif isinstance(classes, list):
        found = [np.asarray(own) for own in classes]
    elif coding.startswith("multilabel") or getattr(last, "multilabel_", False):
        _check_constant(last)
        found = [np.arange(2)] * len(np.asarray(classes))
    else:
        return ()
    for place, own in enumerate(found):
        if len(own) < 2:
            raise _constant(last, place, str(own.tolist()[0]) if len(own) else "none")
    return tuple(found)


def answer_labels(
    estimator: Any, fed: Array, classes: Sequence[Array], *, has_shares: bool
) -> tuple[Array, Array]:
    """Answer rows: labels as class indexes [rows, labels] and probabilities [rows, all classes].

    Args:
        estimator: The model, as it was trained.
        fed: Rows as it takes them.
        classes: Of each label.
        has_shares: Whether it tells probabilities; else they are 1 for the label.
    """
    predicted = np.asarray(estimator.predict(fed)).reshape(len(fed), len(classes))
    labels = index_labels(predicted, classes)
    if not has_shares:
        each = [np.eye(len(own))[labels[:, n]] for n, own in enumerate(classes)]
        return labels, np.hstack(each)
    given = _ask_shares(estimator, fed, classes)
    if isinstance(given, list):
        return labels, np.hstack([np.asarray(own) for own in given])
    positive = np.asarray(given, np.float64)
    return labels, np.stack([1 - positive, positive], axis=2).reshape(len(positive), -1)


def index_labels(given: Array, classes: Sequence[Array]) -> Array:
    """Turn the source's labels [rows, labels] into class indexes; -1 where one is unknown."""
    columns = []
    for column, own in zip(np.asarray(given).T, classes, strict=True):
        if column.dtype == object:  # numbers beside texts
            column = np.array(column.tolist())  # noqa: PLW2901 - the same in its own type
        order = np.argsort(own, kind="stable")
        places = np.clip(np.searchsorted(own[order], column), 0, len(own) - 1)
        indexes = order[places]
        columns.append(np.where(own[indexes] == column, indexes, -1))
    return np.stack(columns, axis=1).astype(np.int64)


def split_estimator(estimator: Any, classes: Sequence[Array]) -> list[LabelPart]:
    """Give the parts of an estimator; it is not changed.

    Raises:
        UnsupportedEstimatorError: It is not known how it answers several labels.
    """
    last, name = _last_of(estimator), type(_last_of(estimator)).__name__
    if name in ("MultiOutputClassifier", "OneVsRestClassifier"):
        return [
            LabelPart(labels=(n,), estimator=_with_last(estimator, one), kind=PartKind.LABEL)
            for n, one in enumerate(last.estimators_)
        ]
    if name in _RIDGES:
        return [
            LabelPart(
                labels=(n,),
                estimator=_with_last(estimator, _take_linear(last, n)),
                kind=PartKind.LABEL,
            )
            for n in range(len(classes))
        ]
    kind = PartKind.POSITIVE if name == "MLPClassifier" else PartKind.SHARES
    return [
        LabelPart(
            labels=places,
            estimator=_with_last(estimator, _regress(last, places, classes)),
            kind=kind,
        )
        for places in _group(classes)
    ]


def _ask_shares(estimator: Any, fed: Array, classes: Sequence[Array]) -> Any:
    last = _last_of(estimator)
    if not isinstance(last, ClassifierChain) or all(len(own) == 2 for own in classes):
        return estimator.predict_proba(fed)
    # Its own predict_proba knows labels of two classes only; of more it is asked link by link.
    rows = estimator[:-1].transform(fed) if isinstance(estimator, Pipeline) else fed
    known, found = np.asarray(rows), dict[int, Array]()
    for one, label in zip(last.estimators_, last.order_, strict=True):
        found[int(label)] = np.asarray(one.predict_proba(known))
        known = np.hstack([known, np.asarray(one.predict(known)).reshape(-1, 1)])
    return [found[n] for n in range(len(classes))]


def _regress(last: Any, places: Sequence[int], classes: Sequence[Array]) -> Any:
    """Make a regressor whose values are the probabilities that an estimator gives its labels."""
    name = type(last).__name__
    if name in _TREES:
        return _regress_tree(last, places)
    if name in _FORESTS:
        forest = _FORESTS[name](n_estimators=len(last.estimators_))
        forest.estimators_ = [_regress_tree(tree, places) for tree in last.estimators_]
        forest.n_features_in_ = last.n_features_in_
        forest.n_outputs_ = forest.estimators_[0].n_outputs_
        return forest
    if name == "KNeighborsClassifier":
        neighbours = KNeighborsRegressor(**last.get_params())
        vars(neighbours).update(copy.copy(vars(last)))
        codes = [np.eye(len(classes[n]))[np.asarray(last._y)[:, n]] for n in places]  # noqa: SLF001 - what it answers from
        neighbours._y = np.hstack(codes)  # noqa: SLF001 - as its fit sets it
        del neighbours.classes_
        return neighbours
    if name == "MLPClassifier":
        network = MLPRegressor()
        kept = {name: value for name, value in vars(last).items() if name != "_label_binarizer"}
        vars(network).update({name: kept[name] for name in kept if name != "classes_"})
        last_layer = np.array(places)
        network.coefs_ = [*last.coefs_[:-1], last.coefs_[-1][:, last_layer]]
        network.intercepts_ = [*last.intercepts_[:-1], last.intercepts_[-1][last_layer]]
        network.n_outputs_ = len(places)
        return network
    raise UnsupportedEstimatorError(
        name,
        "several labels of it have no conversion",
        "Use trees, forests, KNeighborsClassifier, MLPClassifier, ClassifierChain, or an estimator"
        " of one label inside MultiOutputClassifier.",
    )


def _regress_tree(tree: Any, places: Sequence[int]) -> DecisionTreeRegressor:
    state = tree.tree_.__getstate__()
    values = [state["values"][:, n, : int(tree.n_classes_[n])] for n in places]
    together = np.ascontiguousarray(np.hstack(values)[:, :, None])
    columns = together.shape[1]
    grown = Tree(tree.tree_.n_features, np.ones(columns, np.intp), columns)
    grown.__setstate__({**state, "values": together})
    regressor = DecisionTreeRegressor(max_depth=tree.max_depth)
    regressor.tree_ = grown
    regressor.n_outputs_, regressor.n_features_in_ = columns, tree.n_features_in_
    return regressor


def _take_linear(ridge: Any, place: int) -> LinearSVC:
    """Give one label of a linear model that tells labels alone as such a model of one."""
    one = LinearSVC()
    one.coef_ = np.atleast_2d(ridge.coef_)[place : place + 1]
    one.intercept_ = np.broadcast_to(ridge.intercept_, len(np.atleast_2d(ridge.coef_)))[
        place : place + 1
    ]
    one.classes_, one.n_features_in_, one.n_iter_ = np.arange(2), ridge.n_features_in_, 1
    return one


def _group(classes: Sequence[Array]) -> list[tuple[int, ...]]:
    """Group labels so that a regressor has no more columns than a schema has targets."""
    groups: list[list[int]] = [[]]
    room = TARGETS_MAX
    for place, own in enumerate(classes):
        if len(own) > room:
            groups.append([])
            room = TARGETS_MAX
        groups[-1].append(place)
        room -= len(own)
    return [tuple(group) for group in groups]


def _check_constant(last: Any) -> None:
    """Refuse a label of OneVsRestClassifier that was the same in all training rows."""
    for place, one in enumerate(getattr(last, "estimators_", [])):
        if type(one).__name__ == "_ConstantPredictor":
            raise _constant(last, place, str(int(np.ravel(one.y_)[0])))


def _constant(last: Any, place: int, only: str) -> UnsupportedEstimatorError:
    return UnsupportedEstimatorError(
        type(last).__name__,
        f"label {place + 1} was {only} in every training row, so the model cannot tell it apart",
        "Train on rows that show another class of it, or leave the label out: it never changes.",
    )


def _last_of(estimator: Any) -> Any:
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def _with_last(estimator: Any, last: Any) -> Any:
    """Give a pipeline of the same steps before another last one."""
    if not isinstance(estimator, Pipeline):
        return last
    *steps, (name, inner) = estimator.steps
    return Pipeline([*steps, (name, _with_last(inner, last))])
