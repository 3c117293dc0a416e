"""Each kind of estimator, converted and run by onnxruntime on real rows, answers as its source."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    SGDClassifier,
)
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    RadiusNeighborsClassifier,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from converters.build import build_package
from converters.errors import InvalidRequestError, NoRungFitsError, UnsupportedEstimatorError
from converters.from_sklearn import SklearnSource
from converters.graph import find_opset
from converters.normalise import normalise
from converters.parity import compare_outputs
from converters.runtime import GraphRunner
from converters.shrink_trees import shrink_trees
from device_profiles.catalog import load_profile
from tests.support.convert import fit_quietly, load_table, request_of, schema_of

CLASSIFIERS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier(max_iter=15, random_state=0)),
    "forest": lambda: RandomForestClassifier(12, random_state=0),
    "scaled forest": lambda: make_pipeline(
        MinMaxScaler(), StandardScaler(), RandomForestClassifier(12, random_state=0)
    ),
    "extra trees": lambda: ExtraTreesClassifier(12, random_state=0),
    "hist boosting": lambda: HistGradientBoostingClassifier(max_iter=4, random_state=0),
    "scaled hist boosting": lambda: make_pipeline(
        StandardScaler(), HistGradientBoostingClassifier(max_iter=4, random_state=0)
    ),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=8, random_state=0),
    "calibrated svc": lambda: make_pipeline(
        StandardScaler(), CalibratedClassifierCV(SVC(), ensemble=False)
    ),
    "lda": lambda: make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
    "soft vote": lambda: VotingClassifier(
        [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(random_state=0))], voting="soft"
    ),
    "stack": lambda: StackingClassifier(
        [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(random_state=0))]
    ),
    "neighbours": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier()),
    "ada boost": lambda: AdaBoostClassifier(n_estimators=8, random_state=0),
    "bagging": lambda: BaggingClassifier(n_estimators=5, random_state=0),
    "imputed": lambda: make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "qda": lambda: make_pipeline(
        PCA(4), StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=0.1)
    ),
    "pca forest": lambda: make_pipeline(PCA(4), RandomForestClassifier(12, random_state=0)),
}
REGRESSORS = {
    "ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "linear": LinearRegression,
    "forest": lambda: RandomForestRegressor(12, random_state=0),
    "scaled forest": lambda: make_pipeline(
        StandardScaler(), RandomForestRegressor(12, random_state=0)
    ),
    "hist boosting": lambda: HistGradientBoostingRegressor(max_iter=8, random_state=0),
    "scaled hist boosting": lambda: make_pipeline(
        StandardScaler(), HistGradientBoostingRegressor(max_iter=8, random_state=0)
    ),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=12, random_state=0),
    "mlp": lambda: make_pipeline(StandardScaler(), MLPRegressor(max_iter=15, random_state=0)),
    "svr": lambda: make_pipeline(StandardScaler(), SVR()),
    "tree": lambda: DecisionTreeRegressor(random_state=0),
    "scaled bagging": lambda: make_pipeline(
        StandardScaler(), BaggingRegressor(n_estimators=8, max_features=0.6, random_state=0)
    ),
    "scaled ada boost": lambda: make_pipeline(
        StandardScaler(), AdaBoostRegressor(n_estimators=8, random_state=0)
    ),
    "poisson": lambda: make_pipeline(StandardScaler(), PoissonRegressor()),
    "neighbours": KNeighborsRegressor,
}
CASES = [
    *((make, table, False) for make in CLASSIFIERS.values() for table in ("wine", "cancer")),
    *((make, "diabetes", False) for make in REGRESSORS.values()),
    # The server trains on float32 rows: scikit-learn's scalers and networks then compute in it.
    *((CLASSIFIERS[name], "cancer", True) for name in ("mlp", "scaled forest", "lda")),
    *(
        (REGRESSORS[name], "diabetes", True)
        for name in ("scaled forest", "scaled hist boosting", "scaled bagging")
    ),
]
NAMES = {make: name for table in (CLASSIFIERS, REGRESSORS) for name, make in table.items()}


@pytest.mark.parametrize(
    ("make", "table", "is_float32"),
    CASES,
    ids=[f"{NAMES[make]}-{table}{'-float32' * is_float32}" for make, table, is_float32 in CASES],
)
def test_the_graph_is_the_same_every_time_and_answers_as_its_source(
    make: Any, table: str, *, is_float32: bool
) -> None:
    request = request_of(make(), table, is_float32=is_float32)
    source = SklearnSource(request.estimator, request.schema.task, is_fed_float32=is_float32)
    conversion = source.convert(request.schema, request.profile)
    shrink_trees(conversion.model)
    content = normalise(conversion.model, request.profile)
    runner = GraphRunner(content, request.profile)
    rows = request.holdout.astype(np.float32)
    truth = source.answer(rows)
    parity = compare_outputs(request.schema.task, truth, runner.run(rows))
    assert parity.rows_off == 0, parity.worst[:3]
    again = source.convert(request.schema, request.profile)
    shrink_trees(again.model)
    assert normalise(again.model, request.profile) == content
    flips = [row.row for row in parity.worst[: parity.flips]]
    if flips:  # only where two classes share the first place, as votes of few members may
        best = np.sort(truth["probabilities"][flips], axis=1)[:, -2:]
        assert np.all(best[:, 1] - best[:, 0] < 1e-6)
    assert find_opset(conversion.model, "") <= request.profile.opset_max
    assert find_opset(conversion.model, "ai.onnx.ml") <= request.profile.opset_ml_max


def test_steps_before_trees_run_in_float64_where_the_runtime_can() -> None:
    rows, targets = load_table("digits")
    model = make_pipeline(PCA(12), RandomForestRegressor(10, random_state=0)).fit(rows, targets)
    schema = schema_of(64)
    source = SklearnSource(model, schema.task)
    profile = load_profile("camera")
    conversion = source.convert(schema, profile)
    assert any("run in float64" in sentence for sentence in conversion.repairs)
    answers = GraphRunner(normalise(conversion.model, profile), profile).run(rows)
    assert compare_outputs(schema.task, source.answer(rows), answers).rows_off == 0


def test_a_missing_value_travels_through_an_imputer() -> None:
    request = request_of(CLASSIFIERS["imputed"](), "wine")
    rows = request.holdout[:20].astype(np.float32)
    rows[::2, 3] = np.nan
    source = SklearnSource(request.estimator, request.schema.task)
    model = normalise(source.convert(request.schema, request.profile).model, request.profile)
    answers = GraphRunner(model, request.profile).run(rows)
    assert compare_outputs(request.schema.task, source.answer(rows), answers).rows_off == 0


@pytest.mark.parametrize(
    ("estimator", "table", "culprit", "advice"),
    [
        (LinearSVC(), "wine", "LinearSVC", r"CalibratedClassifierCV\(LinearSVC"),
        (make_pipeline(StandardScaler(), LinearSVC()), "wine", "LinearSVC", "LogisticRegression"),
        (FixedThresholdClassifier(LinearSVC()), "cancer", "FixedThreshold", "predict_proba"),
        (RadiusNeighborsClassifier(1e6), "wine", "RadiusNeighbors", "KNeighborsClassifier"),
    ],
)
def test_an_estimator_without_a_faithful_graph_is_refused_with_an_alternative(
    estimator: Any, table: str, culprit: str, advice: str
) -> None:
    with pytest.raises(UnsupportedEstimatorError, match=advice) as caught:
        build_package(request_of(estimator, table))
    assert caught.value.estimator.startswith(culprit)


@pytest.mark.parametrize(
    "estimator",
    [
        FixedThresholdClassifier(GaussianNB(), threshold=0.9, pos_label=-1),
        TunedThresholdClassifierCV(GaussianNB(), cv=2, thresholds=20),
        make_pipeline(StandardScaler(), FixedThresholdClassifier(GaussianNB(), threshold=0.02)),
    ],
)
def test_a_threshold_is_applied_inside_the_graph(estimator: Any) -> None:
    built = build_package(request_of(estimator, "cancer"))
    assert built.label_flips == 0
    assert any("threshold" in sentence for sentence in built.evidence["repairs"])


def test_labels_alone_are_packaged_where_the_schema_says_so() -> None:
    request = request_of(make_pipeline(StandardScaler(), LinearSVC()), "wine")
    label, probabilities = request.schema.outputs
    schema = replace(request.schema, outputs=(label, replace(probabilities, is_label_only=True)))
    built = build_package(replace(request, schema=schema))
    assert (built.label_flips, built.max_abs_error) == (0, 0)
    with pytest.raises(UnsupportedEstimatorError, match="it has more to say"):
        SklearnSource(fit_quietly(GaussianNB(), *load_table("wine")), schema.task).convert(
            schema, request.profile
        )


def test_a_missing_value_takes_the_branch_that_the_trees_gave_it() -> None:
    request = request_of(RandomForestClassifier(12, random_state=0), "wine")
    rows = np.repeat(request.holdout[:20].astype(np.float32), 4, axis=0)
    rows[np.arange(80), np.arange(80) % 13] = np.nan
    source = SklearnSource(request.estimator, request.schema.task)
    model = source.convert(request.schema, request.profile).model
    answers = GraphRunner(normalise(model, request.profile), request.profile).run(rows)
    assert compare_outputs(request.schema.task, source.answer(rows), answers).rows_off == 0


def test_a_detector_of_outliers_answers_its_decision_function() -> None:
    rows, _ = load_table("wine")
    model = IsolationForest(n_estimators=20, random_state=0).fit(rows[:100])
    profile, schema = load_profile("camera"), schema_of(13)
    source = SklearnSource(model, schema.task)
    made = source.convert(schema, profile, rows[100:].astype(np.float32))
    value = GraphRunner(normalise(made.model, profile), profile).run(rows[100:])["value"]
    assert np.array_equal(value < 0, model.predict(rows[100:].astype(np.float32)) == -1)
    assert made.tries[-1].is_exact
    classes = schema_of(13, ["in", "out"])
    with pytest.raises(UnsupportedEstimatorError, match="Make it a regression"):
        SklearnSource(model, classes.task).convert(classes, profile)


def test_ways_to_convert_are_tried_in_order_and_written_down() -> None:
    request = request_of(make_pipeline(PolynomialFeatures(2), LinearRegression()), "diabetes")
    built = build_package(request)
    plain, _, wide = built.evidence["tries"]
    assert (plain["way"], plain["rows_off"] > 0) == ("plain", True)
    assert (wide["rows_off"], wide["rows"]) == (0, len(request.holdout))
    assert wide["way"] in built.evidence["repairs"]


def test_an_estimator_unknown_to_the_converter_is_refused_by_name() -> None:
    class HomeMade(GaussianNB):  # type: ignore[misc] # scikit-learn ships no types
        pass

    with pytest.raises(UnsupportedEstimatorError, match="HomeMade cannot be converted"):
        build_package(request_of(HomeMade(), "wine"))


def test_a_conversion_that_answers_otherwise_is_caught_by_the_held_out_rows() -> None:
    """Unscaled rows drive every one-against-rest score of SGD to 0 and its graph then guesses."""
    with pytest.raises(NoRungFitsError, match="not the model it was made from") as caught:
        build_package(request_of(SGDClassifier(loss="log_loss", random_state=0), "wine"))
    assert caught.value.rungs[0]["flip_share"] > 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "b"]}, "has 3 classes, the schema 2"),
        ({"classes": ["grignolino", "barolo", "barbera"]}, "in another order"),
        ({"width": 12}, "trained on 13 columns, the schema declares 12"),
    ],
)
def test_a_schema_that_does_not_fit_the_model_is_refused(
    change: dict[str, Any], words: str
) -> None:
    rows, targets = load_table("wine")
    model = fit_quietly(GaussianNB(), rows, targets)
    request = request_of(GaussianNB(), "wine")
    schema = schema_of(
        change.get("width", 13), change.get("classes", [str(c) for c in model.classes_])
    )
    with pytest.raises(InvalidRequestError, match=words):
        SklearnSource(model, schema.task).convert(schema, request.profile)


def test_an_estimator_that_was_not_fitted_is_refused() -> None:
    schema = schema_of(2, ["a", "b"])
    for thing in (LogisticRegression(), "a model", LogisticRegression):
        with pytest.raises(InvalidRequestError, match="needs a fitted scikit-learn estimator"):
            SklearnSource(thing, schema.task)


def test_targets_that_the_schema_does_not_name_are_refused() -> None:
    rows, targets = load_table("diabetes")
    model = Ridge().fit(rows, np.column_stack([targets, targets]))
    schema = schema_of(10)
    with pytest.raises(
        UnsupportedEstimatorError, match="answers 2 targets a row, the schema has 1"
    ):
        SklearnSource(model, schema.task).convert(schema, load_profile("camera"), rows)
    with pytest.raises(UnsupportedEstimatorError, match="the schema has 3"):
        SklearnSource(model, schema.task, targets=3).answer(rows)
