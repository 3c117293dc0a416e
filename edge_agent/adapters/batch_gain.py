"""Whether answering several requests in one run pays, measured on this device.

It pays where one run reads much and computes little, as wide dense layers do; a small model is
faster than the thread it would be handed to, and a convolution takes eight times as long for
eight rows. A graph whose rows influence each other (dynamic quantization scales by the largest
value of the whole tensor) must not be batched: the answer would depend on who else asks.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 8
TIMES = 3
SINGLE_MS_MIN = 0.3
"""A faster model is answered one by one: decoding and the hop to a thread cost more than it."""
SINGLE_MS_MAX = 200.0
"""A slower model is not measured: the successor would be late."""
GAIN_MIN = 3.0
"""Rows a second in batches over rows a second alone, from which on requests are batched: a batch
runs by itself, where two single requests would run at once."""
AGREEMENT = 1e-5
"""Largest difference, relative to ``1 + |alone|``, of a row's answer in a batch."""

Run = Callable[[NDArray[np.float32]], Sequence[NDArray[Any]]]


def measure_batch_gain(run: Run, rows: NDArray[np.float32], warm_up_ms: float) -> float:
    """Compare ROWS rows in one run with as many runs.

    Args:
        run: The model.
        rows: Real rows, float32 [1 or more, width].
        warm_up_ms: How long its first run took, milliseconds; a fast model is not measured.

    Returns:
        How many times as many rows a second a batch answers; 1.0 where batching is out of the
        question.

    Raises:
        Exception: Whatever the runtime raises for one row alone.
    """
    if not SINGLE_MS_MIN <= warm_up_ms <= SINGLE_MS_MAX:
        return 1.0
    batch = np.resize(rows, (ROWS, rows.shape[1]))
    alone = [run(batch[n : n + 1]) for n in range(ROWS)]
    single_s = _time(run, batch[:1])
    if single_s * 1e3 < SINGLE_MS_MIN:
        return 1.0
    try:
        together = run(batch)
        if not _agree(alone, together):
            return 1.0
        return ROWS * single_s / _time(run, batch)
    except Exception:  # noqa: BLE001 - a graph that takes one row at a time is not batched
        return 1.0


def _time(run: Run, rows: NDArray[np.float32]) -> float:
    """Give the shortest of TIMES runs, seconds: others may use the device meanwhile."""
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        run(rows)
        seconds.append(time.perf_counter() - began)
    return max(min(seconds), 1e-9)


def _agree(alone: Sequence[Sequence[NDArray[Any]]], together: Sequence[NDArray[Any]]) -> bool:
    for k, outputs in enumerate(together):
        expected = np.concatenate([answer[k] for answer in alone])
        if outputs.shape != expected.shape:
            return False
        if outputs.dtype.kind != "f":
            if not np.array_equal(outputs, expected):
                return False
        elif not np.allclose(outputs, expected, rtol=AGREEMENT, atol=AGREEMENT):
            return False
    return True
