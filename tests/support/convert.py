"""Real small models and rows for the tests of conversion."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.ensemble  # noqa: F401 - loads the thread pools that are limited below
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from threadpoolctl import threadpool_limits

from converters.build import BuildRequest, MeasurementPlan, ProfileLimits
from converters.metrics import PrimaryMetric
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

Array = NDArray[Any]
QUICK = MeasurementPlan(rounds=3, round_s=0.002, runs_max=50)
# Fits of a few hundred rows are slower on several threads, and far slower beside other test runs.
_ONE_THREAD = threadpool_limits(limits=1)


def schema_of(
    width: int,
    classes: Sequence[str] = (),
    *,
    model: str = "tried",
    targets: tuple[str, ...] = (),
) -> ModelSchema:
    """Give the schema of a classifier, or of a regressor when there are no classes."""
    if classes:
        task = Task.CLASSIFICATION
        outputs: tuple[Output, ...] = (
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES),
        )
    else:
        task = Task.REGRESSION
        outputs = (Output(name="value", role=Role.VALUE, targets=targets),)
    return ModelSchema(
        model=model,
        task=task,
        features=(Feature(name="x", shape=(width,)),),
        outputs=outputs,
        classes=tuple(classes),
    )


def load_table(name: str) -> tuple[Array, Array]:
    """Give the rows (float64) and targets of one of scikit-learn's bundled real tables.

    ``wine`` has text classes; ``cancer`` has the labels -1 and 1.
    """
    if name == "digits":
        rows, targets = load_digits(return_X_y=True)
    elif name == "wine":
        rows, indexes = load_wine(return_X_y=True)
        targets = np.array(["barolo", "grignolino", "barbera"])[indexes]
    elif name == "cancer":
        rows, indexes = load_breast_cancer(return_X_y=True)
        targets = indexes * 2 - 1
    else:
        rows, targets = load_diabetes(return_X_y=True)
    order = np.random.default_rng(5).permutation(len(rows))
    return rows[order], targets[order]


def fit_quietly(estimator: Any, rows: Array, targets: Array) -> Any:
    """Fit; small iteration limits may warn, which is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(rows, targets)


def request_of(
    estimator: Any,
    table: str,
    *,
    profile: str = "camera",
    limits: ProfileLimits | None = None,
    metric: PrimaryMetric | None = None,
    plan: MeasurementPlan = QUICK,
    is_float32: bool = False,
) -> BuildRequest:
    """Fit on 60 % of a table and ask for a package with the rest as held-out rows."""
    rows, targets = load_table(table)
    if is_float32:
        rows = rows.astype(np.float32)
    cut = len(rows) * 6 // 10
    fitted = fit_quietly(estimator, rows[:cut], targets[:cut])
    classes = [str(value) for value in getattr(fitted, "classes_", [])]
    return BuildRequest(
        estimator=fitted,
        schema=schema_of(rows.shape[1], classes),
        profile=load_profile(profile),
        calibration=rows[:cut],
        holdout=rows[cut:],
        holdout_targets=targets[cut:],
        limits=limits or ProfileLimits(),
        metric=metric,
        evidence_context={"data": table},
        plan=plan,
    )
