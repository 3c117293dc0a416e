"""From a table of texts, booleans and gaps to a package that answers the raw rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from typer.testing import CliRunner

from converters.build import BuildRequest, build_package
from converters.cli import app
from converters.errors import ConversionError, InvalidRequestError
from converters.skops_library import import_skops
from converters.sources import make_source
from converters.table_feed import TableFeed, TableModel
from device_profiles.catalog import load_profile
from edge_agent.contract.package import unpack_members
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.reference import Reference
from tests.support.convert import QUICK, fit_quietly
from tests.support.serving import TARGET, make_service

Array = NDArray[Any]
HUES = ("blue", "green", "red", "teal")
HEAT = Feature(name="heat", is_nullable=True)
HUE = Feature(name="hue", dtype="category", categories=HUES, is_nullable=True, is_open=True)
DOOR = Feature(name="door", dtype="bool")
CLASSES = (
    Output(name="label", role=Role.LABEL),
    Output(name="probabilities", role=Role.PROBABILITIES),
)
VALUE = (Output(name="value", role=Role.VALUE),)


def _schema(task: Task = Task.CLASSIFICATION) -> ModelSchema:
    is_class = task is Task.CLASSIFICATION
    return ModelSchema(
        model="paint",
        task=task,
        features=(HEAT, HUE, DOOR),
        outputs=CLASSES if is_class else VALUE,
        classes=("cold", "warm") if is_class else (),
    )


def _packed(rows: int = 300, seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    heat = np.where(draw.random(rows) < 0.1, np.nan, draw.normal(size=rows))
    hue = np.where(draw.random(rows) < 0.1, np.nan, draw.integers(0, 4, rows))
    return np.column_stack([heat, hue, draw.integers(0, 2, rows)]).astype(np.float32)


def _targets(rows: Array) -> Array:
    score = np.nan_to_num(rows[:, 0]) + (rows[:, 1] == 2) - rows[:, 2]
    return np.asarray(score, np.float64)


def _request(estimator: Any, schema: ModelSchema, **change: Any) -> BuildRequest:
    rows = _packed()
    targets = _targets(rows)
    if schema.task is Task.CLASSIFICATION:
        targets = np.where(targets > 0, "warm", "cold")
    table = TableFeed(TableModel(estimator=object()), schema)(rows)
    fit_quietly(estimator, table[:200], targets[:200])
    settings: dict[str, Any] = {
        "estimator": TableModel(estimator=estimator),
        "schema": schema,
        "profile": load_profile("camera"),
        "calibration": rows[:200],
        "holdout": rows[200:],
        "holdout_targets": targets[200:],
        "plan": QUICK,
    }
    return BuildRequest(**(settings | change))


def _classifier() -> Any:
    return make_pipeline(
        ColumnTransformer(
            [
                ("n", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), [0]),
                ("c", OneHotEncoder(handle_unknown="ignore"), [1, 2]),
            ]
        ),
        LogisticRegression(),
    )


def test_a_package_answers_raw_rows_as_the_pipeline_answers_texts() -> None:
    request = _request(_classifier(), _schema())
    built = build_package(request)
    service = make_service()
    service.activate("main", blob=built.blob, target=TARGET, sha256=built.sha256)
    asked = _packed(seed=7)
    asked[::5, 1] = -1
    feed = TableFeed(request.estimator, request.schema)
    want = feed.estimator.predict_proba(feed(asked))
    got = service.predict("main", asked).outputs["probabilities"]
    np.testing.assert_allclose(got, want, atol=1e-6)
    reference = Reference.decode(unpack_members(built.blob)["reference.json"])
    assert set(reference.features[1].labels) == set(HUES)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(
            ColumnTransformer(
                [("c", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=9), [1])],
                remainder="passthrough",
            ),
            HistGradientBoostingRegressor(max_iter=20, categorical_features=[0]),
        ),
        make_pipeline(
            ColumnTransformer(
                [("c", OneHotEncoder(handle_unknown="ignore"), [1])],
                remainder="passthrough",
            ),
            HistGradientBoostingRegressor(max_iter=20),
        ),
    ],
    ids=["sets of categories", "one-hot"],
)
def test_boosted_trees_over_texts_and_gaps_are_exact(estimator: Any) -> None:
    built = build_package(_request(estimator, _schema(Task.REGRESSION)))
    assert built.max_abs_error < 1e-5


def test_a_forest_over_scaled_numbers_and_texts_is_exact() -> None:
    forest = make_pipeline(_classifier()[0], RandomForestClassifier(20, random_state=0))
    built = build_package(_request(forest, _schema()))
    assert (built.label_flips, built.max_abs_error < 1e-5) == (0, True)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1, 4, 0], "column 'hue': 4 is no code of a category, which goes from -1 to 3"),
        ([1, 0.5, 0], "column 'hue': 0.5 is no code"),
        ([1, 0, np.nan], "column 'door': 1 values are missing, first in row 1"),
    ],
)
def test_rows_that_are_not_packed_by_the_schema_are_refused(row: list[float], words: str) -> None:
    request = _request(_classifier(), _schema())
    rows = np.array([row], np.float32)
    with pytest.raises(InvalidRequestError, match=words):
        build_package(
            BuildRequest(
                estimator=request.estimator,
                schema=request.schema,
                profile=request.profile,
                calibration=rows,
                holdout=request.holdout,
                holdout_targets=request.holdout_targets,
            )
        )


def test_a_schema_that_allows_more_than_the_encoder_is_refused() -> None:
    strict = make_pipeline(
        ColumnTransformer([("c", OneHotEncoder(), [1, 2]), ("n", SimpleImputer(), [0])]),
        LogisticRegression(),
    )
    with pytest.raises(ConversionError, match="'hue': the schema allows a category that is not"):
        build_package(_request(strict, _schema()))


def test_edge_convert_reads_texts_of_a_csv_and_writes_the_schema(tmp_path: Path) -> None:
    rows = _packed()
    schema = _schema()
    table = TableFeed(TableModel(estimator=object()), schema)(rows)
    targets = np.where(_targets(rows) > 0, "warm", "cold")
    model = fit_quietly(_classifier(), table, targets)
    (tmp_path / "model.skops").write_bytes(import_skops().dumps(model))
    lines = [["heat", "hue", "door", "state"], *np.column_stack([table, targets]).tolist()]
    text = "\n".join(",".join(map(str, line)) for line in lines).replace("nan", "")
    (tmp_path / "rows.csv").write_text(text + "\n")
    words = ["run", "model.skops", "--rows", "rows.csv", "--target", "state"]
    words = [str(tmp_path / word) if "." in word else word for word in words]
    out = tmp_path / "paint.tar"
    done = CliRunner().invoke(app, [*words, "--profile", "camera", "--out", str(out)])
    assert done.exit_code == 0, done.output
    made = ModelSchema.decode(unpack_members(out.read_bytes())["schema.json"])
    assert made.features == (HEAT, HUE, DOOR)
    compared = CliRunner().invoke(app, ["parity", words[1], str(out), *words[2:]])
    assert compared.exit_code == 0, compared.output
    assert "300 rows, 0 labels differ, 0 rows off" in compared.output


def test_texts_that_look_like_numbers_stay_the_categories_they_were_learned_as(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    table = np.column_stack(
        [draw.choice(["01", "1", "7"], 300), draw.choice(["true", "false"], 300)]
    ).astype(object)
    targets = (table[:, 0] == "01") ^ (table[:, 1] == "true")
    encoder = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [0, 1])])
    model = make_pipeline(encoder, RandomForestClassifier(5, random_state=0)).fit(table, targets)
    (tmp_path / "model.skops").write_bytes(import_skops().dumps(model))
    lines = [["zip", "is_on", "state"], *np.column_stack([table, targets]).tolist()]
    (tmp_path / "rows.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))
    words = ["run", str(tmp_path / "model.skops"), "--rows", str(tmp_path / "rows.csv")]
    out = tmp_path / "m.tar"
    words += ["--target", "state", "--profile", "camera", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    members = unpack_members(out.read_bytes())
    made = ModelSchema.decode(members["schema.json"])
    assert [f.categories for f in made.features] == [("01", "1", "7"), ("false", "true")]
    assert json.loads(members["evidence.json"])["metric"]["source"] == 1


def _fitted_on_a_frame() -> tuple[Any, ModelSchema]:
    """Give what a data frame of the columns a, b and c leaves behind in an estimator."""
    rows = np.random.default_rng(0).normal(size=(100, 3))
    table = ColumnTransformer([("s", StandardScaler(), [2]), ("p", "passthrough", [0])])
    model = make_pipeline(table, LogisticRegression()).fit(rows, rows[:, 0] > rows[:, 2])
    table.feature_names_in_ = np.array(["a", "b", "c"], object)
    chosen = zip(table.transformers_, (["c"], ["a"]), strict=False)
    table.transformers_ = [(name, step, columns) for (name, step, _), columns in chosen]
    schema = ModelSchema(
        model="m",
        task=Task.CLASSIFICATION,
        features=tuple(Feature(name=name) for name in "abc"),
        outputs=CLASSES,
        classes=("False", "True"),
    )
    return model, schema


def test_numbers_that_are_chosen_by_name_convert() -> None:
    model, schema = _fitted_on_a_frame()
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    source = make_source(model, schema)
    source.convert(schema, load_profile("camera"), rows)
    scaled = model[0].transformers_[0][1].transform(rows[:, [2]])
    want = model[1].predict(np.column_stack([scaled, rows[:, 0]]))
    np.testing.assert_array_equal(source.answer(rows)["label"], want)


def test_a_schema_with_the_columns_in_another_order_is_refused() -> None:
    model, schema = _fitted_on_a_frame()
    turned = replace(schema, features=schema.features[::-1])
    with pytest.raises(InvalidRequestError, match="column 1 is 'c', the model's is 'a'"):
        make_source(model, turned)
