"""A spec is read whole, or every problem is named at once with its line."""

import re
from pathlib import Path

import pytest

from edge_agent.contract.schema import Feature, Task
from fleet_server.training.estimators import CLASSIFIERS, REGRESSORS, STEPS
from fleet_server.training.spec import MetricLimit, ProfileLimit, make_schema
from fleet_server.training.spec_keys import KNOWN, LATER
from fleet_server.training.spec_parser import SPEC_BYTES_MAX, parse_spec
from fleet_server.training.spec_problems import PROBLEMS_SHOWN_MAX, SpecError
from tests.support.training import DIGITS_SPEC, PROFILES, edit, value_spec


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, source="x.toml", profiles=PROFILES)
    return [f"{line}: {say}" for line, say in caught.value.problems]


def test_the_example_is_read_as_written() -> None:
    spec = parse_spec(DIGITS_SPEC, source="digits.toml", profiles=PROFILES)
    assert (spec.model.name, spec.model.task) == ("digits", Task.CLASSIFICATION)
    assert spec.model.business is not None
    assert spec.model.business.target == 4.0
    assert (spec.data.path, spec.data.target) == ("digits.csv", "digit")
    assert spec.data.features == (Feature(name="pixels", shape=(8, 8), low=0.0, high=16.0),)
    assert spec.data.columns[:2] == ("pixels_0", "pixels_1")
    assert (spec.split.test, spec.split.seed, spec.split.is_frozen) == (0.3, 7, True)
    assert spec.train.params["hidden_layer_sizes"] == (64,)
    assert [step.use for step in spec.train.steps] == ["sklearn.preprocessing.StandardScaler"]
    assert spec.metrics == (
        MetricLimit(name="accuracy", floor=0.94, regression_max=0.01),
        MetricLimit(name="log_loss", ceiling=0.3),
    )
    assert spec.profiles == (
        ProfileLimit(
            profile="camera",
            latency_ms_p95_max=500.0,
            package_bytes_max=500_000,
            metric_drop_max=0.005,
        ),
    )
    assert make_schema(spec, ("0", "1")).outputs[1].name == "probabilities"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"digits"\n', '"Digits"\n', "3: model.name: 'Digits' must match"),
        ('name = "digits"\n', "", "2: model.name: missing"),
        ('"classification"', '"anomaly"', "4: model.task: 'anomaly' is not supported by this ver"),
        ('"classification"', '"clasification"', "did you mean classification?"),
        ('"Read the digit in an 8x8 crop."', '" "', "5: model.problem: is empty"),
        ("baseline = 8.1, ", "", "7: model.business.baseline: missing"),
        ("target = 4.0", 'target = "low"', "7: model.business.target: must be a number, got 'low'"),
        ('"file:digits.csv"', '"sql:rows"', "10: data.source: 'sql:' is not supported by this ver"),
        ('"file:digits.csv"', '"sklearn:digits"', "examples/digits/export_digits.py"),
        ('"file:digits.csv"', '"digits.csv"', 'must be "file:PATH"'),
        ('"file:digits.csv"', '"file:"', 'must be "file:PATH"'),
        ('target = "digit"', 'target = "pixels_3"', "is also data.target"),
        ('target = "digit"', 'target = ["digit", "pixels_3"]', "is also data.target"),
        ('target = "digit"', 'target = ["digit", "a", "digit"]', "names 'digit' twice"),
        ('target = "digit"', 'target = ["digit"]', "is a list of one; say target = 'digit'"),
        ('target = "digit"', 'target = ["a", "b", "a"]', "11: data.target: names 'a' twice"),
        ('target = "digit"', "target = []", "11: data.target: names no column"),
        ('target = "digit"', 'target = ["a", 3]', "data.target: 3 is no name of a column"),
        ('target = "digit"', f"target = {[str(n) for n in range(257)]}", "257 items, at most 256"),
        ('"float32"', '"text"', "13: data.features.pixels.shape: a text has none"),
        ('"float32"', '"float64"', "float64 travels as float32"),
        ('type = "float32", ', "", "13: data.features.pixels.type: missing"),
        ("[8, 8]", "[8, 0]", "13: data.features.pixels.shape: 0 is not a whole number"),
        ("[8, 8]", "[2048, 1024]", "has 2097152 values, at most 1048576"),
        ("[0, 16]", "[16, 0]", "13: data.features.pixels: range [16, 0] is empty"),
        ("[0, 16]", "[0, 1e39]", "is beyond what float32 holds"),
        ("[0, 16]", "[nan, 16]", "must be [smallest, largest]"),
        ("range = [0, 16]", "range = [0, 16], min = 1", "choose one"),
        ("range = [0, 16]", "range = [0, 16], nulls_max = 0.1", "nulls_max: not supported by this"),
        ("range = [0, 16]", 'range = [0, 16], missing = "maybe"', "'maybe' is not one of"),
        ("range = [0, 16]", 'range = [0, 16], unknown = "other"', "unknown: a float32 has none"),
        ("range = [0, 16]", "rnge = [0, 16]", "data.features.pixels.rnge: unknown key; did you"),
        ("test = 0.30", "test = 20", "16: split.test: 20 must lie between 0 and 1"),
        ("test = 0.30", "test = 1", "16: split.test: 1 leaves one side empty"),
        ("test = 0.30", "test = nan", "16: split.test: must be a number"),
        ("seed = 7", "seed = -1", "17: split.seed: must be a whole number from 0"),
        ("seed = 7", "seed = true", "17: split.seed: must be a whole number from 0"),
        ("freeze = true", "freeze = 1", "18: split.freeze: must be true or false, got 1"),
        ("freeze = true", 'by = "time"', "18: split.by: not supported by this version"),
        ("sklearn.neural_network.MLP", "os.", "21: train.estimator: 'os.Classifier' is not supp"),
        ("neural_network.MLPClassifier", "neural_network.MLPRegressor", "does not answer a class"),
        ("neural_network.MLPClassifier", "svm.SVC", "SVC is refused: it gives no probabilities"),
        ("neural_network.MLPClassifier", "neural_network.MLPClasifier", "did you mean sklearn.neu"),
        ("max_iter", "max_itr", "22: train.params.max_itr: MLPClassifier has no such parameter; d"),
        ("preprocessing.StandardScaler", "preprocessing.KBinsDiscretizer", "into other bins"),
        ("params = {", "paramz = {", "22: train.paramz: unknown key; did you mean params?"),
        ("steps = [{ use", "steps = [{ usee", "23: train.steps.0.use: missing"),
        ('primary = "accuracy"', 'primary = "f1_macro"', "add [metrics.f1_macro] with a floor"),
        ('primary = "accuracy"', 'primary = "acuracy"', "no metric; did you mean accuracy?"),
        ("floor = 0.94", "ceiling = 0.94", "27: metrics.accuracy: larger is better, so it takes a"),
        ("floor = 0.94", "floor = inf", "27: metrics.accuracy.floor: must be a number"),
        ("floor = 0.94", "floor = 94", "27: metrics.accuracy.floor: 94 must lie at or below 1"),
        ("log_loss = { ceiling", "rmse = { ceiling", "28: metrics.rmse: does not judge a classif"),
        ("log_loss = { ceiling", "cost = { ceiling", "28: metrics.cost: not supported by this"),
        (
            "regression_max = 0.01",
            "regression_max = -1",
            "regression_max: -1 must lie at or above 0",
        ),
        ("camera = {", "camra = {", "31: profiles.camra: no such profile; did you mean camera?"),
        ("package_bytes_max = 500_000", "package_bytes_max = 12", "12 must lie between 1024"),
        ("signatures = 1", "signatures = 2", "34: approval.signatures: 2 is not supported"),
        ("[approval]", "[retrain]", "33: retrain: not supported by this version"),
        ("[approval]", "[aproval]", "33: aproval: unknown key; did you mean approval?"),
        ("[approval]", "approval = 3 # ", "must be a table, got 3"),
    ],
)
def test_a_fault_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    if new.startswith("approval = 3"):
        text = "approval = 3\n" + DIGITS_SPEC.split("[approval]")[0]
    else:
        text = edit(DIGITS_SPEC, {old: new})
    assert any(expected in say for say in problems(text)), problems(text)


def test_all_problems_come_at_once_in_the_order_of_the_lines() -> None:
    text = edit(DIGITS_SPEC, {"seed = 7": "sed = 7", "floor = 0.94": 'floor = "x"', "0, 16": "0"})
    found = problems(text)
    assert [int(say.split(":")[0]) for say in found] == [13, 17, 27]


def test_what_is_not_toml_is_named_with_its_line() -> None:
    assert problems(DIGITS_SPEC + "[data\n")[0].startswith("35: not TOML")


def test_an_empty_file_says_what_every_spec_needs() -> None:
    assert [say.split(" ")[1] for say in problems("")] == [
        "data.features:", "data.source:", "data.target:", "metrics.primary:", "model.name:",
        "model.problem:", "model.task:", "profiles:", "train.estimator:",
    ]  # fmt: skip


def test_size_and_shown_problems_are_bounded() -> None:
    assert "larger than" in problems("#" * (SPEC_BYTES_MAX + 1))[0]
    many = "".join(f"key_{n} = 1\n" for n in range(PROBLEMS_SHOWN_MAX + 5))
    with pytest.raises(SpecError, match="and 14 more"):
        parse_spec(many, source="x", profiles=PROFILES)


def test_the_message_reads_as_a_list() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(
            edit(DIGITS_SPEC, {"seed = 7": "sed = 7"}), source="digits.toml", profiles=PROFILES
        )
    assert str(caught.value) == (
        "digits.toml: 1 problem\n  line 17: split.sed: unknown key; did you mean seed?"
    )


@pytest.mark.parametrize(
    ("table", "key"), [(table, key) for table, keys in LATER.items() for key in keys]
)
def test_every_later_key_is_refused_by_name(table: str, key: str) -> None:
    place = {
        "data.features.*": ("range = [0, 16]", f"range = [0, 16], {key} = 1"),
        "train.steps.*": ("steps = [{ use", f"steps = [{{ {key} = 1, use"),
        "metrics.*": ("floor = 0.94", f"floor = 0.94, {key} = 1"),
        "": ("# A camera reads single digits.", f"{key} = 1"),
        "family": ("[approval]\n", f"[family]\n{key} = 1\n[approval]\n"),
    }.get(table, (f"[{table}]\n", f"[{table}]\n{key} = 1\n"))
    said = [say for say in problems(edit(DIGITS_SPEC, dict([place]))) if key in say]
    assert "not supported by this version" in said[0]


def test_no_key_is_both_known_and_later() -> None:
    assert not [(t, k) for t, keys in LATER.items() for k in keys if k in KNOWN.get(t, ())]


def test_every_known_key_is_documented() -> None:
    page = Path(__file__).parents[3] / "docs" / "spec.md"
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    spans = " ".join(re.findall(r"`([^`]+)`", text))
    words = set(re.findall(r"[a-z_0-9]+", spans))
    missing = {key for keys in KNOWN.values() for key in keys} - words
    assert not missing


def test_every_estimator_and_step_is_documented() -> None:
    words = set(re.findall(r"\w+", (Path(__file__).parents[3] / "docs" / "spec.md").read_text()))
    names = {name.rpartition(".")[2] for name in CLASSIFIERS | REGRESSORS | STEPS}
    assert not names - words


def test_members_of_a_family_may_answer_several_labels() -> None:
    text = edit(
        value_spec(task="classification"),
        {
            '"t"': '["t", "u"]',
            '"small"': '"small-{site}"',
            "[split]": '[family]\npartition = "site"\n[split]',
        },
    )
    assert parse_spec(text, source="x", profiles=PROFILES).data.targets == ("t", "u")


def test_a_range_is_never_narrowed_by_float32() -> None:
    text = edit(DIGITS_SPEC, {"[0, 16]": "[0.1, 0.7]"})
    feature = parse_spec(text, source="x", profiles=PROFILES).data.features[0]
    assert feature.low is not None
    assert feature.high is not None
    assert feature.low <= 0.1
    assert feature.high >= 0.7
    assert feature.high - feature.low == pytest.approx(0.6, abs=1e-6)


def test_whole_numbers_beyond_float32_are_refused() -> None:
    text = edit(DIGITS_SPEC, {'"float32"': '"int64"', "[0, 16]": "[0, 16777217]"})
    assert "beyond 16777216" in problems(text)[0]


def test_columns_of_two_features_may_not_collide() -> None:
    text = edit(
        DIGITS_SPEC, {"[data.features]\n": '[data.features]\npixels_3 = { type = "int64" }\n'}
    )
    assert "also belongs to feature 'pixels_3'" in problems(text)[0]


def test_a_regression_takes_its_own_metrics_only() -> None:
    text = edit(
        DIGITS_SPEC,
        {
            '"classification"': '"regression"',
            "neural_network.MLPClassifier": "linear_model.Ridge",
            "{ hidden_layer_sizes = [64], max_iter = 60, random_state = 0 }": "{ alpha = 1.0 }",
            'primary = "accuracy"': 'primary = "mae"',
            "accuracy = { floor = 0.94": "mae = { ceiling = 3",
            "log_loss = { ceiling = 0.30 }": "",
            "metric_drop_max = 0.005": "label_flips_max = 0.1",
        },
    )
    assert [say.split(" ", 1)[1] for say in problems(text)] == [
        "profiles.camera.label_flips_max: a regression has no labels; use metric_drop_max"
    ]
