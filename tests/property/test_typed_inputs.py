"""Rows drawn from a schema: every graph answers as its source, or the edge refuses the row."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.sources import make_source
from converters.table_feed import TableFeed, TableModel
from device_profiles.catalog import load_profile
from edge_agent.adapters.input_ranges import InputRanges
from edge_agent.adapters.named_fields import FieldReader
from edge_agent.contract.cells import CellReader
from edge_agent.contract.schema import Dtype, Feature, ModelSchema, Output, Role, Task
from edge_agent.errors import InputError
from tests.support.convert import fit_quietly

Array = NDArray[Any]
HUES = ("blue", "green", "red", "teal")
SCHEMA = ModelSchema(
    model="paint",
    task=Task.CLASSIFICATION,
    features=(
        Feature(name="heat", low=-40, high=125, is_nullable=True),
        Feature(name="far", low=-1e6, high=1e6, is_nullable=True),
        Feature(name="count", dtype="int64", low=0, high=2**24),
        Feature(name="hue", dtype="category", categories=HUES, is_nullable=True, is_open=True),
        Feature(name="size", dtype="category", categories=("l", "m", "s")),
        Feature(name="door", dtype="bool"),
    ),
    outputs=(
        Output(name="label", role=Role.LABEL),
        Output(name="probabilities", role=Role.PROBABILITIES),
    ),
    classes=("0", "1", "2"),
)
TEXTS = ("texts", OneHotEncoder(handle_unknown="ignore"), [3, 4, 5])
FILLED = ("filled", SimpleImputer(strategy="median", add_indicator=True), [0, 1, 2])
CODES = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
PIPELINES: dict[str, Any] = {
    "linear": make_pipeline(
        ColumnTransformer([FILLED, TEXTS]), StandardScaler(), LogisticRegression()
    ),
    "network": make_pipeline(
        ColumnTransformer([FILLED, TEXTS]),
        StandardScaler(),
        MLPClassifier((12,), max_iter=30, random_state=0),
    ),
    "boosted": make_pipeline(
        ColumnTransformer([("codes", CODES, [3, 4])], remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=12),
    ),
    "boosted on sets": make_pipeline(
        ColumnTransformer([("codes", CODES, [3, 4])], remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=12, categorical_features=[0, 1]),
    ),
    "forest": make_pipeline(
        ColumnTransformer([("means", TargetEncoder(random_state=0), [3, 4]), FILLED]),
        RandomForestClassifier(12, random_state=0),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    source: Any
    graph: GraphRunner


def _training_rows() -> Array:
    draw = np.random.default_rng(0)
    rows = np.column_stack(
        [
            draw.uniform(-40, 125, 400),
            draw.normal(0, 1e4, 400),
            draw.integers(0, 500, 400),
            draw.integers(0, 4, 400),
            draw.integers(0, 3, 400),
            draw.integers(0, 2, 400),
        ]
    ).astype(np.float32)
    for column in (0, 1, 3):
        rows[draw.random(400) < 0.1, column] = np.nan
    return rows


ROWS = _training_rows()
TARGETS = (
    (np.nan_to_num(ROWS[:, 0]) > 40).astype(int) + (ROWS[:, 3] == 2) + (ROWS[:, 1] > 5_000)
) % 3


@cache
def _pair(name: str) -> Pair:
    table = TableFeed(TableModel(estimator=object()), SCHEMA)(ROWS)
    model = TableModel(estimator=fit_quietly(PIPELINES[name], table, TARGETS))
    source, profile = make_source(model, SCHEMA), load_profile("camera")
    conversion = source.convert(SCHEMA, profile, ROWS)
    return Pair(source=source, graph=GraphRunner(normalise(conversion.model, profile), profile))


def _values(feature: Feature, column: int) -> st.SearchStrategy[float]:
    """Draw what the schema allows: bounds, ends of the lists, missing, unknown, training values."""
    low, high = feature.bounds
    assert low is not None
    assert high is not None
    special = [low, high]
    if feature.is_nullable:
        special.append(math.nan)
    if feature.dtype in (Dtype.BOOL, Dtype.CATEGORY):
        return st.sampled_from([*range(int(low), int(high) + 1), *special]).map(float)
    if feature.dtype == Dtype.INT64:
        return st.integers(int(low), int(high)).map(float) | st.sampled_from(special)
    known = [float(value) for value in ROWS[:40, column] if np.isfinite(value)]
    near = [float(np.nextafter(np.float32(v), np.float32(np.inf))) for v in known]
    anything = st.floats(low, high, width=32)
    return anything | st.sampled_from([*special, 0.0, -0.0, 1e-38, *known, *near])


def _rows() -> st.SearchStrategy[list[tuple[float, ...]]]:
    columns = [_values(feature, n) for n, feature in enumerate(SCHEMA.features)]
    return st.lists(st.tuples(*columns), min_size=1, max_size=20)


@pytest.mark.parametrize("name", PIPELINES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=_rows())
def test_a_graph_answers_whatever_the_schema_allows_as_its_source(
    name: str, rows: list[tuple[float, ...]]
) -> None:
    pair, packed = _pair(name), np.array(rows, np.float32)
    assert InputRanges(SCHEMA).find_fault(packed) == ""
    got, want = pair.graph.run(packed), pair.source.answer(packed)
    np.testing.assert_allclose(got["probabilities"], want["probabilities"], atol=2e-5)
    best = np.sort(want["probabilities"], axis=1)
    is_clear = best[:, -1] - best[:, -2] > 1e-4
    np.testing.assert_array_equal(got["label"][is_clear], want["label"][is_clear])


def _cell(feature: Feature, value: float) -> Any:
    """Say a packed value as a person would."""
    if math.isnan(value):
        return None
    if feature.dtype == Dtype.CATEGORY:
        return "no such text" if value < 0 else feature.categories[int(value)]
    return bool(value) if feature.dtype == Dtype.BOOL else value


@settings(max_examples=60, deadline=None)
@given(rows=_rows())
def test_a_row_by_name_is_packed_to_the_same_codes(rows: list[tuple[float, ...]]) -> None:
    packed = np.array(rows, np.float32)
    named = [
        {f.name: _cell(f, float(value)) for f, value in zip(SCHEMA.features, row, strict=True)}
        for row in packed
    ]
    np.testing.assert_array_equal(FieldReader(SCHEMA).read(named), packed)
    for row, cells in zip(packed, named, strict=True):
        texts = ["" if cell is None else str(cell) for cell in cells.values()]
        read = [CellReader(f).read(text) for f, text in zip(SCHEMA.features, texts, strict=True)]
        np.testing.assert_array_equal(np.array(read, np.float32), row)


ANYTHING = (
    st.none() | st.booleans() | st.floats(width=32) | st.text(max_size=8) | st.lists(st.none())
)


@settings(max_examples=150, deadline=None)
@example(row={"heat": None, "far": None, "count": 0, "hue": np.inf, "size": "l", "door": True})
@example(row={"heat": 1, "far": 10**400, "count": 0, "hue": "x", "size": "l", "door": True})
@given(row=st.fixed_dictionaries({f.name: ANYTHING for f in SCHEMA.features}))
def test_any_other_row_is_refused_by_field_or_becomes_one_that_the_schema_allows(
    row: dict[str, Any],
) -> None:
    fault = ""
    try:
        packed = FieldReader(SCHEMA).read([row])
        fault = InputRanges(SCHEMA).find_fault(packed)
    except InputError as error:
        fault = str(error)
    if fault:
        assert "row 0: " in fault
        assert any(name in fault for name in row)
