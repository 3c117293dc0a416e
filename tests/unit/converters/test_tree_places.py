"""Trees behind steps that compute: a row goes the way it goes in scikit-learn, to the last bit."""

from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from converters.graph import parse_model
from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.smaller_trees import list_tree_cuts
from converters.source import Conversion
from converters.sources import make_source
from converters.table_feed import TableModel
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.packed_texts import pack_texts
from tests.support.convert import fit_quietly, schema_of

Array = NDArray[Any]
CAMERA = load_profile("camera")
TEXT = ModelSchema(
    model="tickets",
    task=Task.REGRESSION,
    features=(Feature(name="text", dtype="text", chars_max=64),),
    outputs=(Output(name="value", role=Role.VALUE),),
)
BOOSTED = {
    "scikit-learn": HistGradientBoostingRegressor(max_iter=20),
    "lightgbm": lightgbm.LGBMRegressor(n_estimators=20, verbosity=-1, n_jobs=1),
}


def draw_texts(rows: int) -> tuple[list[str], Array]:
    """Give texts of words that are about as common as each other: many weights differ in a bit."""
    draw = np.random.default_rng(2)
    words = np.array([f"w{chr(97 + n)}" for n in range(20)])
    worth = draw.normal(size=len(words))
    flow = np.concatenate([draw.permutation(len(words)) for _ in range(rows)])
    sizes = draw.integers(2, 9, rows)
    parts = np.split(flow[: sizes.sum()], np.cumsum(sizes)[:-1])
    values = np.array([worth[part].mean() for part in parts]) + draw.normal(size=rows) / 3
    return [" ".join(words[part]) for part in parts], values


@pytest.mark.parametrize("kind", list(BOOSTED))
def test_boosted_trees_behind_weights_of_terms_answer_every_row_alike(kind: str) -> None:
    texts, values = draw_texts(1_200)
    terms = ColumnTransformer([("text", TfidfVectorizer(), 0)], sparse_threshold=0)
    table = np.array(texts, object)[:, None]
    model = fit_quietly(make_pipeline(terms, BOOSTED[kind]), table[:600], values[:600])
    source = make_source(TableModel(estimator=model), TEXT)
    done = source.convert(TEXT, CAMERA, pack_texts(texts, 64)[600:])
    assert (done.tries[-1].rows, done.tries[-1].rows_off) == (600, 0)
    assert done.repairs == ("everything runs in float64",)


def rounded_rows() -> tuple[Array, Array]:
    draw = np.random.default_rng(0)
    rows = np.round(draw.normal(size=(900, 6)) * 50, 1)
    return rows, rows[:, 0] * rows[:, 1] / 50 + rows[:, 2] + draw.normal(size=900)


def convert(model: Any, *, is_class: bool = False) -> Conversion:
    rows, values = rounded_rows()
    targets = values > 0 if is_class else values
    model = fit_quietly(model, rows[:500], targets[:500])
    schema = schema_of(6, ["False", "True"] if is_class else ())
    return make_source(model, schema).convert(schema, CAMERA, rows[500:].astype(np.float32))


FOREST = RandomForestRegressor(5, random_state=0, n_jobs=1)
MIXED = [("forest", FOREST), ("boosted", BOOSTED["scikit-learn"]), ("linear", Ridge())]


@pytest.mark.parametrize(
    ("model", "is_class"),
    [
        (make_pipeline(PCA(4), BOOSTED["scikit-learn"]), False),
        (make_pipeline(PCA(4), BOOSTED["lightgbm"]), False),
        (make_pipeline(PolynomialFeatures(2), BOOSTED["scikit-learn"]), False),
        (make_pipeline(StandardScaler(), VotingRegressor(MIXED)), False),
        (
            make_pipeline(
                ColumnTransformer([("s", StandardScaler(), [0, 1])], remainder="passthrough"),
                BOOSTED["scikit-learn"],
            ),
            False,
        ),
        (
            make_pipeline(
                PCA(4), CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=5), cv=2)
            ),
            True,
        ),
    ],
    ids=["components", "lightgbm", "products", "voting", "some scaled", "calibrated"],
)
def test_trees_behind_computed_numbers_are_exact_at_the_first_try(
    model: Any, is_class: bool
) -> None:
    done = convert(model, is_class=is_class)
    assert [(one.way, one.is_exact) for one in done.tries] == [("everything runs in float64", True)]


def test_forests_behind_computed_numbers_round_as_they_do_themselves() -> None:
    done = convert(make_pipeline(PCA(4), FOREST))
    assert [one.is_exact for one in done.tries] == [True]
    assert "steps before the last run in float64" in done.repairs[-1]


def test_trees_with_thresholds_of_float64_can_be_made_fewer() -> None:
    rows, values = rounded_rows()
    model = make_pipeline(PCA(4), HistGradientBoostingRegressor(max_iter=10))
    done = convert(model)
    whole = normalise(done.model, CAMERA)
    small = list_tree_cuts(whole, rows[:500].astype(np.float32), CAMERA)["fewer_trees"](0.5)
    tree = next(
        node
        for node in parse_model(small, what="a test").graph.node
        if node.op_type.startswith("TreeEnsemble")
    )
    assert {"nodes_values_as_tensor"} == {a.name for a in tree.attribute if "values_as" in a.name}
    got = GraphRunner(small, CAMERA).run(rows[500:].astype(np.float32))["value"]
    held = rows[500:].astype(np.float32).astype(np.float64)
    stages = list(model[-1].staged_predict(model[0].transform(held)))
    assert got == pytest.approx(stages[4], abs=1e-3)
    assert len(values) > 500
