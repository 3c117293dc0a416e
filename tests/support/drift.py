"""Small references and windows for tests of counting and of drift."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.reference import Reference, build_reference
from fleet_server.core.drift_counts import DeviceWindows

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


WINDOW_MS = 60_000
NOW_MS = 1_700_000_000_000


def device_windows(
    device_id: str,
    reference: Reference,
    *,
    seed: int,
    rows: int = 100,
    windows: int = 16,
    shift: float = 0.0,
    feature: int = 0,
    shifted_windows: int | None = None,
    classes: int = 3,
    newest_ms: int = NOW_MS,
) -> DeviceWindows:
    """Windows of normal rows, one feature shifted in the newest few, newest first.

    ``classes=0`` is a regression.
    """
    rng = np.random.default_rng(seed)
    width = len(reference.features)
    data = rng.normal(size=(windows, rows, width)).astype(np.float32)
    data[: windows if shifted_windows is None else shifted_windows, :, feature] += shift
    counters = []
    for window in data:
        counter = WindowCounter(reference)
        outputs = answer(window, classes) if classes else {"value": window[:, 0]}
        counter.add(window, outputs, 1.0)
        counters.append(counter.take()[1])
    ends = newest_ms - np.arange(windows, dtype=np.int64) * WINDOW_MS
    return DeviceWindows(
        device_id=device_id,
        reference=reference,
        counters=np.array(counters),
        t0_ms=ends - WINDOW_MS,
        t1_ms=ends,
    )
