"""Send what became true from a CSV file to the running agent; this process loads no model.

The file is that of ``edge-agent predict --csv`` with columns somebody filled in: ``true_class`` or
``true_value``, and ``true_class_NAME`` or ``true_value_NAME`` where an answer has several labels or
targets. An empty cell is not known yet; a line without any is passed over. Other columns are not
read, so what was answered is never taken for what is true.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from edge_agent.client import Client, connect
from edge_agent.contract.outputs import TARGETS_MAX
from edge_agent.core.late_labels import Truth
from edge_agent.errors import InputError

ANSWERS_PER_REQUEST = 200
FAULTS_KEPT = 20
ID = "prediction_id"
_CLASS, _VALUE = "true_class", "true_value"


@dataclass(slots=True, kw_only=True)
class Sent:
    """What became of a file.

    Attributes:
        taken: Answers whose labels were taken.
        refused: Answers with a label that was not, by the agent or because it cannot be read.
        empty: Lines without a label.
        faults: Line and reason of the first of those refused.
    """

    taken: int = 0
    refused: int = 0
    empty: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)

    def tell(self, line: int, reason: str) -> None:
        """Keep why a line was refused."""
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append((line, reason))


def send_labels(directory: Path, path: Path) -> Sent:
    """Send all labels of a file.

    Args:
        directory: The agent's.
        path: CSV with a header.

    Raises:
        ServingError: No agent runs, or it takes no labels.
        InputError: The file cannot be read, or has no column of labels.
    """
    sent = Sent()
    with connect(directory) as client:
        labels = read_labels(path, sent)
        while some := list(islice(labels, ANSWERS_PER_REQUEST)):
            _send(client, some, sent)
    return sent


def _send(client: Client, some: Sequence[tuple[int, str, Truth]], sent: Sent) -> None:
    told = client.feedback_many([(prediction_id, truth) for _, prediction_id, truth in some])
    sent.taken, sent.refused = sent.taken + told.taken, sent.refused + told.refused
    for place, reason in told.faults.items():
        sent.tell(some[place][0], reason)


def read_labels(path: Path, sent: Sent) -> Iterator[tuple[int, str, Truth]]:
    """Yield line, prediction id and labels; count in ``sent`` what is passed over.

    Raises:
        InputError: As of ``send_labels``.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = _find_columns(path, reader.fieldnames or ())
            for row in reader:
                line = reader.line_num
                try:
                    truth = _read_row(row, columns)
                except InputError as error:
                    sent.refused += 1
                    sent.tell(line, str(error))
                    continue
                if truth is None:
                    sent.empty += 1
                else:
                    yield line, (row.get(ID) or "").strip(), truth
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumn:
    """A column of labels.

    Attributes:
        column: Its header.
        name: Of the target or label; empty where an answer is one.
        is_class: Whether its cells are names of classes, not values.
    """

    column: str
    name: str
    is_class: bool


def _find_columns(path: Path, header: Sequence[str]) -> list[LabelColumn]:
    """Find the columns of labels in a header.

    Raises:
        InputError: There is none, or no column of prediction ids; or too many, or one twice.
    """
    columns = [
        LabelColumn(column=column, name=column[len(kind) + 1 :], is_class=kind == _CLASS)
        for column in header
        for kind in (_CLASS, _VALUE)
        if column == kind or (column.startswith(f"{kind}_") and len(column) > len(kind) + 1)
    ]
    if ID not in header or not columns:
        raise InputError(
            f"{path} needs column {ID} and one or more of {_CLASS}, {_VALUE}, {_CLASS}_NAME and"
            f" {_VALUE}_NAME; it has {', '.join(header)[:200] or 'no header'}"
        )
    if len(columns) > TARGETS_MAX + 2:
        raise InputError(f"{path} has {len(columns)} columns of labels, at most {TARGETS_MAX + 2}")
    twice = next((c.column for n, c in enumerate(columns) if c in columns[:n]), "")
    if twice:
        raise InputError(f"{path} has column {twice[:80]!r} twice; keep one")
    return columns


def _read_row(row: Mapping[str, str | None], columns: Sequence[LabelColumn]) -> Truth | None:
    """Read what a line says; None when it says nothing. Raises InputError."""
    said: dict[str, str | float] = {}
    for column in columns:
        cell = (row.get(column.column) or "").strip()
        if not cell:
            continue
        if column.name in said:
            raise InputError(f"{column.name or 'the answer'} has both a class and a value")
        said[column.name] = cell if column.is_class else _read_value(column, cell)
    if not said:
        return None
    if "" in said and len(said) > 1:
        names = ", ".join(name for name in said if name)
        raise InputError(f"labels with names ({names[:200]}) stand beside one without")
    return said.get("", said)


def _read_value(column: LabelColumn, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{column.column} is {cell[:80]!r}, which is no finite number")
    return value
