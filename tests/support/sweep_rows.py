"""Rows and targets that scikit-learn's estimators are fitted on in the sweep of conversion."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.convert import load_table
from tests.support.sweep_cases import NUMBERS, PAIR, SEVERAL, SweepCase

Array = NDArray[Any]


@cache
def _table(name: str) -> tuple[Array, Array]:
    return load_table(name)


def load_rows(case: SweepCase) -> tuple[Array, Array]:
    """Give rows and targets of scikit-learn's bundled tables, as the estimator takes them."""
    if case.kind in (NUMBERS, SEVERAL):
        rows, targets = _table("diabetes")
        rows, targets = rows[:300] * 50, targets[:300]
        if case.kind == SEVERAL:
            return rows, np.column_stack([targets, targets[::-1]])
        return (rows[:, :1] if case.feed == "one column" else rows), targets
    rows, targets = _table("cancer" if case.kind == PAIR else "wine")
    rows, targets = rows[:240, :13], targets[:240]
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    if case.feed == "counts":
        scaled = np.clip(np.round(scaled * 2) + 3, 0, 5)
    if case.feed == "three columns":
        return scaled[:, :3], targets
    if case.name in ("SelfTrainingClassifier", "PLSSVD"):
        targets = np.unique(targets, return_inverse=True)[1]
    if case.feed == "holes":
        scaled[::3, :4] = np.nan
    if case.feed == "two flags":
        targets = np.column_stack([targets == targets[0], scaled[:, 0] > 0]).astype(int)
    if case.feed == "two labels":
        targets = np.column_stack([targets, np.where(scaled[:, 0] > 0, "yes", "no")])
    return scaled, targets
