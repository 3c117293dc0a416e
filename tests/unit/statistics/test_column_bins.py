"""Bins counted by bits against bins found one value at a time."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.statistics.column_bins import BLOCK_ROWS, MASK_BYTES_MAX, ColumnBins
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference
from tests.support.drift import class_reference, normal_rows

WIDE = 400


def count_one_by_one(reference: Reference, rows: NDArray[np.float32]) -> list[int]:
    counts: list[int] = []
    for feature in reference.features:
        own = [0] * len(feature.counts)
        for value in rows[:, feature.column]:
            if not math.isfinite(value):
                own[-2] += 1
            elif not np.float32(feature.low) <= value <= np.float32(feature.high):
                own[-1] += 1
            else:
                own[sum(value >= np.float32(edge) for edge in feature.edges)] += 1
        counts += own
    return counts


@pytest.mark.parametrize("width", [1, 20, WIDE])
@pytest.mark.parametrize("count", [1, 63, 64, BLOCK_ROWS])
def test_every_value_is_where_one_at_a_time_puts_it(width: int, count: int) -> None:
    training = normal_rows(1, 60, width)
    training[:, 0] = np.arange(60) % 3  # fewer bins than the others
    reference = class_reference(training)
    rows = 2 * normal_rows(2, count, width)
    rows[: count // 2] = training[: count // 2] if count <= 64 else rows[: count // 2]
    for k, odd in enumerate([np.nan, np.inf, -np.inf, 0.0]):
        rows[k::7, k % width] = odd
    layout = CounterLayout.of(reference)
    totals = np.zeros(layout.size, np.int64)
    ColumnBins(reference, layout).count_into(totals, rows)
    size = layout.features[-1].stop
    assert totals[:size].tolist() == count_one_by_one(reference, rows)
    assert not totals[size:].any()
    assert WIDE * 12 * BLOCK_ROWS > MASK_BYTES_MAX, "the widest is counted in parts"
