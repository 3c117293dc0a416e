"""Rows with several labels, and the schema of a model of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_iris

from edge_agent.contract.schema import Feature, ModelSchema, NamedLabel, Output, Role, Task

Array = NDArray[Any]
FLOWERS = ("setosa", "versicolor", "virginica")


def load_flowers() -> tuple[Array, Array]:
    """Give iris in shuffled order with two labels a row: the flower, and whether it is broad."""
    rows, kinds = load_iris(return_X_y=True)
    order = np.random.default_rng(5).permutation(len(rows))
    rows, kinds = rows[order], kinds[order]
    broad = np.where(rows[:, 1] > 3.0, "yes", "no")
    return rows[:, [0, 2, 3]], np.column_stack([np.array(FLOWERS)[kinds], broad])


def name_labels(answers: Array, *, is_label_only: bool = False) -> tuple[NamedLabel, ...]:
    """Name the columns of answers ``l0`` and up, with the classes they show."""
    return tuple(
        NamedLabel(
            name=f"l{n}",
            classes=tuple(str(one) for one in np.unique(column)),
            is_label_only=is_label_only,
        )
        for n, column in enumerate(answers.T)
    )


def labels_schema(labels: Sequence[NamedLabel], width: int, *, model: str = "iris") -> ModelSchema:
    """Give the schema of a classifier of several labels over numbers."""
    return ModelSchema(
        model=model,
        task=Task.CLASSIFICATION,
        features=tuple(Feature(name=f"x{n}") for n in range(width)),
        outputs=(
            Output(name="label", role=Role.LABEL, labels=tuple(labels)),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
    )


def renamed(labels: Sequence[NamedLabel], *names: str) -> tuple[NamedLabel, ...]:
    """Give the same labels other names."""
    return tuple(replace(one, name=name) for one, name in zip(labels, names, strict=True))
