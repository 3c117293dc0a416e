from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeRegressor

from converters.tree_thresholds import FOLDABLE_SCALERS, _float32_of_key, fold_into_thresholds
from tests.support.convert import fit_quietly

Array = NDArray[Any]


def largest_float32_that_passes(
    threshold: float, before: Callable[[Array], Array]
) -> tuple[np.float32, np.float32]:
    """Fold one threshold with a one-split tree and give it with the next float32 above."""
    tree = DecisionTreeRegressor(max_depth=1).fit([[0.0], [1.0]], [0.0, 1.0])
    tree.tree_.threshold[0] = threshold
    fold_into_thresholds(tree, 1, before)
    folded = np.float32(tree.tree_.threshold[0])
    assert float(folded) == tree.tree_.threshold[0]
    return folded, np.nextafter(folded, np.float32(np.inf))


@given(
    mean=st.floats(-1e6, 1e6),
    scale=st.floats(1e-6, 1e6),
    threshold=st.floats(-1e3, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_the_folded_threshold_asks_the_same_question(
    mean: float, scale: float, threshold: float
) -> None:
    def before(rows: Array) -> Array:
        scaled: Array = (rows - mean) / scale
        return scaled

    def passes(value: np.float32) -> bool:
        return float(np.float32(before(np.array(float(value))))) <= threshold

    folded, above = largest_float32_that_passes(threshold, before)
    assert passes(folded)
    assert not passes(above)


def test_keys_walk_the_float32_line_in_order() -> None:
    keys = np.array([-0x7F800000, -0x7F7FFFFF, -1, 0, 1, 0x3F800000, 0x7F7FFFFF])
    values = _float32_of_key(keys)
    assert values[0] == -np.inf
    assert values[5] == 1.0
    assert values[-1] == np.finfo(np.float32).max
    assert np.all(np.diff(values.astype(np.float64)[1:]) > 0)


def answers_after_folding(model: Any, scaler: Any | None, dtype: Any, rows: Array) -> Array:
    """Answer float32 rows with folded thresholds and no scaler."""
    folded = fold_into_thresholds(
        model, rows.shape[1], None if scaler is None else scaler.transform, dtype
    )
    assert folded is not None
    answers: Array = model.predict(rows.astype(np.float32).astype(np.float64))
    return answers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler])
@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingRegressor(max_iter=15, random_state=0),
        RandomForestRegressor(8, random_state=0),
        GradientBoostingRegressor(n_estimators=10, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_row_takes_the_branches_it_took_behind_the_scaler(
    model: Any, scaler: Any, dtype: Any
) -> None:
    random = np.random.default_rng(3)
    rows = np.round(random.normal(50, 20, (600, 4)), 1).astype(dtype)
    targets = rows @ [1.0, -2.0, 0.5, 0.0] + random.normal(size=600)
    ready = scaler().fit(rows)
    fit_quietly(model, ready.transform(rows), targets)
    rounded = rows.astype(np.float32).astype(dtype)
    expected = model.predict(ready.transform(rounded))
    np.testing.assert_array_equal(answers_after_folding(model, ready, dtype, rows), expected)


def test_the_table_names_scalers_that_exist() -> None:
    named = {kind.__name__ for kind in (StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler)}
    assert named == FOLDABLE_SCALERS
    assert PowerTransformer.__name__ not in FOLDABLE_SCALERS


def test_categorical_splits_are_left_alone() -> None:
    random = np.random.default_rng(0)
    rows = random.integers(0, 5, (200, 2)).astype(np.float64)
    model = HistGradientBoostingClassifier(max_iter=3, categorical_features=[0])
    model.fit(rows, rows[:, 0] % 2 == 0)
    assert fold_into_thresholds(model, 2, None) is None


def test_a_boosting_that_starts_from_another_model_is_left_alone() -> None:
    rows = np.arange(40.0).reshape(20, 2)
    model = GradientBoostingRegressor(n_estimators=2, init=DecisionTreeRegressor())
    model.fit(rows, rows[:, 0])
    assert fold_into_thresholds(model, 2, None) is None


def test_a_tree_without_splits_has_nothing_to_fold() -> None:
    model = DecisionTreeRegressor().fit([[1.0], [2.0]], [5.0, 5.0])
    assert fold_into_thresholds(model, 1, None) == 0
