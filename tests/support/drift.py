"""Small references and windows for tests of counting and of drift."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.reference import Reference, build_reference

Rows = NDArray[np.float32]


def class_schema(width: int = 3, classes: int = 3) -> ModelSchema:
    return ModelSchema(
        model="m",
        task=Task.CLASSIFICATION,
        features=tuple(Feature(name=f"f{k}") for k in range(width)),
        outputs=(
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
        classes=tuple("abcdefghijklmnopqrstuvwxyz"[:classes]),
    )


def value_schema(width: int = 3) -> ModelSchema:
    return ModelSchema(
        model="m",
        task=Task.REGRESSION,
        features=tuple(Feature(name=f"f{k}") for k in range(width)),
        outputs=(Output(name="value", role=Role.VALUE),),
    )


def answer(rows: Rows, classes: int = 3) -> Mapping[str, NDArray[Any]]:
    """Answer as a model would: a softmax of the first columns."""
    logits = np.zeros((len(rows), classes), np.float32)
    used = min(classes, rows.shape[1])
    logits[:, :used] = np.nan_to_num(rows[:, :used], posinf=0, neginf=0)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return {"label": shares.argmax(1).astype(np.int64), "probabilities": shares}


def class_reference(rows: Rows, classes: int = 3, answers: Rows | None = None) -> Reference:
    schema = class_schema(rows.shape[1], classes)
    return build_reference(schema, rows, answer(rows if answers is None else answers, classes))


def count_rows(reference: Reference, rows: Rows, classes: int = 3) -> NDArray[np.int64]:
    """Counters of one window over these rows."""
    counter = WindowCounter(reference)
    counter.add(rows, answer(rows, classes), 1.0)
    return counter.take()[1]


def normal_rows(seed: int, rows: int, width: int = 3) -> Rows:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
