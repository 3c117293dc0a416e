"""A spec of several labels, from its table to a device's answers by label."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as oracle
from sklearn.multioutput import MultiOutputClassifier

from edge_agent.contract.package import EVIDENCE
from edge_agent.contract.schema import ModelSchema, NamedLabel, Task
from fleet_server.adapters.estimator_files import read_estimator
from fleet_server.cli.version_views import print_builds
from fleet_server.errors import RefusedError
from fleet_server.ports.registry import Version
from fleet_server.training.dataset import split_rows
from fleet_server.training.ingest import make_dataset
from fleet_server.training.metrics import METRICS, Answers, list_metrics, measure_all
from fleet_server.training.spec import SplitSection
from tests.support.labels import load_flowers
from tests.support.serving import TARGET, make_service
from tests.support.training import TrainingBench, edit, raw_table, read_spec, value_spec

EXAMPLE = Path("examples/machines")
ROWS, ANSWERS = load_flowers()
NAMES = ("sepal", "petal", "width")
TABLE = pa.table(
    {
        **{name: ROWS[:, n] for n, name in enumerate(NAMES)},
        "kind": ANSWERS[:, 0],
        "is broad": ANSWERS[:, 1],
    }
)
SPEC = """
[model]
name = "flowers"
task = "classification"
problem = "Tell the kind of a flower and whether it is broad."

[data]
source = "file:flowers.csv"
target = ["kind", "is broad"]

[data.features]
sepal = { type = "float32" }
petal = { type = "float32" }
width = { type = "float32" }

[split]
test = 0.3
seed = 3

[train]
estimator = "sklearn.linear_model.LogisticRegression"
params = { max_iter = 300 }
steps = [{ use = "sklearn.preprocessing.StandardScaler" }]

[metrics]
primary = "accuracy"
accuracy = { floor = 0.5 }
subset_accuracy = { floor = 0.3 }

[profiles.camera]
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainingBench:
    return TrainingBench(tmp_path_factory.mktemp("flowers"))


@pytest.fixture(scope="module")
def version(bench: TrainingBench) -> Version:
    return bench.train(SPEC, TABLE, name="flowers.csv")


def test_a_device_answers_each_label_as_the_source_model_does(
    bench: TrainingBench, version: Version
) -> None:
    assert ("ingest", "150 rows of 3 columns, 2 labels") in [
        (step, sentence.split("   ")[0]) for step, sentence in bench.heard.lines
    ]
    schema = ModelSchema.decode(bench.member(version, "schema.json"))
    assert schema.labels == (
        NamedLabel(name="kind", classes=("setosa", "versicolor", "virginica")),
        NamedLabel(name="is broad", classes=("no", "yes")),
    )
    (artifact,) = version.artifacts
    service = make_service()
    blob = bench.objects.read(artifact.package.sha256)
    service.activate("main", blob=blob, target=TARGET, sha256=artifact.package.sha256)
    packed = ROWS[:50].astype(np.float32)
    source = read_estimator(bench.objects.read(version.run["source_model"]))
    assert isinstance(source.steps[-1][1], MultiOutputClassifier)
    got = service.predict("main", packed).outputs
    np.testing.assert_array_equal(got["label"], source.predict(packed))
    shares = np.hstack(source.predict_proba(packed))
    np.testing.assert_allclose(got["probabilities"], shares, atol=2e-6)


def test_every_figure_is_the_mean_over_the_labels(bench: TrainingBench, version: Version) -> None:
    metric = json.loads(bench.member(version, EVIDENCE))["metric"]
    each = [metric["labels"][name]["shipped"] for name in ("kind", "is broad")]
    assert metric["shipped"] == pytest.approx(np.mean(each))
    assert version.metrics["accuracy"] == pytest.approx(metric["source"])
    both = metric["subset_accuracy"]["source"]
    assert version.metrics["subset_accuracy"] == pytest.approx(both)
    shipped = version.evaluation["shipped"]["camera"]
    assert [one["accuracy"] for one in shipped["labels"].values()] == pytest.approx(each)
    assert "targets" not in shipped
    confusion = version.evaluation["confusion"]
    assert {name: len(table) for name, table in confusion.items()} == {"kind": 3, "is broad": 2}
    assert version.evaluation["labels"]["is broad"] == ["no", "yes"]
    shares = version.run["split"]["train_shares"]
    assert [round(sum(own.values()), 6) for own in shares.values()] == [1, 1]


def test_builds_go_by_the_name_of_the_ladder_and_their_flips_are_counted(
    version: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    (artifact,) = version.artifacts
    package = replace(
        artifact.package,
        precision="int8_dynamic",
        decision="int8_weights: so much smaller",
        label_flips=0.0125,
    )
    print_builds(replace(version, artifacts=(replace(artifact, package=package),)))
    shown = capsys.readouterr().out
    assert "int8_weights" in shown
    assert "int8_dynamic" not in shown
    assert "1.25%" in shown


def test_the_example_of_two_labels_fits_the_table_of_its_script() -> None:
    found = importlib.util.spec_from_file_location("faults", EXAMPLE / "export_faults.py")
    assert found is not None
    assert found.loader is not None
    export = importlib.util.module_from_spec(found)
    found.loader.exec_module(export)
    spec = read_spec((EXAMPLE / "faults.toml").read_text())
    columns = export.faults_table(rows=300).to_pydict()
    words = {name: columns.pop(name) for name in ("fault", "urgent")}
    data = make_dataset(spec, raw_table(columns, words), source="faults.csv")
    assert [(label.name, label.classes) for label in data.labels] == [
        ("fault", ("bearing", "belt", "none", "winding")),
        ("urgent", ("later", "now")),
    ]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ensemble.RandomForestClassifier", "n_estimators = 4"),
        ("neural_network.MLPClassifier", "max_iter = 20"),
        ("ensemble.HistGradientBoostingClassifier", "max_iter = 4"),
    ],
)
def test_what_learns_labels_together_is_left_to_it(
    bench: TrainingBench, name: str, params: str
) -> None:
    flags = TABLE.set_column(3, "kind", pa.array((ANSWERS[:, 0] == "setosa").astype(int).tolist()))
    short = name.rpartition(".")[2]
    changes = {
        "linear_model.LogisticRegression": name,
        "max_iter = 300": params,
        'name = "flowers"': f'name = "{short.lower()}"',
        "floor = 0.5": "floor = 0.2",
        "floor = 0.3": "floor = 0.0",
    }
    made = bench.train(edit(SPEC, changes), flags, name="flowers.csv")
    source = read_estimator(bench.objects.read(made.run["source_model"])).steps[-1][1]
    shipped = made.evaluation["shipped"]["camera"]["metrics"]
    for metric, value in made.metrics.items():
        assert value == pytest.approx(shipped[metric]["value"], abs=1e-4)
    wrapped = isinstance(source, MultiOutputClassifier)
    assert wrapped is (short == "HistGradientBoostingClassifier")


def test_a_champion_of_other_labels_is_not_compared(bench: TrainingBench, version: Version) -> None:
    bench.crown("flowers", version.number)
    turned = edit(
        SPEC,
        {'["kind", "is broad"]': '["is broad", "kind"]', "seed = 3": "seed = 3\nfreeze = false"},
    )
    compared = edit(turned, {"{ floor = 0.5 }": "{ floor = 0.5, regression_max = 0.1 }"})
    made = bench.train(compared, TABLE, name="flowers.csv")
    assert "it answers other labels" in str(made.evaluation)


# Reading ------------------------------------------------------------------------------------------


def words_of(text: str, **columns: list[str]) -> None:
    numbers = {"x": [float(n) for n in range(len(next(iter(columns.values()))))]}
    make_dataset(read_spec(text), raw_table(numbers, columns), source="rows.csv")


def test_a_label_without_anything_to_learn_is_named() -> None:
    text = edit(value_spec(task="classification"), {'"t"': '["t", "u"]'})
    with pytest.raises(RefusedError, match="target 'u' has one class only"):
        words_of(text, t=["a", "b"], u=["no", "no"])
    with pytest.raises(RefusedError, match="column 'u': 1 of 2 values are missing"):
        words_of(text, t=["a", "b"], u=["no", ""])


def test_rows_of_a_class_that_are_all_held_out_are_named_with_the_label() -> None:
    text = edit(value_spec(task="classification"), {'"t"': '["t", "u"]'})
    columns = {"t": ["a", "b"] * 10, "u": ["rare"] + ["no", "yes"] * 9 + ["no"]}
    table = raw_table({"x": [float(n) for n in range(20)]}, columns)
    dataset = make_dataset(read_spec(text), table, source="rows.csv")
    assert dataset.targets.shape == (20, 2)
    words = "class 'rare' of 'u' has 1 row, all held out"
    for seed in range(40):
        try:
            split_rows(dataset, SplitSection(test=0.5, seed=seed))
        except RefusedError as error:
            assert words in str(error)  # noqa: PT017 - one of the seeds holds it out
            return
    pytest.fail("no seed held the only row out")


def test_metrics_of_several_labels_agree_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels = (
        NamedLabel(name="a", classes=("0", "1", "2")),
        NamedLabel(name="b", classes=("0", "1")),
    )
    truth = np.column_stack([draw.integers(0, 3, 60), draw.integers(0, 2, 60)])
    shares = np.hstack([draw.dirichlet(np.ones(3), 60), draw.dirichlet(np.ones(2), 60)])
    told = np.column_stack([shares[:, :3].argmax(1), shares[:, 3:].argmax(1)])
    found = measure_all(Task.CLASSIFICATION, truth, Answers.of_classes(told, shares), labels)
    columns = [
        (truth[:, n], told[:, n], own) for n, own in enumerate((shares[:, :3], shares[:, 3:]))
    ]
    assert found["accuracy"] == pytest.approx((truth == told).mean())
    assert found["subset_accuracy"] == pytest.approx(
        oracle.accuracy_score(truth > 0, told > 0)
    ) or (found["subset_accuracy"] == pytest.approx((truth == told).all(axis=1).mean()))
    assert found["log_loss"] == pytest.approx(
        np.mean([oracle.log_loss(true, own) for true, _, own in columns])
    )
    assert found["f1_macro"] == pytest.approx(
        np.mean([oracle.f1_score(true, guess, average="macro") for true, guess, _ in columns])
    )
    assert "subset_accuracy" not in list_metrics(Task.CLASSIFICATION)
    assert METRICS["subset_accuracy"].needs_labels


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({'target = ["kind", "is broad"]': 'target = "kind"'}, "judges several labels together"),
        (
            {'["kind", "is broad"]': str([f"l{n}" for n in range(65)]).replace("'", '"')},
            "names 65 labels, at most 64",
        ),
    ],
)
def test_what_several_labels_do_not_go_with_is_said(changes: dict[str, str], words: str) -> None:
    with pytest.raises(Exception, match=words):
        read_spec(edit(SPEC, changes))
