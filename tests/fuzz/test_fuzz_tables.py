"""Tables of rows: what a small file unfolds to has bounds, each named when it is passed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from converters import tables
from converters.errors import InvalidRequestError
from fleet_server.adapters import table_files
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.errors import RefusedError

REFUSALS = (InvalidRequestError, RefusedError)


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def read_in_converters(path: Path) -> object:
    return tables.read_table(path)


def read_in_server(path: Path) -> object:
    reader = PyarrowTableReader()
    names = reader.list_columns(path)
    return reader.read(path, numbers=names[:-1], words=names[-1:])


READERS = pytest.mark.parametrize("read", [read_in_converters, read_in_server])


@READERS
def test_a_long_text_repeated_a_million_times_is_refused_before_it_is_unfolded(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    text = pa.DictionaryArray.from_arrays(np.zeros(1_000_000, np.int32), ["x" * 100_000])
    path = write_parquet(tmp_path / "bomb.parquet", a=np.zeros(1_000_000, np.int8), t=text)
    assert path.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(REFUSALS, match=r"'t' unfolds to 100,?000,?000,?000 bytes of text"):
        read(path)
    assert pa.total_allocated_bytes() - before < 2**26


@READERS
def test_equal_numbers_by_the_hundred_million_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    path = write_parquet(tmp_path / "wide.parquet", a=np.zeros(1_000), b=np.zeros(1_000))
    for module in (tables, table_files):
        monkeypatch.setattr(module, "CELLS_MAX", 1_999)
    with pytest.raises(REFUSALS, match=r"2,?000 cells.* 1,?999"):
        read(path)
    for module in (tables, table_files):
        monkeypatch.setattr(module, "CELLS_MAX", 2_000)
        monkeypatch.setattr(module, "ROWS_MAX", 999)
    with pytest.raises(REFUSALS, match=r"1,?000 rows.* 999"):
        read(path)
    for module in (tables, table_files):
        monkeypatch.setattr(module, "ROWS_MAX", 1_000)
        monkeypatch.setattr(module, "UNFOLDED_BYTES_MAX", 10)
    with pytest.raises(REFUSALS, match="bytes unfolded"):
        read(path)


@READERS
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_too_many_columns_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], kind: str
) -> None:
    for module in (tables, table_files):
        monkeypatch.setattr(module, "COLUMNS_MAX", 2)
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text("a,b,c\n1,2,3\n")
    else:
        write_parquet(path, a=[1], b=[2], c=[3])
    with pytest.raises(REFUSALS, match=r"columns, at most 2|1 to 2 named columns"):
        read(path)


@READERS
def test_texts_and_numbers_in_dictionaries_are_read_as_before(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    number = pa.array(["1.5", "2", None, "1.5"]).dictionary_encode()
    word = pa.array(["b", "a", None, "b"])
    found: Any = read(write_parquet(tmp_path / "t.parquet", n=number, w=word))
    if isinstance(found, tables.Table):
        assert found.read_values("w") == ["b", "a", None, "b"]
        np.testing.assert_array_equal(found.read_numbers(["n"])[:, 0], [1.5, 2, np.nan, 1.5])
        return
    np.testing.assert_array_equal(found.numbers["n"].values, [1.5, 2, np.nan, 1.5])
    assert found.words["w"].words == ("b", "a")
    assert found.words["w"].codes.tolist() == [0, 1, -1, 0]
