"""A spec of several targets, from its table to a device's answers by target."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as oracle
from sklearn.datasets import load_diabetes
from sklearn.multioutput import MultiOutputRegressor

from edge_agent.contract.package import EVIDENCE
from edge_agent.contract.schema import ModelSchema, Task
from edge_agent.errors import InputError
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.errors import RefusedError
from fleet_server.ports.registry import Version
from fleet_server.training.ingest import make_dataset
from fleet_server.training.metrics import Answers, measure_all
from tests.support.serving import TARGET, make_service
from tests.support.training import TrainingBench, edit, raw_table, read_spec, value_spec

SPEC = Path("examples/digits/vitals.toml").read_text()
_DATA = load_diabetes(scaled=False)
TABLE = pa.table(
    {
        **{name: _DATA.data[:, n] for n, name in enumerate(_DATA.feature_names)},
        "progression": _DATA.target,
    }
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainingBench:
    return TrainingBench(tmp_path_factory.mktemp("vitals"))


@pytest.fixture(scope="module")
def version(bench: TrainingBench) -> Version:
    return bench.train(SPEC, TABLE, name="diabetes.csv")


def test_a_device_answers_each_target_as_the_source_model_does(
    bench: TrainingBench, version: Version
) -> None:
    assert ("ingest", "442 rows of 9 columns, 2 targets") in [
        (step, sentence.split("   ")[0]) for step, sentence in bench.heard.lines
    ]
    schema = ModelSchema.decode(bench.member(version, "schema.json"))
    assert schema.targets == ("bp", "progression")
    (artifact,) = version.artifacts
    service = make_service()
    blob = bench.objects.read(artifact.package.sha256)
    service.activate("main", blob=blob, target=TARGET, sha256=artifact.package.sha256)
    rows = np.column_stack([TABLE.column(name) for name in schema.columns])[:50]
    packed = rows.astype(np.float32)
    source = read_estimator(bench.objects.read(version.run["source_model"]))
    got = service.predict("main", packed).outputs["value"]
    np.testing.assert_allclose(got, source.predict(packed), rtol=1e-4)


def test_every_figure_is_the_mean_over_the_targets(bench: TrainingBench, version: Version) -> None:
    metric = json.loads(bench.member(version, EVIDENCE))["metric"]
    assert (metric["name"], set(metric["targets"])) == ("r2", {"bp", "progression"})
    each = [metric["targets"][name]["shipped"] for name in ("bp", "progression")]
    assert metric["shipped"] == pytest.approx(np.mean(each))
    assert version.metrics["r2"] == pytest.approx(metric["source"])
    targets = version.evaluation["shipped"]["camera"]["targets"]
    assert [round(one["r2"], 6) for one in targets.values()] == [round(r2, 6) for r2 in each]
    assert list(targets["bp"]) == ["mae", "rmse", "r2"]


def test_an_estimator_of_one_target_is_trained_once_for_each(bench: TrainingBench) -> None:
    changes = {
        "sklearn.linear_model.Ridge": "sklearn.ensemble.HistGradientBoostingRegressor",
        "{ alpha = 1.0 }": "{ max_iter = 8 }",
        'steps = [{ use = "sklearn.preprocessing.StandardScaler" }]': "steps = []",
        'name = "vitals"': 'name = "vitals-boosted"',
    }
    made = bench.train(edit(SPEC, changes), TABLE, name="diabetes.csv")
    source = read_estimator(bench.objects.read(made.run["source_model"]))
    assert isinstance(source, MultiOutputRegressor)
    assert len(source.estimators_) == 2


def test_a_champion_of_other_targets_is_not_compared(
    bench: TrainingBench, version: Version
) -> None:
    bench.crown("vitals", version.number)
    swapped = edit(SPEC, {'["bp", "progression"]': '["progression", "bp"]'})
    with pytest.raises(RefusedError, match="other features or another target"):
        bench.train(swapped, TABLE, name="diabetes.csv")
    thawed = edit(swapped, {"seed = 3": "seed = 3\nfreeze = false"})
    made = bench.train(thawed, TABLE, name="diabetes.csv")
    assert "it answers other targets" in str(made.evaluation)


def test_the_order_of_the_targets_is_part_of_the_version_of_the_data() -> None:
    numbers = {"x": [1.0, 2.0, 3.0], "t": [1.0, 2.0, 4.0], "u": [5.0, 7.0, 6.0]}
    text = value_spec(task="regression")
    made = [
        make_dataset(
            read_spec(edit(text, {'target = "t"': f"target = {names}"})),
            raw_table(numbers),
            source="rows.csv",
        )
        for names in ('["t", "u"]', '["u", "t"]', '["t", "u"]')
    ]
    assert made[0].targets.shape == (3, 2)
    assert made[0].sha256 == made[2].sha256 != made[1].sha256
    one = make_dataset(read_spec(text), raw_table(numbers), source="rows.csv")
    assert made[0].columns_sha256 != one.columns_sha256


def test_a_target_without_anything_to_learn_is_named() -> None:
    spec = read_spec(edit(value_spec(task="regression"), {'"t"': '["t", "u"]'}))
    table = raw_table({"x": [1.0, 2.0], "t": [1.0, 2.0], "u": [5.0, 5.0]})
    with pytest.raises(RefusedError, match="target 'u' is 5 in all 2 rows"):
        make_dataset(spec, table, source="rows.csv")


def test_metrics_of_several_targets_agree_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(40, 3)) * [1, 10, 100] + [0, 1e4, -5]
    guess = truth + draw.normal(size=(40, 3))
    assert measure_all(Task.REGRESSION, truth, Answers.of_values(guess)) == pytest.approx(
        {
            "mae": oracle.mean_absolute_error(truth, guess),
            "rmse": oracle.root_mean_squared_error(truth, guess),
            "r2": oracle.r2_score(truth, guess),
        }
    )


def test_feedback_names_the_reason(bench: TrainingBench, version: Version) -> None:
    (artifact,) = version.artifacts
    service = make_service()
    blob = bench.objects.read(artifact.package.sha256)
    service.activate("main", blob=blob, target=TARGET, sha256=artifact.package.sha256)
    name = service.predict("main", np.ones((1, 9), np.float32)).prediction_id
    with pytest.raises(InputError, match="answered 2 targets"):
        service.labels.add(name, 1.0)
