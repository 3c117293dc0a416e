"""Transformers written in nodes of our own are exact before linear models and before trees."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import FeatureAgglomeration
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import FactorAnalysis, FastICA, SparsePCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import MissingIndicator
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    KBinsDiscretizer,
    OneHotEncoder,
    PowerTransformer,
    QuantileTransformer,
)
from sklearn.random_projection import SparseRandomProjection

from converters.errors import UnsupportedEstimatorError
from converters.runtime import GraphRunner
from converters.source import Conversion
from converters.sources import make_source
from device_profiles.catalog import load_profile
from tests.support.convert import fit_quietly, load_table, schema_of

Array = NDArray[Any]
HOW = {"quantile_method": "averaged_inverted_cdf"}


def load_rows() -> tuple[Array, Array]:
    """Give rows of two decimals with many ties."""
    rows, targets = load_table("diabetes")
    return np.round(rows * 20, 1), targets


def convert(model: Any, rows: Array, targets: Array) -> Conversion:
    model = fit_quietly(model, rows[:260], targets[:260])
    schema = schema_of(rows.shape[1])
    source = make_source(model, schema)
    return source.convert(schema, load_profile("camera"), rows[260:].astype(np.float32))


@pytest.mark.parametrize("last", [Ridge(), HistGradientBoostingRegressor(max_iter=5)])
@pytest.mark.parametrize(
    "step",
    [
        QuantileTransformer(n_quantiles=40),
        PowerTransformer(),
        PowerTransformer(standardize=False),
        KBinsDiscretizer(5, encode="onehot-dense", **HOW),
        KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
        FastICA(3, random_state=0),
        FactorAnalysis(3),
        FeatureAgglomeration(4),
        SparsePCA(3, max_iter=4, random_state=0),
        SparseRandomProjection(4, random_state=0),
        RBFSampler(random_state=0, n_components=6),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_transformer_is_exact_at_the_first_try(step: Any, last: Any) -> None:
    done = convert(make_pipeline(step, last), *load_rows())
    assert [one.is_exact for one in done.tries] == [True]


def test_bins_that_scikit_learn_keeps_sparse_are_dense_columns() -> None:
    assert (
        convert(make_pipeline(KBinsDiscretizer(4, **HOW), Ridge()), *load_rows()).tries[0].is_exact
    )


def test_an_affine_regressor_without_converter_is_a_product() -> None:
    assert convert(CCA(1), *load_rows()).tries[0].is_exact


def test_positive_values_take_a_box_cox_transform() -> None:
    rows, targets = load_rows()
    model = make_pipeline(PowerTransformer("box-cox"), Ridge())
    assert convert(model, np.abs(rows) + 0.5, targets).tries[0].is_exact


def test_columns_that_tell_what_is_missing_convert_and_powers_keep_it() -> None:
    rows, targets = load_rows()
    rows[::7, 2] = rows[::5, 4] = np.nan
    told = make_union(MissingIndicator(), PowerTransformer(), QuantileTransformer(n_quantiles=9))
    model = make_pipeline(told, HistGradientBoostingRegressor(max_iter=5))
    done = convert(model, rows, targets)
    assert done.tries[0].is_exact, done.tries


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (QuantileTransformer(n_quantiles=9, output_distribution="normal"), '"uniform"'),
        (FeatureAgglomeration(3, pooling_func=np.median), "pooling_func=np.mean"),
        (MissingIndicator(missing_values=-1.0, features="all"), "Use NaN for missing"),
    ],
)
def test_options_that_no_graph_holds_are_refused(step: Any, words: str) -> None:
    with pytest.raises(UnsupportedEstimatorError, match=words):
        convert(make_pipeline(step, Ridge()), *load_rows())


@pytest.mark.parametrize(
    "encoder",
    [
        OneHotEncoder(handle_unknown="ignore"),
        OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False),
        OneHotEncoder(handle_unknown="ignore", drop="if_binary"),
    ],
    ids=["all", "first dropped", "binary dropped"],
)
def test_numbers_that_are_no_category_are_unknown_and_not_cut_to_one(encoder: Any) -> None:
    draw = np.random.default_rng(4)
    known = np.column_stack(
        [draw.integers(0, 4, 300), draw.integers(0, 2, 300), draw.choice([0.5, 1.25, np.nan], 300)]
    )
    targets = known[:, 0] + 3 * known[:, 1] + np.nan_to_num(known[:, 2])
    model = make_pipeline(encoder, Ridge()).fit(known, targets)
    odd = np.array([[1.9, 1, 0.5], [-0.5, 0.99, 1], [7, 2, 1.25], [1e9, -1, np.nan]], np.float32)
    schema = schema_of(3)
    rows = np.concatenate([known[:50].astype(np.float32), odd])
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # unknown and dropped
        done = make_source(model, schema).convert(schema, load_profile("camera"), rows)
        expected = model.predict(rows)
    assert done.tries[0].is_exact, done.tries
    answers = GraphRunner(done.model.SerializeToString(), load_profile("camera")).run(rows)["value"]
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_infrequent_numbers_are_refused_with_a_way_out() -> None:
    rows = np.repeat([[0.0], [1.0], [2.0], [3.0]], [50, 50, 2, 2], axis=0)
    model = make_pipeline(OneHotEncoder(min_frequency=5), Ridge()).fit(rows, rows[:, 0])
    with pytest.raises(UnsupportedEstimatorError, match=r"infrequent numbers into one column\. "):
        make_source(model, schema_of(1)).convert(
            schema_of(1), load_profile("camera"), rows.astype(np.float32)
        )
