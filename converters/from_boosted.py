"""Convert LightGBM and XGBoost. The only module that imports onnxmltools, lightgbm and xgboost.

Their scikit-learn estimators convert where they stand, alone or inside pipelines and ensembles:
``register_boosted`` makes them known to skl2onnx. A bare booster becomes an estimator of the same
shape first. All three libraries are imported when a model of theirs is there, not before.
"""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from converters.boosted import (
    TREES,
    find_leaf_scale,
    is_lightgbm,
    is_linear,
    is_xgboost,
    iterate_xgboost,
    read_xgboost_trees,
)
from converters.boosted_linear import convert_linear
from converters.errors import InvalidRequestError, MissingLibraryError
from converters.source import SourceNotes

Array = NDArray[Any]
LIGHTGBM_NOTES = SourceNotes(
    kind="LightGBM",
    given_as="LGBMClassifier, LGBMRegressor, LGBMRanker, Booster; inside pipelines and ensembles",
    files=(".lgb", ".txt"),
    read_by="LightGBM's own reader of its text files, in a child process with limits",
    keeps="every branch (thresholds as float32 that ask the same question), missing values,"
    " categories given as whole numbers, averaged forests",
    cannot="linear_tree, zero_as_missing, reg_sqrt, objectives of one's own",
)
XGBOOST_NOTES = SourceNotes(
    kind="XGBoost",
    given_as="XGBClassifier, XGBRegressor, XGBRanker, XGBRFClassifier, XGBRFRegressor, Booster;"
    " inside pipelines and ensembles",
    files=(".ubj", ".json"),
    read_by="XGBoost's own reader of its JSON and UBJSON files, in a child process with limits",
    keeps="every branch, missing values (NaN), base scores, log links; the weights dart gives its"
    " trees, in their leaves; gblinear as a linear model; the scores of rankers; several"
    " targets, a booster each",
    cannot="several targets by dart, gblinear, multi_output_tree or quantiles, objectives of one's"
    " own, missing values other than NaN",
)
_registered: set[str] = set()


class _BoosterEstimator(BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """A bare booster with the questions an estimator answers."""

    library = ""

    def __init__(self, booster: Any = None) -> None:
        self.booster = booster

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, _rows: Any, _targets: Any = None) -> Self:
        """Nothing to learn: the booster is trained."""
        return self

    @property
    def name(self) -> str:
        """The library's own name of it."""
        return f"{self.library} Booster"


class LightGbmRegressor(RegressorMixin, _BoosterEstimator):  # type: ignore[misc] # no types
    """A ``lightgbm.Booster`` that answers numbers."""

    library = "lightgbm"

    def __init__(self, booster: Any = None) -> None:
        super().__init__(booster)
        if booster is not None:
            self.booster_, self.n_features_in_ = booster, booster.num_feature()
            self.boosting_type = "gbdt"

    def predict(self, rows: Array) -> Array:
        """Answer as the booster does."""
        return np.asarray(self.booster_.predict(rows))


class LightGbmClassifier(ClassifierMixin, LightGbmRegressor):  # type: ignore[misc] # no types
    """A ``lightgbm.Booster`` that answers classes: their indexes."""

    def __init__(self, booster: Any = None) -> None:
        super().__init__(booster)
        if booster is not None:
            self.classes_ = np.arange(max(2, booster.dump_model(num_iteration=1)["num_class"]))

    def predict_proba(self, rows: Array) -> Array:
        """Answer a column a class."""
        return _columns(self.booster_.predict(rows))

    def predict(self, rows: Array) -> Array:
        """Answer the first class of the highest probability."""
        return np.asarray(np.argmax(self.predict_proba(rows), axis=1))


class XgboostRegressor(RegressorMixin, _BoosterEstimator):  # type: ignore[misc] # no types
    """An ``xgboost.Booster`` that answers numbers."""

    library, operator_name = "xgboost", "XGBRegressor"
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - read by the converter of onnxmltools
    missing = float("nan")

    def __init__(self, booster: Any = None) -> None:
        super().__init__(booster)
        if booster is not None:
            self.booster_, self.n_features_in_ = booster, booster.num_features()

    def get_booster(self) -> Any:
        """Give the booster."""
        return self.booster_

    def get_xgb_params(self) -> dict[str, Any]:
        """Name the objective, as estimators of the library do."""
        return {"objective": describe_xgboost(self.booster_)["objective"]}

    def predict(self, rows: Array) -> Array:
        """Answer as the booster does."""
        return _ask_xgboost(self.booster_, rows)


class XgboostClassifier(ClassifierMixin, XgboostRegressor):  # type: ignore[misc] # no types
    """An ``xgboost.Booster`` that answers classes: their indexes."""

    operator_name = "XGBClassifier"

    def __init__(self, booster: Any = None) -> None:
        super().__init__(booster)
        if booster is not None:
            self.classes_ = np.arange(max(2, describe_xgboost(booster)["classes"]))

    def predict_proba(self, rows: Array) -> Array:
        """Answer a column a class."""
        return _columns(_ask_xgboost(self.booster_, rows))

    def predict(self, rows: Array) -> Array:
        """Answer the first class of the highest probability."""
        return np.asarray(np.argmax(self.predict_proba(rows), axis=1))


def is_booster(model: Any) -> bool:
    """Tell a bare booster of either library."""
    return type(model).__name__ == "Booster" and (is_lightgbm(model) or is_xgboost(model))


def wrap_booster(booster: Any) -> Any:
    """Give the estimator of a bare booster.

    Raises:
        InvalidRequestError: An objective of which the kind of answer is not known.
    """
    if is_lightgbm(booster):
        objective = str(booster.dump_model(num_iteration=1).get("objective", ""))
        if not objective:
            raise InvalidRequestError(
                "the lightgbm Booster has an objective of its own and does not say what its"
                " numbers mean; train with a named objective"
            )
        is_classifier = objective.startswith(("binary", "multiclass"))
        return (LightGbmClassifier if is_classifier else LightGbmRegressor)(booster)
    objective = describe_xgboost(booster)["objective"]
    if objective in ("multi:softmax", "binary:hinge"):
        raise InvalidRequestError(
            f"the xgboost Booster was trained with {objective} and answers labels alone; train"
            " with binary:logistic or multi:softprob"
        )
    is_classifier = objective.startswith(("binary:", "multi:"))
    return (XgboostClassifier if is_classifier else XgboostRegressor)(booster)


def describe_xgboost(booster: Any) -> dict[str, Any]:
    """Name objective and number of classes (0 when it answers numbers) of a booster."""
    learner = json.loads(booster.save_config())["learner"]
    return {
        "objective": learner["objective"]["name"],
        "classes": int(learner["learner_model_param"]["num_class"]),
    }


def register_boosted(estimator: Any) -> None:
    """Make the library of an estimator known to skl2onnx, once.

    Raises:
        MissingLibraryError: onnxmltools is not installed.
    """
    library = "lightgbm" if is_lightgbm(estimator) else "xgboost"
    if library in _registered:
        return
    try:
        if library == "lightgbm":
            _register_lightgbm()
        else:
            _register_xgboost()
    except ImportError as error:
        raise MissingLibraryError("onnxmltools", type(estimator).__name__) from error
    _registered.add(library)


def _register_lightgbm() -> None:
    import lightgbm
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

    def convert(scope: Any, operator: Any, container: Any) -> None:
        estimator = operator.raw_operator
        operator.raw_operator = _stand_in(estimator)
        first = len(container.nodes)
        try:
            convert_lightgbm(scope, operator, container)
        finally:
            operator.raw_operator = estimator
        nodes = container.nodes[first:]
        if (
            hasattr(estimator, "decision_function")
            and container.get_options(estimator, {"raw_scores": False})["raw_scores"]
        ):
            _answer_raw(nodes, find_leaf_scale(getattr(estimator, TREES)))
        elif getattr(estimator, TREES)["objective"].startswith("multiclassova"):
            _answer_each_class_alone(nodes)

    _register(
        (lightgbm.LGBMClassifier, LightGbmClassifier),
        (lightgbm.LGBMRegressor, LightGbmRegressor, lightgbm.LGBMRanker),
        "EdgefleetLightGbm",
        convert,
    )


def _register_xgboost() -> None:
    import xgboost
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    def convert(scope: Any, operator: Any, container: Any) -> None:
        estimator = operator.raw_operator
        if is_linear(estimator):
            convert_linear(scope, operator, container, estimator.get_booster())
            return
        operator.raw_operator = _XgboostStandIn(estimator)
        try:
            convert_xgboost(scope, operator, container)
        finally:
            operator.raw_operator = estimator

    _register(
        (xgboost.XGBClassifier, xgboost.XGBRFClassifier, XgboostClassifier),
        (xgboost.XGBRegressor, xgboost.XGBRFRegressor, xgboost.XGBRanker, XgboostRegressor),
        "EdgefleetXgboost",
        convert,
    )


def _register(
    classifiers: tuple[Any, ...],
    regressors: tuple[Any, ...],
    alias: str,
    convert: Callable[[Any, Any, Any], None],
) -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    choices = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for kind in classifiers:
        # Calibration is fitted on the scores where there are any, and asks for them.
        has_scores = hasattr(kind, "decision_function")
        options = choices | ({"raw_scores": [True, False]} if has_scores else {})
        update_registered_converter(
            kind,
            f"{alias}{kind.__name__}",
            calculate_linear_classifier_output_shapes,
            convert,
            options=options,
        )
    for kind in regressors:
        update_registered_converter(
            kind, f"{alias}{kind.__name__}", calculate_linear_regressor_output_shapes, convert
        )


def _stand_in(estimator: Any) -> Any:
    """Give what the converter of onnxmltools reads of a LightGBM model, with repaired trees."""
    trees = getattr(estimator, TREES)
    booster = SimpleNamespace(is_mock=True, dump_model=lambda: trees)
    return SimpleNamespace(
        booster_=booster, classes_=getattr(estimator, "classes_", None), boosting_type="gbdt"
    )


class _XgboostStandIn:
    """What the converter of onnxmltools reads of an XGBoost model, with the trees of its copy.

    The names of columns are left out: the converter reads the number of a column from its name.
    """

    def __init__(self, estimator: Any) -> None:
        self._booster, self._trees = estimator.get_booster(), getattr(estimator, TREES, None)
        self.missing = getattr(estimator, "missing", float("nan"))
        is_classifier = hasattr(estimator, "classes_")
        self.operator_name = "XGBClassifier" if is_classifier else "XGBRegressor"
        if is_classifier:
            self.classes_ = estimator.classes_
        stop = getattr(estimator, "best_iteration", None) if self._has_stopped() else None
        if stop is not None:
            self.best_iteration = stop
        self.kwargs: dict[str, Any] = {}

    def _has_stopped(self) -> bool:
        return "best_iteration" in self._booster.attributes()

    def get_xgb_params(self) -> dict[str, Any]:
        return {"objective": describe_xgboost(self._booster)["objective"]}

    def get_booster(self) -> "_XgboostStandIn":
        return self

    def save_config(self) -> str:
        config = json.loads(self._booster.save_config())
        made = config["learner"]["gradient_booster"]
        config["learner"]["gradient_booster"] = made.get("gbtree", made)  # dart holds one
        return json.dumps(config)

    def attributes(self) -> dict[str, str]:
        return dict(self._booster.attributes())

    def get_dump(self, **_how: Any) -> list[str]:
        names = {name: f"f{n}" for n, name in enumerate(self._booster.feature_names or ())}
        trees = self._trees
        if trees is None:
            trees = read_xgboost_trees(self._booster)
        for tree in trees:
            for node in iterate_xgboost(tree):
                if "split" in node:
                    node["split"] = names.get(node["split"], node["split"])
        return [json.dumps(tree) for tree in trees]


def _answer_raw(nodes: list[Any], scale: float) -> None:
    """Leave out the link and what the leaves were multiplied with: scores know neither."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name == "post_transform":
                attribute.s = b"NONE"
            elif attribute.name == "class_weights" and scale != 1:
                attribute.floats[:] = [weight / scale for weight in attribute.floats]


def _answer_each_class_alone(nodes: list[Any]) -> None:
    """Give every class a sigmoid of its own where the converter writes one softmax."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name == "post_transform":
                attribute.s = b"LOGISTIC"


def _ask_xgboost(booster: Any, rows: Array) -> Array:
    import xgboost

    matrix = xgboost.DMatrix(np.asarray(rows))
    return np.asarray(booster.predict(matrix, validate_features=False))


def _columns(probabilities: Array) -> Array:
    one = np.asarray(probabilities)
    return np.column_stack([1 - one, one]) if one.ndim == 1 else one
