"""Compare the source's answers with a graph's on the same rows. Pure.

A conversion goes wrong on few rows by large jumps, never everywhere by a little: so rows and labels
are counted and the worst rows named, beside the largest error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.shown_rows import ShownRows
from edge_agent.contract.outputs import NamedLabel, slice_labels
from edge_agent.contract.schema import Role, Task

Array = NDArray[Any]
WORST_ROWS_MAX = 10
WORST_CELLS_MAX = 2_048
"""Inputs shown with the worst rows, all of them together."""
QUANTILES = (50, 90, 99)
TOLERANCE_FP32 = 1e-4
"""Of a row that counts as off, relative to ``1 + |expected|``: float32 arithmetic stays below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """One row on which source and graph differ most.

    Attributes:
        row: Position among the compared rows.
        expected: The source's label index or value.
        got: The graph's.
        error: Largest absolute difference of its probabilities, or of its value.
        inputs: What was asked, by column; empty where there was no room for it.
        target: Of several, the one that ``expected``, ``got`` and ``error`` are of: the one that
            differs most.
        label: Of several, the one that ``expected`` and ``got`` are of: the one that flipped, or
            differs most.
    """

    row: int
    expected: float
    got: float
    error: float
    inputs: Mapping[str, float | str] = field(default_factory=dict)
    target: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelParity:
    """How far one of several labels is from the source's; as the attributes of ``Parity``."""

    label: str
    flips: int
    rows_off: int
    max_abs_error: float
    error_quantiles: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParity:
    """How far one of several targets is from the source's; as the attributes of ``Parity``."""

    target: str
    rows_off: int
    max_abs_error: float
    error_quantiles: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a graph is from its source.

    Attributes:
        rows: Rows compared.
        flips: Rows with another label, of several one at least; 0 in a regression.
        rows_off: Rows with an error beyond the tolerance, relative to ``1 + |expected|``.
        max_abs_error: Largest absolute error; infinite where only one side is finite.
        error_quantiles: Absolute error of a row, by percent of the rows that stay below it.
        worst: The rows with a flip, then those with the largest error.
        targets: Of several, each by itself; a row is off when one of its targets is.
        labels: Of several, each by itself.
    """

    rows: int
    flips: int
    rows_off: int
    max_abs_error: float
    worst: tuple[WorstRow, ...]
    error_quantiles: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[TargetParity, ...] = ()
    labels: tuple[LabelParity, ...] = ()

    @property
    def flip_share(self) -> float:
        """Flips as a share of the rows."""
        return self.flips / self.rows if self.rows else 0.0

    @property
    def rows_off_share(self) -> float:
        """Rows off as a share of the rows."""
        return self.rows_off / self.rows if self.rows else 0.0


def compare_outputs(
    task: Task,
    source: Mapping[str, Array],
    shipped: Mapping[str, Array],
    tolerance: float = TOLERANCE_FP32,
    *,
    rows: Array | ShownRows | None = None,
    columns: Sequence[str] = (),
    targets: Sequence[str] = (),
    labels: Sequence[NamedLabel] = (),
) -> Parity:
    """Compare two sets of outputs by tensor name.

    Args:
        task: Decides what is compared.
        source: The expected outputs.
        shipped: The outputs to judge.
        tolerance: Beyond it a row is off, relative to ``1 + |expected|``.
        rows: What was asked, shown with the worst rows.
        columns: Names of its columns.
        targets: Names of the values of a row, where there are several.
        labels: The labels of a row, where there are several.

    >>> ones = {"value": np.array([1.0, 2.0])}
    >>> compare_outputs(Task.REGRESSION, ones, {"value": np.array([1.0, 2.5])}).rows_off
    1
    """
    numbers = str(Role.PROBABILITIES if task is Task.CLASSIFICATION else Role.VALUE)
    expected = np.asarray(source[numbers], np.float64)
    got = np.asarray(shipped[numbers], np.float64)
    cells = _absolute_errors(expected, got)
    relative_cells = cells / (1 + _magnitude(expected))
    errors, relative = _row_wise_max(cells), _row_wise_max(relative_cells)
    flipped: Array = np.zeros(len(errors), bool)
    place_of: Array = np.zeros(len(errors), np.intp)
    each = list[LabelParity]()
    if task is Task.CLASSIFICATION:
        both = [_as_table(one[Role.LABEL]) for one in (source, shipped)]
        differs: Any = both[0] != both[1]
        flipped = differs.any(axis=1)
        place_of = np.argmax(differs, axis=1)
        if labels:
            each, place_of = _compare_labels(
                labels, differs, cells, np.greater(relative_cells, tolerance)
            )
        told = _pick_each(both[0], place_of), _pick_each(both[1], place_of)
    else:
        worst_of_row = np.argmax(cells, axis=1) if cells.ndim == 2 else None
        told = _pick_each(expected, worst_of_row), _pick_each(got, worst_of_row)
    order = np.lexsort((np.arange(len(errors)), -errors, ~flipped))[:WORST_ROWS_MAX]
    shown = WORST_CELLS_MAX // max(1, len(columns)) if rows is not None else 0
    return Parity(
        rows=len(errors),
        flips=int(np.sum(flipped)),
        rows_off=int(np.sum(relative > tolerance)),
        max_abs_error=float(np.max(errors, initial=0.0)),
        error_quantiles=_find_quantiles(errors),
        worst=tuple(
            WorstRow(
                row=int(row),
                expected=float(told[0][row]),
                got=float(told[1][row]),
                error=float(errors[row]),
                inputs=_name_cells(rows, columns, int(row)) if place < shown else {},
                target=targets[int(np.argmax(cells[row]))] if targets else "",
                label=labels[int(place_of[row])].name if labels else "",
            )
            for place, row in enumerate(order)
            if flipped[row] or errors[row] > 0
        ),
        targets=tuple(
            TargetParity(
                target=name,
                rows_off=int(np.sum(relative_cells[:, place] > tolerance)),
                max_abs_error=float(np.max(cells[:, place], initial=0.0)),
                error_quantiles=_find_quantiles(cells[:, place]),
            )
            for place, name in enumerate(targets)
        ),
        labels=tuple(each),
    )


def _compare_labels(
    labels: Sequence[NamedLabel], differs: Array, cells: Array, is_off: Array
) -> tuple[list[LabelParity], Array]:
    """Compare label by label; tells also of each row the label that flipped or differs most."""
    columns = slice_labels(labels)
    errors = np.stack([cells[:, own].max(axis=1, initial=0.0) for own in columns], axis=1)
    each = [
        LabelParity(
            label=label.name,
            flips=int(differs[:, place].sum()),
            rows_off=int(is_off[:, columns[place]].any(axis=1).sum()),
            max_abs_error=float(np.max(errors[:, place], initial=0.0)),
            error_quantiles=_find_quantiles(errors[:, place]),
        )
        for place, label in enumerate(labels)
    ]
    is_flipped: Any = differs.any(axis=1, keepdims=True)
    candidates = np.where(is_flipped & ~differs, -1.0, errors)
    return each, np.argmax(candidates, axis=1)


def _as_table(labels: Array) -> Array:
    """Give labels as [rows, labels], one column where a row has one."""
    return np.asarray(labels).reshape(len(labels), -1)


def _pick_each(values: Array, columns: Array | None) -> Array:
    """Give one cell of each row; the value itself where a row has one."""
    picked: Array = values if columns is None else values[np.arange(len(values)), columns]
    return picked


def _find_quantiles(errors: Array) -> dict[str, float]:
    """Give observed errors, not points between two: an infinite one stays what it is."""
    if len(errors) == 0:
        return {}
    found = np.percentile(errors, QUANTILES, method="higher")
    return {str(percent): float(error) for percent, error in zip(QUANTILES, found, strict=True)}


def _name_cells(
    rows: Array | ShownRows | None, columns: Sequence[str], row: int
) -> dict[str, float | str]:
    if rows is None:
        return {}
    cells = zip(columns, rows[row], strict=True)
    return {name: cell if isinstance(cell, str) else float(cell) for name, cell in cells}


def _absolute_errors(expected: Array, got: Array) -> Array:
    """Differences; equal non-finite numbers do not differ, others infinitely."""
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(expected - got)
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    clean: Array = np.where(same, 0.0, np.where(np.isfinite(errors), errors, np.inf))
    return clean


def _magnitude(expected: Array) -> Array:
    finite: Array = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    return finite


def _row_wise_max(values: Array) -> Array:
    axes = tuple(range(1, values.ndim))
    largest: Array = values.max(axis=axes, initial=0.0) if axes else values
    return largest
