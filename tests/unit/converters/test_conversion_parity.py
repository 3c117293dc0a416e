from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from converters.attempts import measure_try
from converters.parity import TOLERANCE_FP32, compare_outputs
from edge_agent.contract.schema import NamedLabel, Task

Array = NDArray[Any]
NAN, INF = float("nan"), float("inf")


def values(*numbers: float) -> dict[str, Array]:
    return {"value": np.array(numbers, np.float64)}


@pytest.mark.parametrize(
    ("expected", "got", "rows_off", "max_abs_error"),
    [
        ((1.0, 2.0), (1.0, 2.0), 0, 0.0),
        ((1000.0,), (1000.1,), 0, 0.1),  # relative to 1 + |expected|
        ((1000.0,), (1000.2,), 1, 0.2),
        ((0.0,), (0.00011,), 1, 0.00011),
        ((NAN, INF, -INF), (NAN, INF, -INF), 0, 0.0),
        ((NAN,), (1.0,), 1, INF),
        ((1.0,), (NAN,), 1, INF),
        ((INF,), (-INF,), 1, INF),
        ((), (), 0, 0.0),
    ],
)
def test_rows_are_counted_beyond_a_relative_tolerance(
    expected: tuple[float, ...], got: tuple[float, ...], rows_off: int, max_abs_error: float
) -> None:
    parity = compare_outputs(Task.REGRESSION, values(*expected), values(*got))
    assert (parity.rows, parity.rows_off, parity.flips) == (len(expected), rows_off, 0)
    assert parity.max_abs_error == pytest.approx(max_abs_error)


def test_the_worst_rows_are_the_flips_and_then_the_largest_errors() -> None:
    truth = np.array([[0.9, 0.1], [0.6, 0.4], [0.51, 0.49], [0.2, 0.8]])
    shipped = np.array([[0.7, 0.3], [0.6, 0.4], [0.49, 0.51], [0.25, 0.75]])
    parity = compare_outputs(
        Task.CLASSIFICATION,
        {"label": truth.argmax(1), "probabilities": truth},
        {"label": shipped.argmax(1), "probabilities": shipped},
    )
    assert parity.flips == 1
    assert parity.flip_share == 0.25
    assert [row.row for row in parity.worst] == [2, 0, 3]
    assert (parity.worst[0].expected, parity.worst[0].got) == (0.0, 1.0)
    assert parity.worst[1].error == pytest.approx(0.2)


def test_a_label_may_flip_while_no_probability_moves() -> None:
    tie = np.full((1, 2), 0.5)
    parity = compare_outputs(
        Task.CLASSIFICATION,
        {"label": np.array([0]), "probabilities": tie},
        {"label": np.array([1]), "probabilities": tie},
    )
    assert (parity.flips, parity.rows_off, parity.max_abs_error) == (1, 0, 0.0)
    assert len(parity.worst) == 1


def test_at_most_ten_worst_rows_are_kept() -> None:
    parity = compare_outputs(Task.REGRESSION, values(*range(50)), values(*range(1, 51)))
    assert parity.rows_off == 50
    assert len(parity.worst) == 10


def test_worst_rows_show_what_was_asked_while_there_is_room() -> None:
    rows = np.arange(600.0).reshape(-1, 200)
    names = [f"c{number}" for number in range(200)]
    parity = compare_outputs(
        Task.REGRESSION, values(0, 0, 0), values(1, 3, 2), rows=rows, columns=names
    )
    assert [row.row for row in parity.worst] == [1, 2, 0]
    assert parity.worst[0].inputs["c7"] == 207.0
    assert len(parity.worst[2].inputs) == 200
    wide = np.ones((12, 500))
    parity = compare_outputs(
        Task.REGRESSION,
        values(*np.zeros(12)),
        values(*range(1, 13)),
        rows=wide,
        columns=[f"c{number}" for number in range(500)],
    )
    assert [len(row.inputs) for row in parity.worst] == [500] * 4 + [0] * 6


def test_quantiles_are_errors_that_were_seen() -> None:
    parity = compare_outputs(Task.REGRESSION, values(*np.zeros(100)), values(*range(100)))
    assert parity.error_quantiles == {"50": 50.0, "90": 90.0, "99": 99.0}
    broken = compare_outputs(Task.REGRESSION, values(0, 0), values(0, NAN))
    assert broken.error_quantiles["99"] == INF


columns = arrays.arrays(
    np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6, allow_subnormal=False)
)


@given(columns)
def test_outputs_equal_themselves(column: Array) -> None:
    parity = compare_outputs(Task.REGRESSION, {"value": column}, {"value": column})
    assert (parity.rows_off, parity.max_abs_error, parity.worst) == (0, 0.0, ())


@given(columns, st.integers(0, 29))
def test_one_row_moved_beyond_the_tolerance_is_one_row_off(column: Array, place: int) -> None:
    moved = column.copy()
    row = place % len(column)
    moved[row] += 2 * TOLERANCE_FP32 * (1 + abs(column[row]))
    parity = compare_outputs(Task.REGRESSION, {"value": column}, {"value": moved})
    assert parity.rows_off == 1
    assert parity.worst[0].row == row


def test_each_target_is_compared_by_itself_and_the_worst_row_says_which() -> None:
    truth = {"value": np.array([[1.0, 100.0], [2.0, 200.0], [3.0, np.nan]])}
    shipped = {"value": np.array([[1.0, 100.0], [2.5, 200.001], [3.0, np.nan]])}
    found = compare_outputs(Task.REGRESSION, truth, shipped, targets=("flow", "heat"))
    assert (found.rows, found.rows_off, found.max_abs_error) == (3, 1, 0.5)
    assert [(one.target, one.rows_off) for one in found.targets] == [("flow", 1), ("heat", 0)]
    assert found.targets[1].max_abs_error == pytest.approx(0.001)
    (worst,) = found.worst
    assert (worst.row, worst.target, worst.expected, worst.got) == (1, "flow", 2.0, 2.5)
    without_names = compare_outputs(Task.REGRESSION, truth, shipped)
    assert (without_names.rows_off, without_names.worst[0].error) == (1, 0.5)


LABELS = (
    NamedLabel(name="day", classes=("work", "rest", "feast")),
    NamedLabel(name="rain", classes=("no", "yes")),
)


def labelled(labels: list[list[int]], shares: list[list[float]]) -> dict[str, Array]:
    return {"label": np.array(labels), "probabilities": np.array(shares)}


def test_a_row_flips_with_one_of_its_labels_and_says_which() -> None:
    truth = labelled(
        [[0, 0], [1, 1], [2, 0]],
        [[0.6, 0.3, 0.1, 0.52, 0.48], [0.2, 0.7, 0.1, 0, 1], [0, 0, 1, 1, 0]],
    )
    got = labelled(
        [[0, 1], [1, 1], [2, 0]],
        [[0.5, 0.4, 0.1, 0.49, 0.51], [0.2, 0.7, 0.1, 0, 1], [0, 0.2, 0.8, 1, 0]],
    )
    parity = compare_outputs(Task.CLASSIFICATION, truth, got, labels=LABELS)
    assert (parity.flips, parity.rows_off) == (1, 2)
    assert [(one.label, one.flips, one.rows_off) for one in parity.labels] == [
        ("day", 0, 2),
        ("rain", 1, 1),
    ]
    first, second = parity.worst
    # The label that flipped, though the other is off by more.
    assert (first.row, first.label, first.expected, first.got) == (0, "rain", 0, 1)
    assert (second.row, second.label) == (2, "day")
    assert compare_outputs(Task.CLASSIFICATION, truth, got).flips == 1  # without their names


def test_a_flip_where_a_label_is_even_is_none() -> None:
    truth = labelled([[0, 0], [0, 0]], [[0.9, 0.1, 0, 0.5, 0.5], [0.9, 0.1, 0, 0.8, 0.2]])
    turned = labelled([[0, 1], [0, 0]], [[0.9, 0.1, 0, 0.5, 0.5], [0.9, 0.1, 0, 0.8, 0.2]])
    assert measure_try("", Task.CLASSIFICATION, truth, turned, labels=LABELS).is_exact
    wrong = labelled([[0, 0], [1, 0]], [[0.9, 0.1, 0, 0.5, 0.5], [0.9, 0.1, 0, 0.8, 0.2]])
    assert measure_try("", Task.CLASSIFICATION, truth, wrong, labels=LABELS).flips == 1
