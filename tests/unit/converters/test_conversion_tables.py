import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from converters import tables
from converters.errors import ConversionError, InvalidRequestError
from converters.output_file import check_place
from converters.tables import read_table


def csv_file(directory: Path, text: str | bytes) -> Path:
    path = directory / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_csv_gives_numbers_by_column_and_nan_for_empty_cells(tmp_path: Path) -> None:
    table = read_table(csv_file(tmp_path, "\ufeffa, b,kind\n1,2.5,x\n\n, 1e3 ,y\n"))
    assert table.rows == 2
    np.testing.assert_array_equal(table.read_numbers(["b", "a"]), [[2.5, 1], [1000, np.nan]])
    assert table.read_values("kind") == ["x", "y"]


def test_one_column_has_empty_cells_in_quotes_and_may_end_blank(tmp_path: Path) -> None:
    table = read_table(csv_file(tmp_path, 'a\n1\n""\n3\n\n\n'))
    np.testing.assert_array_equal(table.read_numbers(["a"]), [[1], [np.nan], [3]])


def test_rows_come_from_regular_files_and_packages_go_to_none_else(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.csv"
    os.mkfifo(pipe)
    with pytest.raises(InvalidRequestError, match=r"rows\.csv is no regular file"):
        read_table(pipe)
    with pytest.raises(ConversionError, match="it is a pipe or a device; name another place"):
        check_place(pipe)
    with pytest.raises(ConversionError, match="it is a pipe or a device"):
        check_place(Path(os.devnull))


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"a": [1, None], "kind": ["x", "y"]}), path)
    table = read_table(path)
    np.testing.assert_array_equal(table.read_numbers(["a"]), [[1], [np.nan]])
    assert table.read_values("kind") == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a header"),
        ("a,,b\n1,2,3\n", "needs a header"),
        ("a,a\n1,2\n", "several columns named 'a'"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, the header 2"),
        ("a\n1\n\n3\n", 'line 3 is blank, .* write an empty cell as ""'),
        (b"a\n\xff\xfe\n", "not a CSV file in UTF-8"),
    ],
)
def test_a_broken_csv_is_refused_by_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        read_table(csv_file(tmp_path, text))


def test_a_cell_that_is_no_number_is_named(tmp_path: Path) -> None:
    table = read_table(csv_file(tmp_path, "a,b\n1,2\n3,four\n"))
    with pytest.raises(InvalidRequestError, match="line 3, column 'b': 'four' is not a number"):
        table.read_numbers(["a", "b"])
    with pytest.raises(InvalidRequestError, match="no column 'c'; it has a, b"):
        table.read_numbers(["c"])


def test_other_files_and_too_large_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = csv_file(tmp_path, "a\n1\n2\n")
    with pytest.raises(InvalidRequestError, match=r"read from \.csv or \.parquet"):
        read_table(path.rename(tmp_path / "rows.xlsx"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidRequestError, match="not a Parquet file"):
        read_table(tmp_path / "bad.parquet")
    path = csv_file(tmp_path, "a\n1\n2\n")
    monkeypatch.setattr(tables, "ROWS_MAX", 2)
    assert read_table(path).rows == 2
    monkeypatch.setattr(tables, "ROWS_MAX", 1)
    with pytest.raises(InvalidRequestError, match="more than 1 rows"):
        read_table(path)
    monkeypatch.setattr(tables, "TABLE_BYTES_MAX", 5)
    with pytest.raises(InvalidRequestError, match="has 6 bytes, the limit is 5"):
        read_table(path)
