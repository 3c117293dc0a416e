"""Read CSV and Parquet files with pyarrow; its arrays and errors stop here.

A file is read as what it is, not as what it is called: Parquet says so in its first bytes. Whole
files are read into memory, up to stated limits, those of what a compressed file unfolds to
included: texts stay a dictionary until it is known how long they are together.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.training import NumberColumn, RawTable, WordColumn

FILE_BYTES_MAX = 4_294_967_296
ROWS_MAX = 50_000_000
COLUMNS_MAX = 65_536
CELLS_MAX = 1_000_000_000
UNFOLDED_BYTES_MAX = 8_589_934_592
"""Of the whole file by its own account, and of the texts of one column."""
HEADER_BYTES_MAX = 16_777_216
WORDS_MAX = 100_000
_PARQUET_MAGIC = b"PAR1"
_NUMBER = r"^\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan|NaN)\s*$"
_MISSING = [""]


class PyarrowTableReader:
    """Tables from CSV (comma, one header line, UTF-8) and Parquet."""

    def list_columns(self, path: Path) -> tuple[str, ...]:
        """Name the columns; see ``TableReader``."""
        if _is_parquet(path):
            return _check_columns(path, _open_parquet(path).schema_arrow.names)
        with path.open("rb") as file:
            line = _read_header(file)
        if not line.strip():
            raise RefusedError(f"{path.name} is empty; it needs a header line and rows")
        try:
            options = pa.csv.ReadOptions(use_threads=False)
            header = pa.csv.read_csv(pa.BufferReader(line), read_options=options)
            return _check_columns(path, header.column_names)
        except pa.ArrowException as error:
            raise _refuse(path, error) from error
        except UnicodeDecodeError as error:
            raise RefusedError(f"{path.name} is not UTF-8 text: {error}") from error

    def read(self, path: Path, *, numbers: Sequence[str], words: Sequence[str]) -> RawTable:
        """Read these columns; see ``TableReader``."""
        table = (
            _read_parquet(path, [*numbers, *words])
            if _is_parquet(path)
            else _read_csv(path, numbers, words)
        )
        if table.num_rows > ROWS_MAX:
            raise RefusedError(f"{path.name} has {table.num_rows:,} rows, at most {ROWS_MAX:,}")
        return RawTable(
            rows=table.num_rows,
            numbers={name: _to_numbers(path, name, table.column(name)) for name in numbers},
            words={name: _to_words(path, name, table.column(name)) for name in words},
        )


def _is_parquet(path: Path) -> bool:
    """Look at the file itself.

    Raises:
        NotFoundError: No such file.
        RefusedError: Not a readable file, or too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe never comes, a device never ends
            raise RefusedError(
                f"cannot read {path}: it is no regular file; data.source names CSV or Parquet"
            )
        size = found.st_size
        with path.open("rb") as file:
            head = file.read(len(_PARQUET_MAGIC))
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {path}; data.source is relative to the spec") from error
    except OSError as error:
        raise RefusedError(f"cannot read {path}: {error.strerror}") from error
    if size > FILE_BYTES_MAX:
        raise RefusedError(f"{path.name} has {size:,} bytes, at most {FILE_BYTES_MAX:,}")
    return head == _PARQUET_MAGIC


def _check_columns(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > COLUMNS_MAX:
        raise RefusedError(f"{path.name} has {len(names):,} columns, at most {COLUMNS_MAX:,}")
    return tuple(names)


def _open_parquet(path: Path, *, is_folded: bool = False) -> Any:
    """Open a file; ``is_folded`` leaves texts as dictionaries."""
    try:
        file = pa.parquet.ParquetFile(path)
        texts = [f.name for f in file.schema_arrow if not _is_plain(f.type)] if is_folded else []
        return pa.parquet.ParquetFile(path, read_dictionary=texts) if texts else file
    except (pa.ArrowException, OSError) as error:
        raise _refuse(path, error) from error


def _read_parquet(path: Path, columns: list[str]) -> pa.Table:
    file = _open_parquet(path, is_folded=True)
    about = file.metadata
    for what, found, limit in (
        ("rows", about.num_rows, ROWS_MAX),
        ("columns", about.num_columns, COLUMNS_MAX),
        ("cells to read", about.num_rows * len(columns), CELLS_MAX),
        ("bytes unfolded", _count_unfolded(about), UNFOLDED_BYTES_MAX),
    ):
        if found > limit:
            raise RefusedError(f"{path.name} has {found:,} {what}, at most {limit:,}")
    try:
        table = file.read(columns=columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _refuse(path, error) from error
    for name in table.column_names:
        size = _count_text_bytes(table.column(name))
        if size > UNFOLDED_BYTES_MAX:
            raise RefusedError(
                f"{path.name}: column {name!r} unfolds to {size:,} bytes of text, at most"
                f" {UNFOLDED_BYTES_MAX:,}"
            )
    return table


def _is_plain(kind: pa.DataType) -> bool:
    """Tell what is no text, neither plain nor in a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    return not any(is_text(kind) for is_text in texts)


def _count_unfolded(about: Any) -> int:
    return sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))


def _count_text_bytes(column: pa.ChunkedArray) -> int:
    """Count the bytes of a column of dictionary-coded texts as if each stood written out."""
    if not pa.types.is_dictionary(column.type) or pa.types.is_primitive(column.type.value_type):
        return 0
    sizes = (
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices).cast(pa.int64())).as_py()
        for chunk in column.chunks
    )
    return sum(size or 0 for size in sizes)


def _read_header(file: Any) -> bytes:
    """Read the header line; a quoted column name may hold a line break."""
    line = b""
    while len(line) < HEADER_BYTES_MAX:
        part = file.readline(HEADER_BYTES_MAX)
        line += part
        if not part or line.count(b'"') % 2 == 0:
            break
    return line


def _read_csv(path: Path, numbers: Sequence[str], words: Sequence[str]) -> pa.Table:
    """Read numbers at once when every value is one, else as text so that faults can be told."""
    try:
        return _parse_csv(path, dict.fromkeys(numbers, pa.float64()), words)
    except pa.ArrowInvalid:
        try:
            return _parse_csv(path, dict.fromkeys(numbers, pa.string()), words)
        except (pa.ArrowException, OSError) as error:
            raise _refuse(path, error) from error
    except (pa.ArrowException, OSError) as error:
        raise _refuse(path, error) from error


def _parse_csv(path: Path, kinds: dict[str, pa.DataType], words: Sequence[str]) -> pa.Table:
    kinds = {**kinds, **dict.fromkeys(words, pa.string())}
    with path.open("rb") as file:  # a path would be decompressed by its ending
        return pa.csv.read_csv(
            file,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=kinds,
                include_columns=list(kinds),
                null_values=_MISSING,
                strings_can_be_null=True,
            ),
        )


def _to_numbers(path: Path, name: str, column: pa.ChunkedArray) -> NumberColumn:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parse_numbers(column)
    if not (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise RefusedError(f"{path.name}: column {name!r} is {kind}, not numbers")
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    return NumberColumn(
        values=_to_floats(column.cast(pa.float64(), safe=False)), unreadable=np.empty(0, np.int64)
    )


def _parse_numbers(column: pa.ChunkedArray) -> NumberColumn:
    is_number = pc.match_substring_regex(column, _NUMBER)
    readable = pc.if_else(is_number, pc.utf8_trim_whitespace(column), None)
    is_bad = pc.and_(pc.is_valid(column), pc.invert(pc.fill_null(is_number, fill_value=False)))
    is_bad = pc.and_(is_bad, pc.not_equal(pc.fill_null(column, ""), ""))
    unreadable = np.flatnonzero(np.asarray(is_bad))
    return NumberColumn(
        values=_to_floats(readable.cast(pa.float64())),
        unreadable=unreadable.astype(np.int64),
        first_unreadable=str(column[int(unreadable[0])]) if len(unreadable) else "",
    )


def _to_floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values = pc.fill_null(column, float("nan"))
    return np.array(values, np.float64)


def _to_words(path: Path, name: str, column: pa.ChunkedArray) -> WordColumn:
    if pa.types.is_nested(column.type):
        raise RefusedError(f"{path.name}: column {name!r} is {column.type}, not words")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        encoded = pc.dictionary_encode(column.cast(pa.string())).unify_dictionaries()
    except pa.ArrowException as error:
        raise _refuse(path, error) from error
    words = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    if len(words) > WORDS_MAX:
        raise RefusedError(
            f"{path.name}: column {name!r} has {len(words):,} different values, at most"
            f" {WORDS_MAX:,} classes can be counted; is it a number? Then the task is a regression"
        )
    codes = [
        np.array(pc.fill_null(chunk.indices.cast(pa.int64()), -1), np.int64)
        for chunk in encoded.chunks
    ]
    return WordColumn(
        codes=np.concatenate(codes) if codes else np.empty(0, np.int64),
        words=tuple(str(word) for word in words),
    )


def _refuse(path: Path, error: Exception) -> RefusedError:
    reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return RefusedError(f"{path.name} cannot be read as a table: {reason}")
