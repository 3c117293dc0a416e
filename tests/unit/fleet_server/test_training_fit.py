"""What a spec names is built, fitted and asked; what cannot be is refused in a sentence."""

import numpy as np
import pytest

from edge_agent.contract.schema import Task
from fleet_server.errors import RefusedError
from fleet_server.training.dataset import Side
from fleet_server.training.estimators import judge_estimator, judge_params, judge_step, load_class
from fleet_server.training.fit import Fitted, answer, fit
from tests.support.training import read_spec, value_spec

CLASSES = ("no", "yes")


def side(rows: int = 120, seed: int = 0) -> Side:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, 1)).astype(np.float32)
    return Side(features=features, targets=(features[:, 0] > 0).astype(np.int64))


def test_steps_run_before_the_estimator_and_share_its_seed() -> None:
    spec = read_spec(
        value_spec(
            estimator="sklearn.neural_network.MLPClassifier",
            params="{ hidden_layer_sizes = [4], max_iter = 5 }",
            steps='[{ use = "sklearn.decomposition.PCA" }, { use = "sklearn.preprocessing.'
            'StandardScaler", params = { with_std = false } }]',
        )
    )
    fitted = fit(spec, side(), CLASSES)
    pca, scaler, network = (step for _, step in fitted.estimator.steps)
    assert (pca.random_state, network.random_state) == (0, 0)
    assert scaler.with_std is False
    assert network.hidden_layer_sizes == (4,)
    assert [note.split(":")[0] for note in fitted.notes] == ["ConvergenceWarning"]


def test_the_same_spec_and_rows_give_the_same_answers() -> None:
    spec = read_spec(
        value_spec(
            estimator="sklearn.ensemble.RandomForestClassifier", params="{ n_estimators = 10 }"
        )
    )
    rows = side().features
    one, two = (answer(fit(spec, side(), CLASSES), Task.CLASSIFICATION, rows) for _ in "ab")
    assert (one.probabilities == two.probabilities).all()


def test_class_weights_are_given_by_name() -> None:
    spec = read_spec(value_spec(params="{ class_weight = { yes = 5.0 } }"))
    assert fit(spec, side(), CLASSES).estimator.class_weight == {1: 5.0}
    wrong = read_spec(value_spec(params="{ class_weight = { maybe = 5.0 } }"))
    with pytest.raises(RefusedError, match="names class 'maybe'; the target has no, yes"):
        fit(wrong, side(), CLASSES)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"params": "{ C = -1.0 }"}, "LogisticRegression cannot be trained on these rows"),
        (
            {"estimator": "sklearn.linear_model.SGDClassifier"},
            'for SGDClassifier take loss = "log_loss"',
        ),
        (
            {"estimator": "sklearn.discriminant_analysis.LinearDiscriminantAnalysis"},
            "with two classes gives wrong probabilities",
        ),
        (
            {"steps": '[{ use = "sklearn.feature_selection.SelectKBest", params = { k = "x" } }]'},
            "cannot be trained on these rows",
        ),
        (
            {"estimator": "sklearn.naive_bayes.MultinomialNB"},
            "Negative values",
        ),
    ],
)
def test_what_cannot_be_trained_is_told(train: dict[str, str], expected: str) -> None:
    with pytest.raises(RefusedError) as caught:
        fit(read_spec(value_spec(**train)), side(), CLASSES)
    assert expected in str(caught.value)


def test_answers_that_are_not_finite_are_refused() -> None:
    class Runaway:
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.full(len(rows), np.inf)

    with pytest.raises(RefusedError, match="not a finite number"):
        answer(Fitted(estimator=Runaway()), Task.REGRESSION, side().features)


@pytest.mark.parametrize("name", ["os.system", "sklearn.datasets.load_digits", "builtins.eval", ""])
def test_only_listed_names_are_ever_imported(name: str) -> None:
    with pytest.raises(KeyError):
        load_class(name)
    assert judge_estimator(name, Task.CLASSIFICATION)
    assert judge_step(name)


def test_an_estimator_where_a_step_belongs_is_refused() -> None:
    assert "not supported" in judge_step("sklearn.linear_model.Ridge")
    assert "does not answer a regression" in judge_estimator(
        "sklearn.naive_bayes.GaussianNB", Task.REGRESSION
    )


def test_parameters_are_checked_by_name() -> None:
    assert judge_params("sklearn.linear_model.Ridge", {"alpha": 1}) == {}
    assert judge_params("sklearn.linear_model.Ridge", {"alhpa": 1})["alhpa"].endswith("alpha?")
