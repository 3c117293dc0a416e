"""Labels of sampled rows in a CSV or Parquet file, with the columns an export of them has.

``_device``, ``_prediction_id`` and ``_row`` say which row, ``_label`` or ``_label_NAME`` what is
true of it; other columns are not read. An empty cell is not known.
"""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from edge_agent.contract.outputs import TARGETS_MAX
from fleet_server.adapters.sample_columns import LABEL
from fleet_server.errors import RefusedError
from fleet_server.ports.samples import LabelLine

FILE_BYTES_MAX = 268_435_456
LINES_MAX = 100_000
ID_CHARS_MAX = 128
_KEY = ("_device", "_prediction_id", "_row")
_PARQUET = (".parquet", ".pq")


def read_label_lines(path: Path) -> list[LabelLine]:
    """Read the lines that say something.

    Raises:
        RefusedError: Not such a file, or more of it than is read.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise RefusedError(f"{path} has {size} bytes; at most {FILE_BYTES_MAX}: split it")
        table = _read_parquet(path) if path.suffix.lower() in _PARQUET else _read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise RefusedError(f"{path} cannot be read: {error}") from error
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    places = range(table.num_rows)
    rows = columns.get("_row") or [0 for _ in places]
    labels = [name for name in columns if name.startswith(LABEL)]
    found = []
    for place in places:
        said = {name[len(LABEL) + 1 :]: _read_cell(columns[name][place]) for name in labels}
        known = {name: cell for name, cell in said.items() if cell is not None}
        if known:
            device, prediction_id = columns["_device"][place], columns["_prediction_id"][place]
            found.append(
                LabelLine(
                    line=place + 1,
                    device=str(device or "")[:ID_CHARS_MAX],
                    prediction_id=str(prediction_id or "")[:ID_CHARS_MAX],
                    row=_read_row(rows[place]),
                    labels=known,
                )
            )
    return found


def _read_parquet(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = _choose(path, file.schema_arrow.names)
        _check_lines(path, file.metadata.num_rows)
        return file.read(columns=names)


def _read_csv(path: Path) -> pa.Table:
    with pa.csv.open_csv(path) as reader:
        names = _choose(path, reader.schema.names)
    text = pa.csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    table = pa.csv.read_csv(path, convert_options=text)
    _check_lines(path, table.num_rows)
    return table


def _choose(path: Path, names: list[str]) -> list[str]:
    """Return the columns to read; raises RefusedError."""
    labels = [name for name in names if name == LABEL or name.startswith(f"{LABEL}_")]
    if not labels or not {"_device", "_prediction_id"} <= set(names):
        raise RefusedError(
            f"{path} needs columns _device, _prediction_id, _row and {LABEL} or {LABEL}_NAME, as"
            f" `edgefleet samples export` writes them; it has {', '.join(names)[:200]}"
        )
    if len(labels) > TARGETS_MAX + 1:
        raise RefusedError(f"{path} has {len(labels)} columns of labels, at most {TARGETS_MAX + 1}")
    wanted = [*_KEY, *labels]
    twice = next((name for name in wanted if names.count(name) > 1), "")
    if twice:
        raise RefusedError(f"{path} has column {twice[:80]!r} twice; keep one")
    return [name for name in wanted if name in names]


def _check_lines(path: Path, lines: int) -> None:
    if lines > LINES_MAX:
        raise RefusedError(f"{path} has {lines} lines; at most {LINES_MAX} at once: split it")


def _read_cell(value: Any) -> str | float | None:
    """Read a cell; None when it is not known."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else str(value)


def _read_row(value: Any) -> int:
    """Read which row of its prediction a line is of; -1, which is none, for what is no number."""
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):  # the last of an infinite one
        return -1
