"""Rows of numbers out of CSV and Parquet files, a batch at a time; columns are found by name.

Parquet is read with pyarrow where it is installed; it is no dependency of the agent. Left out:
list columns; a field with a shape takes its columns ``name_0`` and up, as in CSV.
"""

import csv
import importlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import InputError

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
CELL_CHARS_MAX = 131_072


def read_csv(path: Path, columns: Sequence[str], batch_rows: int) -> Iterator[NDArray[Any]]:
    """Yield float64 [rows, columns], ``batch_rows`` at most.

    Raises:
        InputError: The file cannot be read, lacks a column, or a cell is no number.
    """
    try:
        csv.field_size_limit(CELL_CHARS_MAX)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, columns, reader.fieldnames or ())
            rows = _read_cells(reader, columns, path)
            while batch := list(islice(rows, batch_rows)):
                yield np.array(batch, np.float64)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_parquet(path: Path, columns: Sequence[str], batch_rows: int) -> Iterator[NDArray[Any]]:
    """Yield [rows, columns] of float64, ``batch_rows`` at most.

    Raises:
        InputError: pyarrow is missing; the file cannot be read, lacks a column, or a cell is empty
            or no number.
    """
    arrow, parquet = _load_arrow()
    first = 1
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, columns, file.schema_arrow.names)
            for name in columns:
                _check_numeric(arrow, path, name, file.schema_arrow.field(name).type)
            for batch in file.iter_batches(batch_rows, columns=list(columns)):
                rows = np.empty((batch.num_rows, len(columns)), np.float64)
                for n, name in enumerate(columns):
                    column = batch.column(name)
                    if column.null_count:
                        row = first + int(
                            np.argmax(column.is_null().to_numpy(zero_copy_only=False))
                        )
                        raise InputError(f"{path} row {row}: {name} is empty, it takes a number")
                    rows[:, n] = column.to_numpy(zero_copy_only=False)
                first += len(rows)
                yield rows
    except (OSError, arrow.lib.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


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


def _check_numeric(arrow: Any, path: Path, name: str, kind: Any) -> None:
    types = arrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError(f"{path}: {name} is of type {kind}, it takes numbers")


def _read_cells(
    reader: "csv.DictReader[str]", columns: Sequence[str], path: Path
) -> Iterator[list[float]]:
    for row in reader:
        values = []
        for name in columns:
            try:
                values.append(float(row[name]))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{path} line {reader.line_num}: {name} is {row[name]!r:.40}, not a number"
                ) from error
        yield values
