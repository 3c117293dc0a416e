"""CSV and Parquet files are read alike; what is no table is refused in a sentence."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from fleet_server.adapters import table_files
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.errors import FleetError, NotFoundError

READER = PyarrowTableReader()


def csv(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parquet(tmp_path: Path, **columns: object) -> Path:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_csv_and_parquet_give_the_same_columns(tmp_path: Path) -> None:
    table = {"x": [1.5, None, 3.0], "n": [1, 2, 3], "t": ["a", "b", None]}
    binary = parquet(tmp_path, **table)
    pa.csv.write_csv(pa.table(table), tmp_path / "rows.csv")
    for path in (binary, tmp_path / "rows.csv"):
        assert READER.list_columns(path) == ("x", "n", "t")
        read = READER.read(path, numbers=["n", "x"], words=["t"])
        assert read.rows == 3
        assert np.array_equal(read.numbers["x"].values, [1.5, np.nan, 3.0], equal_nan=True)
        assert read.numbers["n"].values.tolist() == [1, 2, 3]
        assert (read.words["t"].codes.tolist(), read.words["t"].words) == ([0, 1, -1], ("a", "b"))


def test_values_that_are_no_numbers_are_counted_with_their_rows(tmp_path: Path) -> None:
    path = csv(tmp_path, "x,t\n1,a\nfour,a\n,a\n 5 ,a\n1e3,a\n0x10,a\nNaN,a\n.5,b\n-inf,b\n")
    column = READER.read(path, numbers=["x"], words=[]).numbers["x"]
    assert (column.unreadable.tolist(), column.first_unreadable) == ([1, 5], "four")
    assert np.array_equal(
        column.values,
        [1, np.nan, np.nan, 5, 1000, np.nan, np.nan, 0.5, -np.inf],
        equal_nan=True,
    )


def test_text_numbers_in_parquet_are_read_too(tmp_path: Path) -> None:
    path = parquet(tmp_path, x=["1", "two", None])
    column = READER.read(path, numbers=["x"], words=[]).numbers["x"]
    assert (column.unreadable.tolist(), column.values[0]) == ([1], 1.0)


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([True, False, None], [1, 0, np.nan]),
        (pa.array([1, 2, None], pa.uint8()), [1, 2, np.nan]),
        (pa.array([1.5, 2.5, None], pa.float32()), [1.5, 2.5, np.nan]),
        (pa.array(["1", "2", "1"]).dictionary_encode(), [1, 2, 1]),
        (pa.nulls(3), [np.nan] * 3),
    ],
)
def test_kinds_of_numbers_in_parquet(tmp_path: Path, values: object, read: list[float]) -> None:
    column = READER.read(parquet(tmp_path, x=values), numbers=["x"], words=[]).numbers["x"]
    assert np.array_equal(column.values, read, equal_nan=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 2, 1], ("1", "2")),
        ([1.0, 2.5, 1.0], ("1", "2.5")),
        ([True, False, True], ("true", "false")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("b", "a")),
    ],
)
def test_kinds_of_words_in_parquet(tmp_path: Path, values: object, words: tuple[str, ...]) -> None:
    column = READER.read(parquet(tmp_path, t=values), numbers=[], words=["t"]).words["t"]
    assert column.words == words
    assert column.codes.tolist() == [0, 1, 0]


def test_a_byte_order_mark_and_line_breaks_in_quotes_are_understood(tmp_path: Path) -> None:
    path = csv(tmp_path, b'\xef\xbb\xbfx,"two\nlines",t\r\n1,2,"a\nb"\r\n')
    assert READER.list_columns(path) == ("x", "two\nlines", "t")
    assert READER.read(path, numbers=["x"], words=["t"]).words["t"].words == ("a\nb",)


def test_parquet_is_known_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    path = parquet(tmp_path, x=[1]).rename(tmp_path / "rows.csv")
    assert READER.list_columns(path) == ("x",)


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    read = READER.read(csv(tmp_path, "x,t\n"), numbers=["x"], words=["t"])
    assert (read.rows, read.words["t"].words) == (0, ())


def look_and_read(path: Path) -> None:
    READER.list_columns(path)
    READER.read(path, numbers=["x"], words=["t"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("x,t\n1\n", "Expected 2 columns, got 1"),
        (b"x,t\n1,\xff\n", "invalid UTF8"),
        (b"\xff\xfex,t\n1,2\n", "is not UTF-8 text"),
        (b"PAR1 and no more", "cannot be read as a table"),
        (b"\x1f\x8b\x08\x00", "cannot be read|is not UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    with pytest.raises(FleetError, match=sentence):
        look_and_read(csv(tmp_path, content))


def test_columns_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    path = parquet(tmp_path, at=[dt.datetime(2026, 1, 1)], many=[[1, 2]])  # noqa: DTZ001
    with pytest.raises(FleetError, match=r"column 'at' is timestamp\[.*\], not numbers"):
        READER.read(path, numbers=["at"], words=[])
    with pytest.raises(FleetError, match="column 'many' is list"):
        READER.read(path, numbers=[], words=["many"])


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"data\.source is relative to the spec"):
        READER.list_columns(tmp_path / "nowhere.csv")
    with pytest.raises(FleetError, match="cannot read"):
        READER.list_columns(tmp_path)


@pytest.mark.parametrize(
    ("name", "limit", "sentence"),
    [
        ("FILE_BYTES_MAX", 3, "bytes, at most 3"),
        ("ROWS_MAX", 1, "rows, at most 1"),
        ("WORDS_MAX", 1, "2 different values, at most 1"),
    ],
)
def test_sizes_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, sentence: str
) -> None:
    monkeypatch.setattr(table_files, name, limit)
    for path in (csv(tmp_path, "x,t\n1,a\n2,b\n"), parquet(tmp_path, x=[1, 2], t=["a", "b"])):
        with pytest.raises(FleetError, match=sentence):
            READER.read(path, numbers=["x"], words=["t"])
