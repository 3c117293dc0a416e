"""What skl2onnx lacks or writes otherwise: calibration, functions of numpy, answers turned back."""

import warnings
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, QuantileTransformer, StandardScaler
from sklearn.svm import SVR, LinearSVC

from converters.errors import UnsupportedEstimatorError
from converters.named_functions import NAMES
from converters.normalise import normalise
from converters.own_converters import make_known
from converters.runtime import GraphRunner
from converters.source import Conversion
from converters.sources import make_source
from device_profiles.catalog import load_profile
from tests.support.convert import fit_quietly, load_table, schema_of

Array = NDArray[Any]
CAMERA = load_profile("camera")


def convert(model: Any, table: str) -> Conversion:
    rows, targets = load_table(table)
    cut = len(rows) * 6 // 10
    model = fit_quietly(model, rows[:cut], targets[:cut])
    schema = schema_of(rows.shape[1], [str(one) for one in getattr(model, "classes_", [])])
    return make_source(model, schema).convert(schema, CAMERA, rows[cut:].astype(np.float32))


def calibrated(inner: Any, method: str) -> CalibratedClassifierCV:
    return CalibratedClassifierCV(inner, method=method, cv=2)


@pytest.mark.parametrize("table", ["wine", "cancer"])
@pytest.mark.parametrize("method", ["isotonic", "sigmoid", "temperature"])
@pytest.mark.parametrize(
    "inner",
    [
        LogisticRegression(max_iter=200),
        make_pipeline(StandardScaler(), LinearSVC()),
        make_pipeline(StandardScaler(), PCA(4), LogisticRegression()),
        RandomForestClassifier(5, random_state=0, n_jobs=1),
    ],
    ids=["linear", "pipeline of scores", "pipeline of three", "forest"],
)
def test_a_calibrated_classifier_answers_as_scikit_learn(
    inner: Any, method: str, table: str
) -> None:
    done = convert(calibrated(inner, method), table)
    assert [one.is_exact for one in done.tries] == [True]


def make_isotonic(values: Array, targets: Array, outside: str) -> tuple[Any, Any]:
    """Give a fitted regression and what answers float64 columns with its graph."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    model = IsotonicRegression(out_of_bounds=outside).fit(values, targets)
    make_known(model)
    graph = convert_sklearn(
        model,
        initial_types=[("x", DoubleTensorType([None, 1]))],
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return model, lambda rows: session.run(None, {"x": rows.reshape(-1, 1)})[0].ravel()


NUMBER = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=20),
    outside=st.sampled_from(["clip", "nan"]),
)
def test_isotonic_regression_is_exact_at_knots_beside_them_and_beyond(
    points: list[tuple[float, float]], outside: str
) -> None:
    values, targets = np.array(points).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, answer = make_isotonic(values, targets, outside)
    knots = model.X_thresholds_
    middles = (knots[1:] + knots[:-1]) / 2
    edges = np.array([knots[0] - 1, knots[-1] + 1, -1e300, 1e300])
    asked = np.concatenate(
        [values, knots, middles, edges, np.nextafter(knots, -np.inf), np.nextafter(knots, np.inf)]
    )
    np.testing.assert_array_equal(answer(asked), model.predict(asked))


@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_numpy_is_written_out_as_exact_as_float64_allows(name: str) -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    function = getattr(np, name)
    step = FunctionTransformer(function)
    make_known(step)
    graph = convert_sklearn(
        step,
        initial_types=[("x", DoubleTensorType([None, 1]))],
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    small = np.array([1e-300, 1e-17, 3e-9, 1e-4, 0.3, 0.5, 0.999, 1.0, 1.5, 2.5, 30.0, 700.0, 1e9])
    asked = np.concatenate([small, -small, [0.0, np.nan, np.inf, -np.inf]])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    got = session.run(None, {"x": asked.reshape(-1, 1)})[0].ravel()
    with np.errstate(all="ignore"):
        wanted = function(asked)
    np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-15 if name in ("sin", "cos") else 0)


BOOSTED = HistGradientBoostingRegressor(max_iter=8)


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(
            ColumnTransformer([("a", FunctionTransformer(np.square), [0, 1])], remainder="drop"),
            Ridge(),
        ),
        make_pipeline(FunctionTransformer(np.expm1), BOOSTED),
        TransformedTargetRegressor(BOOSTED, func=np.log1p, inverse_func=np.expm1),
        TransformedTargetRegressor(
            make_pipeline(StandardScaler(), SVR()), func=np.log, inverse_func=np.exp
        ),
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
        make_pipeline(
            PCA(4), TransformedTargetRegressor(BOOSTED, func=np.sqrt, inverse_func=np.square)
        ),
    ],
    ids=["columns", "before trees", "trees", "pipeline", "scaled answers", "behind components"],
)
def test_functions_of_numpy_before_and_behind_a_regressor_are_exact(model: Any) -> None:
    assert convert(model, "diabetes").tries[-1].is_exact


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            make_pipeline(FunctionTransformer(lambda rows: rows + 1), Ridge()),
            r"calls the function <lambda>, .*numpy's own \(log, ",
        ),
        (
            make_pipeline(FunctionTransformer(np.clip, kw_args={"a_min": 0, "a_max": 1}), Ridge()),
            r"the function clip with \['a_max', 'a_min'\]",
        ),
        (
            TransformedTargetRegressor(Ridge(), transformer=QuantileTransformer(n_quantiles=9)),
            "QuantileTransformer turns its answers back",
        ),
    ],
    ids=["lambda", "arguments", "quantiles"],
)
def test_other_functions_are_refused_with_those_that_can_be(model: Any, words: str) -> None:
    with pytest.raises(UnsupportedEstimatorError, match=words):
        convert(model, "diabetes")


def test_an_isotonic_regression_that_raises_is_refused() -> None:
    rows, targets = load_table("diabetes")
    model = IsotonicRegression(out_of_bounds="raise").fit(rows[:, :1], targets)
    with pytest.raises(UnsupportedEstimatorError, match='Use out_of_bounds="clip"'):
        make_source(model, schema_of(1)).convert(schema_of(1), CAMERA)


def test_a_fold_without_a_class_is_refused() -> None:
    rows, targets = load_table("wine")
    model = fit_quietly(calibrated(LogisticRegression(max_iter=50), "sigmoid"), rows, targets)
    one = model.calibrated_classifiers_[0].estimator
    fit_quietly(one, rows[targets != "barolo"], targets[targets != "barolo"])
    schema = schema_of(13, [str(name) for name in model.classes_])
    with pytest.raises(UnsupportedEstimatorError, match="rows of 2 of 3 classes only"):
        make_source(model, schema).convert(schema, CAMERA)


def test_an_isotonic_answer_outside_its_range_is_no_number() -> None:
    rows, targets = load_table("diabetes")
    model = IsotonicRegression().fit(rows[:, :1], targets)
    made = make_source(model, schema_of(1)).convert(schema_of(1), CAMERA, rows[:9, :1])
    got = GraphRunner(normalise(made.model, CAMERA), CAMERA).run(np.array([[9.0]], np.float32))
    assert np.isnan(got["value"]).tolist() == [True]
