"""Smaller models: what is cut is what was said, and the numbers are those of the smaller model."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from converters.distil import distil
from converters.errors import InvalidRequestError
from converters.from_sklearn import SklearnSource
from converters.graph import parse_model
from converters.normalise import normalise
from converters.request import BuildRequest
from converters.runtime import GraphRunner
from converters.shrink_trees import shrink_trees
from converters.smaller_networks import list_network_cuts, narrow_network
from converters.smaller_trees import find_first_stages, list_tree_cuts
from converters.tree_arrays import find_leaves, read_trees
from edge_agent.contract.schema import Task
from tests.support.convert import request_of

Array = NDArray[Any]


def convert(estimator: Any, table: str) -> tuple[BuildRequest, bytes]:
    request = request_of(estimator, table, is_float32=True)
    source = SklearnSource(request.estimator, request.schema.task, is_fed_float32=True)
    model = source.convert(request.schema, request.profile).model
    shrink_trees(model)
    return request, normalise(model, request.profile)


def answer(content: bytes, request: BuildRequest) -> Array:
    outputs = GraphRunner(content, request.profile).run(request.holdout)
    return outputs["probabilities"] if "probabilities" in outputs else outputs["value"]


def cut(request: BuildRequest, fp32: bytes, name: str, share: float) -> bytes:
    return list_tree_cuts(fp32, request.calibration, request.profile)[name](share)


# Trees


def test_half_of_a_boosted_classifier_is_its_first_stages_exactly() -> None:
    request, fp32 = convert(GradientBoostingClassifier(n_estimators=10, random_state=0), "wine")
    small = cut(request, fp32, "fewer_trees", 0.5)
    stages = list(request.estimator.staged_predict_proba(request.holdout))
    np.testing.assert_allclose(answer(small, request), stages[4], atol=1e-6)
    assert len(small) < 0.6 * len(fp32)


def test_half_of_a_boosted_regressor_is_its_first_stages_exactly() -> None:
    request, fp32 = convert(GradientBoostingRegressor(n_estimators=20, random_state=0), "diabetes")
    stages = list(request.estimator.staged_predict(request.holdout))
    for share, count in ((0.5, 10), (0.25, 5)):
        small = cut(request, fp32, "fewer_trees", share)
        np.testing.assert_allclose(answer(small, request), stages[count - 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("estimator", "table"),
    [
        (RandomForestClassifier(8, random_state=0), "wine"),
        (RandomForestRegressor(8, random_state=0), "diabetes"),
    ],
)
def test_half_of_a_forest_is_the_mean_of_its_first_trees(estimator: Any, table: str) -> None:
    request, fp32 = convert(estimator, table)
    trees = request.estimator.estimators_[:4]
    ask = "predict_proba" if table == "wine" else "predict"
    expected = np.mean([getattr(tree, ask)(request.holdout) for tree in trees], axis=0)
    small = cut(request, fp32, "fewer_trees", 0.5)
    np.testing.assert_allclose(answer(small, request), expected, rtol=1e-5, atol=1e-6)


def test_every_row_meets_the_leaf_that_scikit_learn_says() -> None:
    request, fp32 = convert(RandomForestClassifier(5, random_state=0), "wine")
    model = parse_model(fp32, what="it")
    trees = read_trees(next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble")))
    leaves = find_leaves(trees, request.holdout.astype(np.float32))
    votes = trees.weights[leaves].sum(axis=1)
    expected = request.estimator.predict_proba(request.holdout)
    np.testing.assert_allclose(votes, expected, atol=1e-6)


def test_missing_values_go_the_way_they_were_trained_to_go() -> None:
    request, _ = convert(HistGradientBoostingClassifier(max_iter=5), "cancer")
    rows = request.calibration.astype(np.float32).copy()
    rows[::2, ::3] = np.nan
    is_low = np.isnan(rows[:, 0]) | (rows[:, 0] < 12)  # missing values go left
    fitted = HistGradientBoostingClassifier(max_iter=5).fit(rows, is_low)
    source = SklearnSource(fitted, Task.CLASSIFICATION, is_fed_float32=True)
    model = source.convert(request.schema, request.profile).model
    trees = read_trees(next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble")))
    raw = trees.weights[find_leaves(trees, rows)].sum(axis=1)[:, 0]
    raw += trees.attributes["base_values"][0]
    np.testing.assert_allclose(raw, fitted.decision_function(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pruned_trees", "shallower_trees"])
def test_branches_cut_answer_the_mean_of_what_they_answered(name: str) -> None:
    request, fp32 = convert(RandomForestClassifier(10, random_state=0), "digits")
    sizes, errors = [len(fp32)], [0.0]
    whole = answer(fp32, request)
    for share in (0.75, 0.5, 0.25):
        small = cut(request, fp32, name, share)
        got = answer(small, request)
        np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
        sizes.append(len(small))
        errors.append(float(np.mean(np.abs(got - whole))))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)


def test_pruning_keeps_more_of_the_answers_than_cutting_at_a_depth() -> None:
    request, fp32 = convert(RandomForestClassifier(10, random_state=0), "digits")
    whole = answer(fp32, request)
    shallow = cut(request, fp32, "shallower_trees", 0.35)
    pruned = cut(request, fp32, "pruned_trees", 0.25)
    errors = [float(np.mean(np.abs(answer(one, request) - whole))) for one in (pruned, shallow)]
    assert errors[0] < errors[1]


def test_an_ensemble_of_several_nodes_is_cut_in_each() -> None:
    request, fp32 = convert(BaggingClassifier(n_estimators=3, random_state=0), "wine")
    cuts = list_tree_cuts(fp32, request.calibration, request.profile)
    assert set(cuts) == {"pruned_trees", "shallower_trees"}
    assert len(cuts["pruned_trees"](0.3)) < len(fp32)


def test_a_stage_of_several_classes_is_never_torn() -> None:
    _, fp32 = convert(GradientBoostingClassifier(n_estimators=4, random_state=0), "wine")
    model = parse_model(fp32, what="it")
    trees = read_trees(next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble")))
    assert trees.count == 12
    assert find_first_stages(trees, 0.5).tolist() == list(range(6))
    assert find_first_stages(trees, 0.01).tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", ["loop", "stranger"])
def test_what_is_no_tree_is_not_cut(damage: str) -> None:
    request, fp32 = convert(RandomForestClassifier(2, random_state=0), "wine")
    model = ModelProto.FromString(fp32)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_truenodeids" and damage == "loop":
                attribute.ints[1] = 0
            if attribute.name == "class_nodeids" and damage == "stranger":
                attribute.ints[0] = 9_999
    with pytest.raises(ValueError, match=r"tree"):
        read_trees(next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble")))
    assert request.schema.width == 13


# Networks


def test_a_network_kept_whole_answers_as_before() -> None:
    request, fp32 = convert(MLPClassifier((24, 16), max_iter=20, random_state=0), "digits")
    same = narrow_network(fp32, 1.0, request.calibration, request.profile)
    assert same == fp32


@pytest.mark.parametrize(
    ("estimator", "table"),
    [
        (MLPClassifier((64, 32), max_iter=30, random_state=0), "digits"),
        (MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=30, random_state=0), "diabetes"),
    ],
)
def test_units_that_are_copies_are_dropped_without_loss(estimator: Any, table: str) -> None:
    request, _ = convert(estimator, table)
    fitted = request.estimator
    width = fitted.coefs_[0].shape[1]
    fitted.coefs_[0] = np.concatenate([fitted.coefs_[0]] * 2, axis=1)
    fitted.intercepts_[0] = np.concatenate([fitted.intercepts_[0]] * 2)
    fitted.coefs_[1] = np.concatenate([fitted.coefs_[1]] * 2, axis=0) / 2
    fitted.hidden_layer_sizes = (2 * width, *fitted.hidden_layer_sizes[1:])
    source = SklearnSource(fitted, request.schema.task, is_fed_float32=True)
    model = source.convert(request.schema, request.profile).model
    fp32 = normalise(model, request.profile)
    wide = answer(fp32, request)
    small = narrow_network(fp32, 0.75, request.calibration, request.profile)
    assert len(small) < 0.8 * len(fp32)
    spread = float(np.std(wide))
    assert float(np.mean(np.abs(answer(small, request) - wide))) < 0.15 * spread


def test_a_model_without_hidden_layers_has_none_to_narrow() -> None:
    _, fp32 = convert(LogisticRegression(), "wine")
    assert list_network_cuts(fp32) == []


# Students


@pytest.mark.parametrize(
    ("estimator", "table", "is_of_trees"),
    [
        (RandomForestClassifier(20, random_state=0), "wine", True),
        (RandomForestRegressor(20, random_state=0), "diabetes", True),
        (MLPClassifier((64,), max_iter=60, random_state=0), "digits", False),
        (LogisticRegression(max_iter=50), "cancer", False),
    ],
)
def test_a_student_answers_nearly_as_its_source(
    estimator: Any, table: str, is_of_trees: bool
) -> None:
    request, fp32 = convert(estimator, table)
    runner = GraphRunner(fp32, request.profile)
    student = distil(
        request.schema,
        request.profile,
        request.calibration,
        runner.run(request.calibration),
        is_of_trees=is_of_trees,
    )
    truth, got = (
        GraphRunner(one, request.profile).run(request.holdout)
        for one in (fp32, normalise(student, request.profile))
    )
    if "label" in truth:
        assert float(np.mean(got["label"] != truth["label"])) < 0.15
    else:
        assert float(np.corrcoef(got["value"], truth["value"])[0, 1]) > 0.8


def test_a_student_that_never_hears_of_a_class_is_refused() -> None:
    request, fp32 = convert(RandomForestClassifier(3, random_state=0), "wine")
    rows = request.calibration
    answers = GraphRunner(fp32, request.profile).run(rows)
    answers["label"][:] = 0
    with pytest.raises(InvalidRequestError, match="never answers some classes"):
        distil(request.schema, request.profile, rows, answers, is_of_trees=True)
