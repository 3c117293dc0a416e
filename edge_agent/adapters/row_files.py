"""Packed rows out of CSV and Parquet files, a batch at a time; columns are found by name.

Texts of categories become their codes, free texts are packed as they are, and empty cells are
missing values where the field may be missing.
Parquet is read with pyarrow where it is installed; it is no dependency of the agent. Left out:
list columns; a field with a shape takes its columns ``name_0`` and up, as in CSV.
"""

import contextlib
import csv
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.cells import CellError, CellReader, say_allowed
from edge_agent.contract.schema import Dtype, Feature
from edge_agent.contract.texts import read_text
from edge_agent.errors import InputError
from edge_agent.statistics.packed_texts import pack_text

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
CELL_CHARS_MAX = 131_072


def read_csv(
    path: Path, features: Sequence[Feature], batch_rows: int
) -> Iterator[NDArray[np.float64]]:
    """Yield packed rows, float64 [rows, width], ``batch_rows`` at most.

    Raises:
        InputError: The file cannot be read, lacks a column, or a cell does not fit its field.
    """
    columns = {column: replace(f, shape=()) for f in features for column in f.table_columns}
    try:
        csv.field_size_limit(CELL_CHARS_MAX)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, list(columns), reader.fieldnames or ())
            rows = _read_cells(reader, columns, path)
            while batch := list(islice(rows, batch_rows)):
                yield _pack_cells(batch, list(columns.values()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_parquet(
    path: Path, features: Sequence[Feature], batch_rows: int
) -> Iterator[NDArray[np.float64]]:
    """Yield packed rows, float64 [rows, width], ``batch_rows`` at most.

    Raises:
        InputError: pyarrow is missing; the file cannot be read, lacks a column, or a cell does not
            fit its field.
    """
    arrow, parquet = _load_arrow()
    owners = {column: feature for feature in features for column in feature.table_columns}
    width, first = sum(feature.width for feature in features), 1
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, list(owners), file.schema_arrow.names)
            for name, feature in owners.items():
                if feature.is_number:
                    _check_numeric(arrow, path, name, file.schema_arrow.field(name).type)
            for batch in file.iter_batches(batch_rows, columns=list(owners)):
                rows = np.empty((batch.num_rows, width), np.float64)
                place = 0
                for name, feature in owners.items():
                    where = _Where(path=path, name=name, first=first)
                    if feature.is_text:
                        cells = rows[:, place : place + feature.width]
                        _pack_column(batch.column(name).to_pylist(), feature, where, cells)
                        place += feature.width
                        continue
                    rows[:, place] = _read_column(batch.column(name), feature, where)
                    place += 1
                first += len(rows)
                yield rows
    except (OSError, arrow.lib.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


class _Where(NamedTuple):
    """Which column of a file is read, and the number of its first row."""

    path: Path
    name: str
    first: int


def _read_column(column: Any, feature: Feature, where: _Where) -> NDArray[Any]:
    if not feature.is_number:
        return _read_codes(column.to_pylist(), feature, where)
    if column.null_count and not feature.is_nullable:
        row = where.first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(
            f"{where.path} row {row}: {where.name} is empty, it takes {say_allowed(feature)}"
        )
    numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers


def _read_codes(cells: Sequence[Any], feature: Feature, where: _Where) -> NDArray[np.float64]:
    reader = CellReader(feature)
    codes = np.empty(len(cells), np.float64)
    for n, cell in enumerate(cells):
        try:
            codes[n] = reader.read(cell)
        except CellError as error:
            raise InputError(f"{where.path} row {where.first + n}: {where.name} {error}") from error
    return codes


def _pack_column(
    values: Sequence[Any], feature: Feature, where: _Where, cells: NDArray[np.float64]
) -> None:
    for n, value in enumerate(values):
        try:
            pack_text(cells[n], read_text(feature, value))
        except CellError as error:
            raise InputError(f"{where.path} row {where.first + n}: {where.name} {error}") from error


def _load_arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            "Parquet is read with pyarrow, which is not installed here: pip install pyarrow, or"
            " write the rows as CSV"
        ) from error


def _check_columns(path: Path, columns: Sequence[str], known: Sequence[str]) -> None:
    there = set(known)
    missing = [name for name in columns if name not in there]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"{path} lacks column {', '.join(missing[:5])}{more}; the model needs them all"
        )
    if len(there) < len(known):
        twice = [name for name in columns if list(known).count(name) > 1]
        if twice:
            raise InputError(f"{path} has column {twice[0]} more than once; which is meant?")


def _check_numeric(arrow: Any, path: Path, name: str, kind: Any) -> None:
    types = arrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError(f"{path}: {name} is of type {kind}, it takes numbers")


def _pack_cells(
    batch: Sequence[Sequence[float | str]], features: Sequence[Feature]
) -> NDArray[np.float64]:
    if not any(feature.is_text for feature in features):
        return np.array(batch, np.float64)
    packed = np.empty((len(batch), sum(f.width if f.is_text else 1 for f in features)))
    place = 0
    for feature, column in zip(features, zip(*batch, strict=True), strict=True):
        if not feature.is_text:
            packed[:, place] = column
            place += 1
            continue
        for row, cell in zip(packed, column, strict=True):
            pack_text(row[place : place + feature.width], str(cell))
        place += feature.width
    return packed


def _read_cells(
    reader: "csv.DictReader[str]", columns: Mapping[str, Feature], path: Path
) -> Iterator[list[float | str]]:
    readers = {name: _reader_of(feature) for name, feature in columns.items()}
    plain = {name for name, feature in columns.items() if feature.dtype == Dtype.FLOAT32}
    for row in reader:
        if None in row:
            raise InputError(
                f"{path} line {reader.line_num} has more cells than the first line has columns; a"
                " comma within a text needs quotes around it"
            )
        values: list[float | str] = []
        for name, read in readers.items():
            cell = row[name]
            if name in plain and cell and cell[-1].isdigit():
                with contextlib.suppress(ValueError):  # what is wrong is told below
                    values.append(float(cell))
                    continue
            try:
                values.append(read(cell))
            except CellError as error:
                raise InputError(f"{path} line {reader.line_num}: {name} {error}") from error
        yield values


def _reader_of(feature: Feature) -> Callable[[Any], float | str]:
    """Read the cells of one column; a text that is empty in a CSV file is an empty text."""
    if not feature.is_text:
        return CellReader(feature).read
    return lambda cell: read_text(feature, cell) or ""
