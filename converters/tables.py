"""Read rows from CSV or Parquet files for the command line.

CSV needs a header and commas; an empty cell is a missing value. Parquet needs pyarrow.
"""

import csv
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError, MissingLibraryError
from edge_agent.contract.cells import CellError, CellReader
from edge_agent.contract.schema import Feature
from edge_agent.contract.texts import read_text
from edge_agent.statistics.packed_texts import pack_text

Array = NDArray[Any]
TABLE_BYTES_MAX = 1_073_741_824
ROWS_MAX = 5_000_000
COLUMNS_MAX = 65_536
CELLS_MAX = 200_000_000
TEXT_CELLS_MAX = 50_000_000
"""Of packed rows with texts, where each character is a number."""
UNFOLDED_BYTES_MAX = 4_294_967_296
"""Of a Parquet file by its own account, and of the texts of one of its columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Named columns of the same length.

    Attributes:
        name: File name, for errors.
        columns: Cells by column, in the file's order; texts or numbers.
        first_line: Line of the first row in the file, for errors.
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    first_line: int = 1

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.columns.values())))

    def read_numbers(self, names: Sequence[str]) -> Array:
        """Give columns as float64 [rows, columns]; empty cells become NaN.

        Raises:
            InvalidRequestError: A column is missing, or a cell is not a number.
        """
        numbers = np.empty((self.rows, len(names)))
        for place, name in enumerate(names):
            numbers[:, place] = self._read_column(name)
        return numbers

    def read_packed(self, features: Sequence[Feature]) -> Array:
        """Give the features as float64 [rows, width]: categories as codes, empty cells as NaN.

        Raises:
            InvalidRequestError: A column is missing, or a cell does not fit its feature.
        """
        width = sum(feature.width for feature in features)
        is_wide = any(feature.is_text for feature in features)
        if is_wide and self.rows * width > TEXT_CELLS_MAX:
            raise InvalidRequestError(
                f"{self.name}: {self.rows} rows of {width} packed characters and numbers are"
                f" {self.rows * width:,}, the limit is {TEXT_CELLS_MAX:,}; give"
                f" {TEXT_CELLS_MAX // width} rows, or a schema with a smaller chars_max"
            )
        packed = np.empty((self.rows, width))
        place = 0
        for feature in features:
            if feature.is_text:
                self._pack_texts(feature, packed[:, place : place + feature.width])
                place += feature.width
                continue
            for name in feature.columns:
                is_code = not feature.is_number
                packed[:, place] = (
                    self._read_codes(name, feature) if is_code else self._read_column(name)
                )
                place += 1
        return packed

    def _pack_texts(self, feature: Feature, cells: Array) -> None:
        values = self.read_values(feature.name)
        for line, (row, cell) in enumerate(zip(cells, values, strict=True), self.first_line):
            try:
                pack_text(row, read_text(feature, cell))
            except CellError as error:
                raise InvalidRequestError(
                    f"{self.name} line {line}, column {feature.name!r} {error}"
                ) from error

    def _read_codes(self, name: str, feature: Feature) -> Array:
        reader, codes = CellReader(feature), []
        for line, cell in enumerate(self.read_values(name), self.first_line):
            try:
                codes.append(reader.read(cell))
            except CellError as error:
                raise InvalidRequestError(
                    f"{self.name} line {line}, column {name!r} {error}"
                ) from error
        return np.array(codes, np.float64)

    def read_values(self, name: str) -> list[Any]:
        """Give the cells of one column as they are.

        Raises:
            InvalidRequestError: There is no such column.
        """
        if name not in self.columns:
            known = ", ".join(list(self.columns)[:20])
            raise InvalidRequestError(f"{self.name} has no column {name!r}; it has {known}")
        return list(self.columns[name])

    def _read_column(self, name: str) -> Array:
        cells = self.read_values(name)
        try:
            return np.array([_number(cell) for cell in cells], np.float64)
        except ValueError:
            for line, cell in enumerate(cells, self.first_line):
                try:
                    _number(cell)
                except ValueError as error:
                    raise InvalidRequestError(
                        f"{self.name} line {line}, column {name!r}:"
                        f" {str(cell)[:40]!r} is not a number"
                    ) from error
            raise


def read_table(path: Path) -> Table:
    """Read a ``.csv`` or ``.parquet`` file.

    Raises:
        InvalidRequestError: Too large, empty, of another kind or not readable.
        MissingLibraryError: Parquet without pyarrow.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe never comes, a device never ends
        raise InvalidRequestError(f"{path.name} is no regular file; save the rows as one")
    size = found.st_size
    if size > TABLE_BYTES_MAX:
        raise InvalidRequestError(f"{path.name} has {size} bytes, the limit is {TABLE_BYTES_MAX}")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _read_parquet(path)
    if kind == ".csv":
        return _read_csv(path)
    raise InvalidRequestError(f"{path.name}: rows are read from .csv or .parquet files")


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            _check_header(path, header)
            rows: list[list[str]] = []
            blank = 0
            for line in lines:
                if not line:
                    blank = blank or lines.line_num
                    continue
                if blank and len(header) == 1:
                    raise InvalidRequestError(
                        f"{path.name} line {blank} is blank, and of one column nobody knows whether"
                        ' that is a row: write an empty cell as ""'
                    )
                if len(line) != len(header):
                    raise InvalidRequestError(
                        f"{path.name} line {lines.line_num} has {len(line)} cells, the header"
                        f" {len(header)}"
                    )
                rows.append(line)
                if len(rows) > ROWS_MAX:
                    raise InvalidRequestError(f"{path.name} has more than {ROWS_MAX} rows")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequestError(f"{path.name} is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise InvalidRequestError(f"{path.name} has no rows")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Table(name=path.name, columns=columns, first_line=2)


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingLibraryError("pyarrow", path.name) from error
    try:
        schema = parquet.ParquetFile(path).schema_arrow
        names = schema.names
        _check_header(path, names)
        # Texts stay a dictionary until it is known how long they are together.
        texts = [field.name for field in schema if _is_text(field.type)]
        file = parquet.ParquetFile(path, read_dictionary=texts)
        _check_size(path, file.metadata)
        table = file.read()
        for name in names:
            size = _count_text_bytes(table.column(name))
            if size > UNFOLDED_BYTES_MAX:
                raise InvalidRequestError(
                    f"{path.name} column {name!r} unfolds to {size} bytes of text, the limit is"
                    f" {UNFOLDED_BYTES_MAX}"
                )
    except (ArrowException, OSError) as error:
        raise InvalidRequestError(f"{path.name} is not a Parquet file: {error}") from error
    if table.num_rows == 0:
        raise InvalidRequestError(f"{path.name} has no rows")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(name=path.name, columns=columns)


def _check_size(path: Path, about: Any) -> None:
    unfolded = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
    for what, found, limit in (
        ("rows", about.num_rows, ROWS_MAX),
        ("cells", about.num_rows * about.num_columns, CELLS_MAX),
        ("bytes unfolded", unfolded, UNFOLDED_BYTES_MAX),
    ):
        if found > limit:
            raise InvalidRequestError(f"{path.name} has {found} {what}, the limit is {limit}")


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _count_text_bytes(column: Any) -> int:
    """Count the bytes of dictionary-coded texts as if each stood written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type) or pa.types.is_primitive(column.type.value_type):
        return 0
    sizes = (
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices).cast(pa.int64())).as_py()
        for chunk in column.chunks
    )
    return sum(size or 0 for size in sizes)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header or not all(header) or len(header) > COLUMNS_MAX:
        raise InvalidRequestError(
            f"{path.name} needs a header of 1 to {COLUMNS_MAX} named columns in its first line"
        )
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise InvalidRequestError(f"{path.name} has several columns named {twice[0]!r}")


def _number(cell: Any) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return float("nan")
    return float(cell)
