"""Several labels out of one model: every way to make one, to a package that a device serves."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from converters.build import build_package
from converters.distil import distil
from converters.errors import InvalidRequestError, UnsupportedEstimatorError
from converters.evidence import read_evidence
from converters.merge_graphs import merge_graphs
from converters.normalise import normalise
from converters.parity import compare_outputs
from converters.request import BuildRequest, BuiltPackage, Effort
from converters.runtime import GraphRunner
from converters.sources import make_source
from converters.table_feed import TableModel
from device_profiles.catalog import load_profile
from edge_agent.contract.package import EVIDENCE, MODEL, SCHEMA, unpack_members
from edge_agent.contract.schema import Dtype, Feature, ModelSchema
from edge_agent.statistics.packed_texts import pack_text
from tests.support.convert import QUICK, fit_quietly, schema_of
from tests.support.labels import labels_schema, load_flowers, name_labels, renamed
from tests.support.serving import BuiltPackage as ServedPackage
from tests.support.serving_http import serving

Array = NDArray[Any]
SERVER = load_profile("onprem-server")
ROWS, ANSWERS = load_flowers()
CODES = np.column_stack([np.unique(one, return_inverse=True)[1] for one in ANSWERS.T])
FLAGS = np.column_stack([ANSWERS[:, 0] == "setosa", ANSWERS[:, 1] == "yes"]).astype(int)
LOGISTIC = LogisticRegression(max_iter=200)
CASES: dict[str, tuple[Any, Array]] = {
    "one each": (MultiOutputClassifier(LOGISTIC), ANSWERS),
    "behind a scaler": (
        make_pipeline(
            StandardScaler(),
            MultiOutputClassifier(RandomForestClassifier(n_estimators=3, random_state=0)),
        ),
        ANSWERS,
    ),
    "a tree": (DecisionTreeClassifier(random_state=0), ANSWERS),
    "a forest": (
        make_pipeline(StandardScaler(), ExtraTreesClassifier(n_estimators=4, random_state=0)),
        ANSWERS,
    ),
    "neighbours": (KNeighborsClassifier(), ANSWERS),
    "a network": (MLPClassifier((8,), max_iter=60, random_state=0), FLAGS),
    "against the rest": (OneVsRestClassifier(LOGISTIC), FLAGS),
    "linear, labels alone": (RidgeClassifier(), FLAGS),
    "each label alone": (MultiOutputClassifier(LinearSVC(random_state=0)), ANSWERS),
    "a chain": (ClassifierChain(LOGISTIC, order=[1, 0]), CODES),
    "a chain of probabilities": (
        make_pipeline(
            StandardScaler(), ClassifierChain(LOGISTIC, order=[1, 0], chain_method="predict_proba")
        ),
        FLAGS,
    ),
    "a chain of pipelines": (
        ClassifierChain(make_pipeline(StandardScaler(), LOGISTIC), order=[1, 0]),
        FLAGS,
    ),
    "a chain of labels alone": (ClassifierChain(LinearSVC(random_state=0)), FLAGS + 3),
}


def fit(name: str) -> tuple[Any, Array, ModelSchema]:
    estimator, answers = CASES[name]
    fitted = fit_quietly(estimator, ROWS[:100], answers[:100])
    is_label_only = not hasattr(fitted, "predict_proba")
    labels = name_labels(answers, is_label_only=is_label_only)
    return fitted, answers, labels_schema(labels, ROWS.shape[1])


@pytest.mark.parametrize("name", list(CASES))
def test_a_converted_model_answers_every_label_as_scikit_learn(name: str) -> None:
    estimator, answers, schema = fit(name)
    source, rows = make_source(estimator, schema), ROWS[100:].astype(np.float32)
    done = source.convert(schema, SERVER, rows)
    got = GraphRunner(normalise(done.model, SERVER), SERVER).run(rows)
    wide = rows.astype(np.float64)
    told = np.asarray(estimator.predict(wide))
    names = [
        [label.classes[n] for n in column]
        for label, column in zip(schema.labels, got["label"].T, strict=True)
    ]
    assert np.array_equal(np.array(names).T, told.astype(answers.dtype).astype(str))
    if hasattr(estimator, "predict_proba"):
        given = estimator.predict_proba(wide) if name != "a chain" else None
        if isinstance(given, list):
            np.testing.assert_allclose(got["probabilities"], np.hstack(given), atol=2e-6)
        elif given is not None:  # of two classes each, the second
            np.testing.assert_allclose(got["probabilities"][:, 1::2], given, atol=2e-6)
    parity = compare_outputs(schema.task, source.answer(rows), got, labels=schema.labels)
    assert (parity.flips, parity.rows_off) == (0, 0)
    assert done.tries[-1].is_exact


def test_what_labels_have_in_common_is_in_the_graph_once() -> None:
    steps = make_pipeline(StandardScaler(), MultiOutputClassifier(LOGISTIC))
    estimator = fit_quietly(steps, ROWS[:100], ANSWERS[:100])
    schema = labels_schema(name_labels(ANSWERS), 3)
    model = make_source(estimator, schema).convert(schema, SERVER).model
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Scaler"), kinds.count("LinearClassifier")) == (1, 2)
    again = make_source(estimator, schema).convert(schema, SERVER).model
    assert normalise(model, SERVER) == normalise(again, SERVER)


def test_merged_graphs_must_read_the_same_rows() -> None:
    estimator, _, schema = fit("one each")
    one = make_source(estimator, schema).convert(schema, SERVER).model
    other = ModelProto.FromString(one.SerializeToString())
    other.graph.input[0].name = "elsewhere"
    with pytest.raises(ValueError, match="part 1 reads"):
        merge_graphs([one, other])


def test_texts_that_differ_stay_apart_whatever_is_in_them() -> None:
    def name_classes(*texts: bytes) -> ModelProto:
        names = TensorProto(name="names", data_type=TensorProto.STRING, dims=[len(texts)])
        names.string_data.extend(texts)
        rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])
        told = helper.make_tensor_value_info("y", TensorProto.STRING, [len(texts)])
        node = helper.make_node("Identity", ["names"], ["y"])
        graph = helper.make_graph([node], "g", [rows], [told], [names])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

    apart, _ = merge_graphs([name_classes(b"a\0b", b"c"), name_classes(b"a", b"b\0c")])
    assert len(apart.graph.initializer) == 2
    alike, outputs = merge_graphs([name_classes(b"a"), name_classes(b"a")])
    assert (len(alike.graph.initializer), outputs[0]) == (1, outputs[1])


def test_a_table_of_words_and_categories_is_unpacked_for_every_label() -> None:
    draw = np.random.default_rng(1)
    colours, words = ("blue", "green", "red"), ("loud", "ok", "pump", "smoke")
    codes, numbers = draw.integers(0, 3, 200), draw.normal(size=200)
    notes = [" ".join(words[n] for n in draw.integers(0, 4, 3)) for _ in range(200)]
    table = np.empty((200, 3), object)
    table[:, 0], table[:, 1] = [colours[n] for n in codes], numbers
    table[:, 2] = notes
    answers = np.column_stack(
        [np.where(codes == 2, "x", np.where(numbers > 0, "y", "z")), ["smoke" in n for n in notes]]
    )
    parts = [("c", OneHotEncoder(), [0]), ("n", StandardScaler(), [1]), ("t", CountVectorizer(), 2)]
    steps = make_pipeline(
        ColumnTransformer(parts, sparse_threshold=0), MultiOutputClassifier(LOGISTIC)
    )
    model = fit_quietly(steps, table[:150], answers[:150])
    features = (
        Feature(name="colour", dtype=Dtype.CATEGORY, categories=colours),
        Feature(name="number"),
        Feature(name="note", dtype=Dtype.TEXT, chars_max=24),
    )
    schema = replace(labels_schema(name_labels(answers), 3), features=features)
    packed = np.zeros((200, schema.width))
    packed[:, 0], packed[:, 1] = codes, numbers
    for row, note in zip(packed, notes, strict=True):
        pack_text(row[2:], note)
    held = packed[150:].astype(np.float32)
    done = make_source(TableModel(estimator=model), schema).convert(schema, SERVER, held)
    assert done.tries[-1].is_exact
    got = GraphRunner(normalise(done.model, SERVER), SERVER).run(held)["label"]
    told = [[one.classes[n] for n in own] for one, own in zip(schema.labels, got.T, strict=True)]
    assert np.array_equal(np.array(told).T, model.predict(table[150:]))


@pytest.mark.parametrize("is_of_trees", [True, False])
def test_a_student_learns_every_label(is_of_trees: bool) -> None:
    estimator, _, schema = fit("one each")
    rows = ROWS.astype(np.float32)
    taught = make_source(estimator, schema).answer(rows)
    model = distil(schema, SERVER, rows, taught, is_of_trees=is_of_trees)
    got = GraphRunner(normalise(model, SERVER), SERVER).run(rows)
    assert got["probabilities"].shape == (150, 5)
    np.testing.assert_allclose(got["probabilities"][:, :3].sum(axis=1), 1, atol=1e-5)
    assert np.all((got["label"] == taught["label"]).mean(axis=0) > 0.8)
    with pytest.raises(InvalidRequestError, match="never answers some classes"):
        distil(schema, SERVER, rows, {"label": taught["label"] * [1, 0]}, is_of_trees=True)


@pytest.fixture(scope="module")
def built() -> BuiltPackage:
    estimator = fit_quietly(MultiOutputClassifier(LOGISTIC), ROWS[:100], ANSWERS[:100])
    labels = renamed(name_labels(ANSWERS), "kind", "is broad")
    return build_package(
        BuildRequest(
            estimator=estimator,
            schema=labels_schema(labels, 3),
            profile=SERVER,
            calibration=ROWS[:100],
            holdout=ROWS[100:],
            holdout_targets=ANSWERS[100:],
            plan=QUICK,
            effort=Effort.BRIEF,
        )
    )


def test_the_agent_answers_over_http_as_scikit_learn_does(built: BuiltPackage) -> None:
    estimator = fit_quietly(MultiOutputClassifier(LOGISTIC), ROWS[:100], ANSWERS[:100])
    rows = ROWS[100:].astype(np.float32)
    served = ServedPackage(blob=built.blob, sha256=built.sha256, schema=built.schema, rows=rows)
    with serving(served) as world:
        named = [dict(zip(("x0", "x1", "x2"), map(float, row), strict=True)) for row in rows]
        _, told = world.ask("/v1/models/main/predict", {"rows": named})
    wanted = estimator.predict(rows.astype(np.float64))
    shares = estimator.predict_proba(rows.astype(np.float64))
    for n, answer in enumerate(told["predictions"]):
        assert answer["class"] == {"kind": wanted[n, 0], "is broad": wanted[n, 1]}
        for place, label in enumerate(built.schema.labels):
            got = [answer["probabilities"][label.name][name] for name in label.classes]
            np.testing.assert_allclose(got, shares[place][n], atol=2e-6)


def test_the_evidence_has_the_metric_parity_and_confusion_of_each_label(
    built: BuiltPackage,
) -> None:
    evidence = read_evidence(unpack_members(built.blob)[EVIDENCE])
    metric = evidence["metric"]
    each = [metric["labels"][name]["shipped"] for name in ("kind", "is broad")]
    assert metric["shipped"] == pytest.approx(np.mean(each))
    hits = metric["subset_accuracy"]["shipped"]
    assert hits <= min(each)
    assert [one["label"] for one in evidence["parity"]["labels"]] == ["kind", "is broad"]
    confusion = evidence["confusion"]["labels"]
    assert [len(confusion[name]) for name in ("kind", "is broad")] == [3, 2]
    assert sum(map(sum, confusion["kind"])) == len(ROWS) - 100
    schema = json.loads(unpack_members(built.blob)[SCHEMA])
    assert (schema["format"], schema["classes"]) == (5, [])
    assert MODEL in unpack_members(built.blob)


# Refusals -----------------------------------------------------------------------------------------


def schema_for(answers: Array, count: int | None = None) -> ModelSchema:
    return labels_schema(name_labels(answers)[:count], 3)


def convert(estimator: Any, schema: ModelSchema, answers: Array = ANSWERS) -> Any:
    fitted = fit_quietly(estimator, ROWS[:100], answers[:100])
    return make_source(fitted, schema).convert(schema, SERVER, ROWS[100:])


@pytest.mark.parametrize(
    ("estimator", "answers", "words"),
    [
        (
            RadiusNeighborsClassifier(9),
            ANSWERS,
            "RadiusNeighborsClassifier .* inside MultiOutputClassifier",
        ),
        (XGBClassifier(n_estimators=1, n_jobs=1), FLAGS, "MultiOutputClassifier.XGBClassifier"),
        (
            ClassifierChain(LOGISTIC, chain_method="decision_function"),
            FLAGS,
            "fed the decision_function of those before",
        ),
        (OneVsRestClassifier(LOGISTIC), FLAGS * [1, 0], "label 2 was 0 in every training row"),
        (DecisionTreeClassifier(), CODES * [0, 1], "label 1 was 0 in every training row"),
    ],
)
def test_what_has_no_graph_is_refused_with_the_way_out(
    estimator: Any, answers: Array, words: str
) -> None:
    schema = schema_for(np.where(answers.any(axis=0), answers, FLAGS))
    with pytest.raises(UnsupportedEstimatorError, match=words):
        convert(estimator, schema, answers)


def test_a_schema_of_other_labels_is_refused() -> None:
    tree = DecisionTreeClassifier()
    three = labels_schema([*name_labels(ANSWERS), *renamed(name_labels(FLAGS), "a", "b")], 3)
    with pytest.raises(UnsupportedEstimatorError, match="2 labels a row, the schema has 4"):
        convert(tree, three)
    with pytest.raises(
        InvalidRequestError, match="'l0' of the model has 3 classes, of the schema 2"
    ):
        convert(tree, schema_for(FLAGS))
    turned = schema_for(ANSWERS[:, ::-1])
    with pytest.raises(InvalidRequestError, match="has 3 classes, of the schema 2"):
        convert(tree, turned)
    with pytest.raises(UnsupportedEstimatorError, match="declares label 'l0' alone"):
        convert(tree, labels_schema(name_labels(ANSWERS, is_label_only=True), 3))
    with pytest.raises(UnsupportedEstimatorError, match=r"several labels a row\. Name them"):
        convert(tree, schema_of(3, ("a", "b")))
