"""Tell what a fitted scikit-learn estimator answers, and whether a package can hold that. Pure.

A package answers a label with probabilities, or numbers. Detectors of outliers answer their
decision function (below 0 is an outlier), groupings the number of the group, and classifiers
without probabilities their label alone where the schema says so.
"""

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_clusterer, is_outlier_detector
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import Pipeline

from converters.errors import UnsupportedEstimatorError
from edge_agent.contract.schema import ModelSchema, Task

Array = NDArray[Any]
_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")
_THRESHOLDS = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")


class Answer(StrEnum):
    """What comes out of the source."""

    PROBABILITIES = "probabilities"
    LABEL_ONLY = "label only"
    VALUE = "value"
    SCORE = "decision function"
    LABELS = "several labels"
    """Label and probabilities of each, as the package contract has them: of a chain."""


def find_last_step(estimator: Any) -> Any:
    """Give the estimator that answers: the last step of nested pipelines."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def is_search(estimator: Any) -> bool:
    """Tell a search that answers as its best estimator."""
    return type(estimator).__name__ in _SEARCHES


def has_threshold(estimator: Any) -> bool:
    """Tell a classifier that decides by a threshold of its own."""
    return type(estimator).__name__ in _THRESHOLDS


def find_answer(estimator: Any, task: Task) -> Answer:
    """Tell what an estimator answers under a task.

    Raises:
        UnsupportedEstimatorError: It has no such answer, or more than a package holds.
    """
    last = find_last_step(estimator)
    name = type(last).__name__
    if not hasattr(estimator, "predict"):
        raise UnsupportedEstimatorError(
            name,
            "it has no predict, and a package answers new rows",
            "Put it before a classifier or regressor in a pipeline."
            if hasattr(estimator, "transform")
            else "Use an estimator that predicts rows it was not fitted on.",
        )
    if task is Task.CLASSIFICATION and isinstance(last, ClassifierChain):
        return Answer.LABELS
    classes = find_classes(last)
    if task is Task.REGRESSION:
        if is_outlier_detector(last):
            return Answer.SCORE
        if classes is not None:
            raise UnsupportedEstimatorError(
                name, "the schema says regression and it tells classes apart", "Check task."
            )
        return Answer.VALUE
    if is_outlier_detector(last):
        raise UnsupportedEstimatorError(
            name,
            "the schema says classification and a detector of outliers is not one",
            "Make it a regression: its value is the decision function, below 0 an outlier.",
        )
    if classes is None:
        raise UnsupportedEstimatorError(
            name, "the schema says classification and it is not a fitted classifier", "Check task."
        )
    return Answer.PROBABILITIES if hasattr(estimator, "predict_proba") else Answer.LABEL_ONLY


def find_classes(last: Any) -> Array | None:
    """Give the classes an estimator tells apart, None when it answers numbers.

    Those of several labels are given by ``several_labels.find_label_classes``.

    Raises:
        UnsupportedEstimatorError: Several labels a row.
    """
    name = type(last).__name__
    if is_outlier_detector(last):
        return None
    if hasattr(last, "classes_"):
        coding = getattr(getattr(last, "_label_binarizer", None), "y_type_", "")
        is_several = isinstance(last.classes_, list) or getattr(last, "multilabel_", False)
        if is_several or coding.startswith("multilabel"):
            raise UnsupportedEstimatorError(
                name,
                "it answers several labels a row",
                "Name them as labels of the schema's label (edge-convert: --target a,b).",
            )
        return np.asarray(last.classes_)
    groups = _count_groups(last)
    return np.arange(groups) if groups else None


def check_declared(answer: Answer, last: Any, schema: ModelSchema) -> None:
    """Refuse a label without probabilities, or the reverse, that the schema does not declare.

    Raises:
        UnsupportedEstimatorError: With both ways out.
    """
    name = type(last).__name__
    declared = any(output.is_label_only for output in schema.outputs)
    if answer is Answer.LABEL_ONLY and not declared:
        raise UnsupportedEstimatorError(
            name,
            "it has no predict_proba, and a package answers probabilities",
            f"Wrap it: CalibratedClassifierCV({name}(...), ensemble=False), use LogisticRegression,"
            " or declare that it tells labels alone (is_label_only of the schema's probabilities).",
        )
    if answer is not Answer.LABEL_ONLY and declared:
        raise UnsupportedEstimatorError(
            name,
            "the schema declares labels alone and it has more to say",
            "Leave is_label_only out of the schema.",
        )


def _count_groups(last: Any) -> int:
    """Count the groups that new rows are put into; 0 for what does not do that."""
    if not hasattr(last, "predict"):
        return 0
    if isinstance(last, GaussianMixture | BayesianGaussianMixture):
        return int(last.n_components)
    if not is_clusterer(last):
        return 0
    number = getattr(last, "n_clusters", None)
    return number if isinstance(number, int) else len(getattr(last, "cluster_centers_", ()))
