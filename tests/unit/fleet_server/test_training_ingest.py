"""A table is judged column by column; every fault comes with its count and first row."""

from dataclasses import replace

import numpy as np
import pytest

from fleet_server.ports.training import NumberColumn
from fleet_server.training.ingest import (
    CELLS_MAX,
    PROBLEMS_SHOWN_MAX,
    DataError,
    check_columns,
    make_dataset,
)
from tests.support.training import DIGITS_SPEC, raw_table, read_spec, value_spec

CLASSES = ("a", "b", "a", "b", "a")
NAN = float("nan")


def problems(features: str, values: list[float]) -> list[str]:
    table = raw_table({"x": values}, {"t": CLASSES[: len(values)]})
    with pytest.raises(DataError) as caught:
        make_dataset(read_spec(value_spec(features)), table, source="rows.csv")
    return list(caught.value.problems)


def test_a_sound_table_becomes_float32_rows_and_class_indexes() -> None:
    spec = read_spec(value_spec('x = { type = "float32" }', 'n = { type = "int64" }'))
    table = raw_table({"x": [0.1, 2, 3], "n": [4, 5, 6]}, {"t": ["b", "a", "b"]})
    dataset = make_dataset(spec, table, source="rows.csv")
    assert dataset.features.dtype == np.float32
    assert dataset.classes == ("a", "b")
    rows = {
        (float(x), float(n)): dataset.classes[y]
        for (x, n), y in zip(dataset.features, dataset.targets, strict=True)
    }
    assert rows == {(float(np.float32(0.1)), 4.0): "b", (2.0, 5.0): "a", (3.0, 6.0): "b"}


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (
            'x = { type = "float32" }',
            [1, NAN, 3, NAN],
            "column 'x': 2 of 4 values are missing; first in row 2. Fill or drop these rows",
        ),
        (
            'x = { type = "float32" }',
            [1, 2, float("inf")],
            "column 'x': 1 of 3 values are infinite; first in row 3. Mend the data",
        ),
        (
            'x = { type = "float32", range = [0, 16] }',
            [1, 16.5, -0.5],
            "column 'x': 2 of 3 values lie outside [0, 16]; first 16.5 in row 2. Mend the data or"
            " the range of data.features.x",
        ),
        (
            'x = { type = "float32", min = 0 }',
            [1, -1, 3],
            "column 'x': 1 of 3 values lie outside [0, inf]; first -1 in row 2. Mend the data or"
            " the range of data.features.x",
        ),
        (
            'x = { type = "int64" }',
            [1, 2, 0.5],
            "column 'x': 1 of 3 values are not whole numbers; first 0.5 in row 3. Mend the data or"
            " declare data.features.x as float32",
        ),
        (
            'x = { type = "int64" }',
            [1, 2**24 + 2],
            "column 'x': 1 of 2 values are beyond what float32 counts exactly; first 1.67772e+07"
            " in row 2. Rescale it",
        ),
        (
            'x = { type = "float32" }',
            [1, 1e39],
            "column 'x': 1 of 2 values are beyond what float32 holds; first 1e+39 in row 2."
            " Rescale it",
        ),
    ],
)
def test_a_bad_value_is_told(feature: str, values: list[float], expected: str) -> None:
    assert problems(feature, values) == [expected]


def test_the_edges_of_a_range_are_inside() -> None:
    spec = read_spec(value_spec('x = { type = "float32", range = [0.1, 16] }'))
    table = raw_table({"x": [0.1, 16]}, {"t": ["a", "b"]})
    assert len(make_dataset(spec, table, source="rows.csv").targets) == 2


def test_unreadable_values_are_counted_and_not_called_missing() -> None:
    spec = read_spec(value_spec())
    table = raw_table({"x": [1, NAN, NAN]}, {"t": ["a", "b", "a"]})
    broken = NumberColumn(
        values=table.numbers["x"].values, unreadable=np.array([1]), first_unreadable="n/a"
    )
    with pytest.raises(DataError) as caught:
        make_dataset(spec, replace(table, numbers={"x": broken}), source="rows.csv")
    assert caught.value.problems == (
        "column 'x': 1 of 3 values are not numbers (such as 'n/a'); first in row 2. Mend the data",
        "column 'x': 1 of 3 values are missing; first in row 3. Fill or drop these rows",
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "a"], "target 't' has one class only ('a' in every row)"),
        (["a", None], "column 't': 1 of 2 values are missing; first in row 2. Drop these rows"),
        (["0.5", "1.5"], 'For numbers use task = "regression"'),
    ],
)
def test_a_bad_target_is_told(words: list[str | None], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        make_dataset(read_spec(value_spec()), raw_table({"x": [1, 2]}, {"t": words}), source="r")
    assert expected in caught.value.problems[0]


def test_a_regression_takes_numbers_and_needs_two_of_them() -> None:
    spec = read_spec(value_spec(task="regression"))
    dataset = make_dataset(spec, raw_table({"x": [1, 2], "t": [0.5, 1]}), source="r")
    assert dataset.classes == ()
    assert sorted(dataset.targets.tolist()) == [0.5, 1.0]
    with pytest.raises(DataError, match="is 3 in all 2 rows; there is nothing to learn"):
        make_dataset(spec, raw_table({"x": [1, 2], "t": [3, 3]}), source="r")
    with pytest.raises(DataError, match="'t': 1 of 2 values are missing"):
        make_dataset(spec, raw_table({"x": [1, 2], "t": [3, NAN]}), source="r")


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(DataError, match="the table has no rows"):
        make_dataset(read_spec(value_spec()), raw_table({"x": []}, {"t": []}), source="r")


def test_all_faults_come_at_once_and_are_bounded() -> None:
    spec = read_spec(DIGITS_SPEC)
    numbers = {column: [99.0, 1.0] for column in spec.data.columns}
    with pytest.raises(DataError) as caught:
        make_dataset(spec, raw_table(numbers, {"digit": ["1", "1"]}), source="digits.csv")
    assert len(caught.value.problems) == 65
    assert f"and {65 - PROBLEMS_SHOWN_MAX} more" in str(caught.value)
    assert "rows counted from 1, without the header" in str(caught.value)


def test_the_number_of_values_is_bounded() -> None:
    table = replace(raw_table({"x": [1]}, {"t": ["a"]}), rows=CELLS_MAX + 1)
    with pytest.raises(DataError, match="are over 250,000,000 values"):
        make_dataset(read_spec(value_spec()), table, source="r")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["x"], "column 't' (data.target) is not in the file; it has 'x'"),
        (["X ", "t"], "column 'x' (data.features.x) is not in the file; it has 'X ', 't'"),
        (["x", "x", "t"], "column 'x' (data.features.x) is in the file 2 times"),
        (["x;t"], "column 'x' (data.features.x) is not in the file; it has 'x;t'"),
    ],
)
def test_columns_are_looked_for_by_name(columns: list[str], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        check_columns(read_spec(value_spec()), columns, source="rows.csv")
    assert caught.value.problems[0] == expected


def test_the_nearest_column_is_suggested() -> None:
    spec = read_spec(DIGITS_SPEC)
    columns = [c if c != "pixels_3" else "pixel_3" for c in spec.data.columns] + ["digit"]
    with pytest.raises(DataError, match=r"'pixels_3'.*did you mean '"):
        check_columns(spec, columns, source="digits.csv")


def test_more_columns_than_declared_are_left_aside() -> None:
    check_columns(read_spec(value_spec()), ["name", "t", "x"], source="rows.csv")
