"""Laws of counting: merging is adding, and every row is counted once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.output_shift import total_variation
from edge_agent.statistics.reference import Reference, quantile_edges, reference_hash
from edge_agent.statistics.varint import decode_counters, encode_counters
from tests.support.drift import class_reference, count_rows, normal_rows

REFERENCE = class_reference(
    np.column_stack(
        (normal_rows(0, 80, 1), np.zeros(80), np.arange(80) % 3, np.arange(80) % 16 * (1.0))
    ).astype(np.float32)
)
values = st.floats(width=32) | st.sampled_from([0.0, 1.0, 2.0, 15.0, 16.0])
windows = arrays(np.float32, st.tuples(st.integers(0, 40), st.just(4)), elements=values)
counters = arrays(np.int64, st.integers(0, 200), elements=st.integers(0, 2**63 - 1))


@given(windows, st.integers(0, 40))
@settings(deadline=None)
def test_counting_the_parts_and_adding_is_counting_the_whole(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]], cut: int
) -> None:
    whole = count_rows(REFERENCE, rows)
    parts = count_rows(REFERENCE, rows[:cut]) + count_rows(REFERENCE, rows[cut:])
    layout = CounterLayout.of(REFERENCE)
    assert whole[: layout.output.stop].tolist() == parts[: layout.output.stop].tolist()
    for at in layout.features:
        assert whole[at].sum() == len(rows)
    assert whole[layout.output].sum() + whole[layout.non_finite] == len(rows)


@given(windows)
@settings(deadline=None)
def test_the_order_of_rows_does_not_matter(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    assert count_rows(REFERENCE, rows).tolist() == count_rows(REFERENCE, rows[::-1]).tolist()


@given(counters)
def test_varints_survive_the_round_trip(
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> None:
    encoded = encode_counters(numbers)
    assert decode_counters(encoded, len(numbers)).tolist() == numbers.tolist()
    assert len(encoded) <= 9 * len(numbers)


@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_bin_of_a_reference_holds_training_rows(
    column: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> None:
    edges = quantile_edges(column)
    assert list(edges) == sorted(set(edges))
    assert all(np.float32(edge) == edge and edge in column for edge in edges)
    counts = np.bincount(np.searchsorted(edges, column, side="right"), minlength=len(edges) + 1)
    assert len(edges) == 0 or counts.min() >= max(1, 0.02 * len(column))


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 30), st.just(2)),
        elements=st.floats(width=32, allow_infinity=False),
    )
)
def test_a_reference_of_any_rows_survives_the_round_trip(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    reference = class_reference(rows, classes=2)
    encoded = reference.encode()
    assert Reference.decode(encoded) == reference
    assert reference_hash(encoded) == reference_hash(Reference.decode(encoded).encode())


@given(
    arrays(np.int64, 5, elements=st.integers(0, 1000)),
    arrays(np.int64, 5, elements=st.integers(0, 1000)),
)
def test_total_variation_is_symmetric_and_bounded(
    a: np.ndarray[tuple[int], np.dtype[np.int64]], b: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    shift = total_variation(a, b)
    assert 0 <= shift <= 1 + 1e-12
    assert shift == total_variation(b, a)
