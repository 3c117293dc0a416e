"""Every estimator and step a spec may name is fitted, shipped and agrees with its source."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_wine

from converters.build import build_package
from converters.request import BuildRequest, MeasurementPlan
from converters.skops_library import import_skops
from device_profiles.catalog import load_profile
from device_profiles.profile import Precision
from edge_agent.contract.schema import Task
from fleet_server.adapters.estimator_files import SkopsEstimatorWriter, read_estimator
from fleet_server.errors import RefusedError
from fleet_server.training.dataset import Side
from fleet_server.training.estimators import CLASSIFIERS, REGRESSORS, STEPS
from fleet_server.training.fit import answer, fit
from fleet_server.training.shipped import answer_package
from fleet_server.training.spec import Spec, make_schema
from tests.support.training import read_spec, value_spec

QUICK = MeasurementPlan(rounds=3, round_s=0.001, runs_max=5)
PROFILE = replace(load_profile("camera"), precisions=(Precision.FP32,), latency_ms_p95_max=10_000.0)
PARAMS = {
    "AdaBoostClassifier": "{ n_estimators = 5 }",
    "AdaBoostRegressor": "{ n_estimators = 5 }",
    "BaggingClassifier": "{ n_estimators = 3 }",
    "BaggingRegressor": "{ n_estimators = 3 }",
    "ExtraTreesClassifier": "{ n_estimators = 5 }",
    "ExtraTreesRegressor": "{ n_estimators = 5, min_samples_leaf = 3 }",
    "GaussianRandomProjection": "{ n_components = 5 }",
    "GradientBoostingClassifier": "{ n_estimators = 5 }",
    "GradientBoostingRegressor": "{ n_estimators = 5 }",
    "HistGradientBoostingClassifier": "{ max_iter = 3 }",
    "HistGradientBoostingRegressor": "{ max_iter = 3 }",
    "KernelPCA": "{ n_components = 5 }",
    "LogisticRegressionCV": "{ Cs = 3, use_legacy_attributes = false, l1_ratios = [0.0] }",
    "MLPClassifier": "{ hidden_layer_sizes = [16], max_iter = 60 }",
    "MLPRegressor": "{ hidden_layer_sizes = [16], max_iter = 60 }",
    "PCA": "{ n_components = 5 }",
    "RandomForestClassifier": "{ n_estimators = 5 }",
    "RandomForestRegressor": "{ n_estimators = 5 }",
    "SGDClassifier": '{ loss = "log_loss" }',
    "SelectKBest": "{ k = 5 }",
    "TheilSenRegressor": "{ max_subpopulation = 100 }",
}


def rows_of(task: Task) -> tuple[Side, Side, tuple[str, ...]]:
    loaded = load_wine() if task is Task.CLASSIFICATION else load_diabetes(scaled=False)
    features: NDArray[np.float32] = loaded.data[:, :8].astype(np.float32)
    features = (features / np.abs(features).max(axis=0)).astype(np.float32)
    targets: NDArray[Any] = loaded.target
    classes: tuple[str, ...] = ()
    if task is Task.CLASSIFICATION:
        targets, classes = targets.astype(np.int64), ("a", "b", "c")
    test = np.arange(len(features)) % 3 == 0
    return (
        Side(features=features[~test], targets=targets[~test]),
        Side(features=features[test], targets=targets[test]),
        classes,
    )


def spec_of(name: str, task: Task) -> Spec:
    features = [f'f{n} = {{ type = "float32" }}' for n in range(8)]
    params = PARAMS.get(name.rpartition(".")[2], "{}")
    if name in STEPS:
        step = f'[{{ use = "{name}", params = {params} }}]'
        return read_spec(value_spec(*features, task=task, steps=step))
    return read_spec(value_spec(*features, task=task, estimator=name, params=params))


CASES = [
    *((name, Task.CLASSIFICATION) for name in sorted(CLASSIFIERS | STEPS)),
    *((name, Task.REGRESSION) for name in sorted(REGRESSORS)),
]


@pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n.rpartition('.')[2]}" for n, _ in CASES])
def test_it_ships_and_is_kept(name: str, task: Task) -> None:
    train, test, classes = rows_of(task)
    spec = spec_of(name, task)
    fitted = fit(spec, train, classes)
    source = answer(fitted, task, test.features)
    built = build_package(
        BuildRequest(
            estimator=fitted.estimator,
            schema=make_schema(spec, classes),
            profile=PROFILE,
            calibration=train.features,
            holdout=test.features,
            holdout_targets=test.targets,
            plan=QUICK,
        )
    )
    shipped = answer_package(built.blob, task, PROFILE, test.features)
    kept = answer_again(SkopsEstimatorWriter().write(fitted.estimator), task, test.features)
    if task is Task.CLASSIFICATION:
        assert (source.labels != shipped.labels).mean() <= 0.02
        assert np.array_equal(source.labels, kept.labels)
    else:
        spread = np.ptp(test.targets)
        off = np.abs(source.values - shipped.values) > 1e-3 * spread
        assert off.mean() <= 0.02
        assert np.allclose(source.values, kept.values)


def answer_again(data: bytes, task: Task, rows: NDArray[np.float32]) -> Any:
    from fleet_server.training.fit import Fitted

    return answer(Fitted(estimator=read_estimator(data)), task, rows)


def test_a_source_model_with_a_type_of_its_own_is_refused() -> None:
    from sklearn.linear_model import Ridge

    class Odd(Ridge):  # type: ignore[misc]  # scikit-learn ships no types
        """Not on the list."""

    odd = Odd().fit(np.eye(2), [0, 1])
    with pytest.raises(RefusedError, match="not on the list of allowed types"):
        SkopsEstimatorWriter().write(odd)
    with pytest.raises(RefusedError, match="not on the list of allowed types"):
        read_estimator(import_skops().dumps(odd))
