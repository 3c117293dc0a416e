"""Judge a raw table against the spec and turn it into a ``Dataset``; every fault at once.

Pure: the file was read by a ``TableReader``. Values travel as float32, so what float32 cannot
hold is refused here and not found on a device.
"""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.outputs import LABELS_CLASSES_MAX, NamedLabel
from edge_agent.contract.schema import Feature, Task
from fleet_server.errors import RefusedError
from fleet_server.ports.training import NumberColumn, RawTable
from fleet_server.training.categories import (
    VALUES_MAX_DEFAULT,
    CodedColumn,
    code_column,
    settle_features,
)
from fleet_server.training.class_names import find_missing, judge_classes, name_classes
from fleet_server.training.dataset import Dataset
from fleet_server.training.row_hash import (
    Lanes,
    digest_rows,
    hash_numbers,
    hash_rows,
    hash_words,
    order_rows,
)
from fleet_server.training.spec import Spec
from fleet_server.training.spec_features import FLOAT32_MAX, INTEGER_EXACT_MAX
from fleet_server.training.texts import PackedColumn, pack_column

CELLS_MAX = 250_000_000
"""Rows times columns: 1 GB as float32."""
PROBLEMS_SHOWN_MAX = 20

Floats = NDArray[np.float64]


class DataError(RefusedError):
    """A table that does not hold what the spec declares.

    Attributes:
        problems: One sentence each.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        shown = [f"  {say}" for say in problems[:PROBLEMS_SHOWN_MAX]]
        if len(problems) > PROBLEMS_SHOWN_MAX:
            shown.append(f"  and {len(problems) - PROBLEMS_SHOWN_MAX} more")
        super().__init__("\n".join([f"{source}: {count}", *shown]))
        self.problems = tuple(problems)


@dataclass(slots=True, kw_only=True)
class _Judge:
    rows: int
    problems: list[str] = field(default_factory=list)

    def refuse(
        self,
        column: str,
        bad: NDArray[np.bool_],
        what: str,
        then: str,
        values: Floats | None = None,
    ) -> None:
        """Note how many values are bad, where the first is and what to do."""
        count = int(bad.sum())
        if count:
            row = int(np.argmax(bad))
            first = "" if values is None else f"{values[row]:g} "
            self.problems.append(
                f"column {column!r}: {count:,} of {self.rows:,} values {what}; first {first}in"
                f" row {row + 1}. {then}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueAnswers:
    """What the rows of a table should be answered.

    Attributes:
        name: Column of the answer; a JSON array of several.
        targets: int64 class index or float64 value, [rows]; several, [rows, targets or labels].
        classes: Names by index; empty for a regression and for several labels.
        lanes: Hash of each row's answer, uint64 [rows, 2].
    """

    name: str
    targets: NDArray[Any]
    classes: tuple[str, ...]
    lanes: Lanes
    labels: tuple[NamedLabel, ...] = ()


def check_columns(spec: Spec, columns: Sequence[str], *, source: str) -> None:
    """Check that every declared column is in the file, once.

    Raises:
        DataError: Naming each that is not, with the nearest name there is.
    """
    counts, problems = Counter(columns), []
    wanted = [(c, f"data.features.{f.name}") for f in spec.data.features for c in f.table_columns]
    answers = [(column, "data.target") for column in spec.data.target_columns]
    for column, declared in [*wanted, *answers]:
        if counts[column] > 1:
            problems.append(f"column {column!r} ({declared}) is in the file {counts[column]} times")
        elif not counts[column]:
            near = difflib.get_close_matches(column, list(counts), 1)
            hint = f"did you mean {near[0]!r}?" if near else _list_columns(columns)
            problems.append(f"column {column!r} ({declared}) is not in the file; {hint}")
    if problems:
        raise DataError(source, problems)


def make_dataset(spec: Spec, table: RawTable, *, source: str) -> Dataset:
    """Check every value and give the rows in an order of their own.

    Raises:
        DataError: No rows, missing or unreadable values, values out of range, one class only.
    """
    if table.rows == 0:
        raise DataError(source, ["the table has no rows"])
    width = len(spec.data.columns)
    if table.rows * width > CELLS_MAX:
        raise DataError(
            source, [f"{table.rows:,} rows of {width:,} columns are over {CELLS_MAX:,} values"]
        )
    judge = _Judge(rows=table.rows)
    features, coded, packed = _read_features(judge, spec, table)
    answers = _judge_answers(judge, spec, table)
    if judge.problems:
        raise DataError(f"{source} (rows counted from 1, without the header)", judge.problems)
    named = spec.data.table_columns
    texts = {named.index(own): one.lanes for own, one in coded.items()}
    texts |= {named.index(own): one.lanes for own, one in packed.items()}
    lanes = hash_rows(features[:, _list_hashed(spec)], answers.lanes, texts)
    order = order_rows(lanes)
    names = json.dumps([list(named), answers.name])
    return Dataset(
        features=features[order],
        targets=answers.targets[order],
        classes=answers.classes,
        lanes=lanes[order],
        sha256=digest_rows(named, answers.name, lanes),
        columns_sha256=hashlib.sha256(names.encode()).hexdigest(),
        declared=settle_features(spec.data.features, coded),
        labels=answers.labels,
    )


def read_answers(spec: Spec, table: RawTable, *, source: str) -> TrueAnswers:
    """Judge the answers of a table alone.

    Raises:
        DataError: No rows, missing or unreadable answers, one class only.
    """
    if table.rows == 0:
        raise DataError(source, ["the table has no rows"])
    judge = _Judge(rows=table.rows)
    answers = _judge_answers(judge, spec, table)
    if judge.problems:
        raise DataError(f"{source} (rows counted from 1, without the header)", judge.problems)
    return answers


def _judge_answers(judge: _Judge, spec: Spec, table: RawTable) -> TrueAnswers:
    name = spec.data.target
    classes: tuple[str, ...] = ()
    targets: NDArray[Any]
    if spec.model.task is Task.CLASSIFICATION and spec.data.targets:
        return _judge_labels(judge, spec, table)
    if spec.model.task is Task.CLASSIFICATION:
        targets, classes = _judge_label(judge, name, table)
        target_lanes = hash_words(targets, classes)
    elif spec.data.targets:
        columns = [_check_target(judge, one, table.numbers[one]) for one in spec.data.targets]
        targets = np.stack(columns, axis=1)
        target_lanes = hash_rows(targets[:, :-1], hash_numbers(targets[:, -1]))
        name = json.dumps(spec.data.targets)
    else:
        targets = _check_target(judge, name, table.numbers[name])
        target_lanes = hash_numbers(targets)
    return TrueAnswers(name=name, targets=targets, classes=classes, lanes=target_lanes)


def _judge_label(
    judge: _Judge, name: str, table: RawTable
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    judge.refuse(
        name,
        find_missing(table.words[name]),
        "are missing",
        "Drop these rows: their answer is not known",
    )
    indexes, classes = name_classes(table.words[name])
    judge.problems += judge_classes(name, classes)
    return indexes, classes


def _judge_labels(judge: _Judge, spec: Spec, table: RawTable) -> TrueAnswers:
    """Judge several labels, each by itself; together they have at most LABELS_CLASSES_MAX."""
    names = spec.data.targets
    read = [_judge_label(judge, name, table) for name in names]
    lanes = [hash_words(*one) for one in read]
    count = sum(len(classes) for _, classes in read)
    if count > LABELS_CLASSES_MAX:
        judge.problems.append(
            f"data.target: the {len(names)} labels have {count:,} classes together, at most"
            f" {LABELS_CLASSES_MAX:,}; write two specs of fewer labels"
        )
    others = np.zeros((table.rows, len(names) - 1), np.float32)
    return TrueAnswers(
        name=json.dumps(names),
        targets=np.stack([indexes for indexes, _ in read], axis=1),
        classes=(),
        lanes=hash_rows(others, lanes[-1], dict(enumerate(lanes[:-1]))),
        labels=()
        if judge.problems
        else tuple(
            NamedLabel(name=name, classes=classes)
            for name, (_, classes) in zip(names, read, strict=True)
        ),
    )


def settle_spec(spec: Spec, dataset: Dataset) -> Spec:
    """Give the spec with the categories that the data taught."""
    return replace(spec, data=replace(spec.data, features=dataset.declared))


def _list_hashed(spec: Spec) -> list[int] | slice:
    """Give a packed column for each column of the table: a text counts as a whole."""
    if not spec.data.texts:
        return slice(None)
    first, places = 0, list[int]()
    for feature in spec.data.features:
        places += range(first, first + (1 if feature.is_text else feature.width))
        first += feature.width
    return places


def _read_features(
    judge: _Judge, spec: Spec, table: RawTable
) -> tuple[NDArray[np.float32], dict[str, CodedColumn], dict[str, PackedColumn]]:
    features = np.empty((table.rows, len(spec.data.columns)), np.float32)
    coded: dict[str, CodedColumn] = {}
    packed: dict[str, PackedColumn] = {}
    place = 0
    for feature in spec.data.features:
        if feature.is_text:
            text = packed[feature.name] = pack_column(feature, table.words[feature.name])
            judge.problems += text.problems
            features[:, place : place + feature.width] = text.cells
            place += feature.width
            continue
        if not feature.is_number:
            limit = spec.data.values_max.get(feature.name, VALUES_MAX_DEFAULT)
            one = coded[feature.name] = code_column(feature, table.words[feature.name], limit)
            judge.problems += one.problems
            features[:, place] = one.codes
            place += 1
            continue
        for column in feature.columns:
            raw = table.numbers[column]
            values = _check_numbers(judge, column, raw, is_nullable=feature.is_nullable)
            _check_feature(judge, feature, column, values)
            with np.errstate(over="ignore"):  # what overflows was noted
                features[:, place] = values
            place += 1
    return features, coded, packed


def _check_feature(judge: _Judge, feature: Feature, column: str, values: Floats) -> None:
    where = f"data.features.{feature.name}"
    low = -np.inf if feature.low is None else feature.low
    high = np.inf if feature.high is None else feature.high
    judge.refuse(
        column,
        (values < low) | (values > high),
        f"lie outside [{low:g}, {high:g}]",
        f"Mend the data or the range of {where}",
        values,
    )
    limit, kind = FLOAT32_MAX, "holds"
    if feature.dtype == "int64":
        limit, kind = float(INTEGER_EXACT_MAX), "counts exactly"
        judge.refuse(
            column,
            (values != np.round(values)) & ~np.isnan(values),
            "are not whole numbers",
            f"Mend the data or declare {where} as float32",
            values,
        )
    judge.refuse(
        column, np.abs(values) > limit, f"are beyond what float32 {kind}", "Rescale it", values
    )


def _check_numbers(
    judge: _Judge, column: str, raw: NumberColumn, *, is_nullable: bool = False
) -> Floats:
    """Note unreadable, missing and infinite values; they come back as NaN."""
    unreadable = np.zeros(judge.rows, bool)
    unreadable[raw.unreadable] = True
    judge.refuse(
        column,
        unreadable,
        f"are not numbers (such as {raw.first_unreadable[:40]!r})",
        "Mend the data",
    )
    missing = np.isnan(raw.values) & ~unreadable
    if not is_nullable:
        judge.refuse(column, missing, "are missing", "Fill or drop these rows")
    infinite = np.isinf(raw.values)
    judge.refuse(column, infinite, "are infinite", "Mend the data")
    return np.where(infinite, np.nan, raw.values)


def _check_target(judge: _Judge, column: str, raw: NumberColumn) -> Floats:
    values = _check_numbers(judge, column, raw)
    judge.refuse(
        column,
        np.abs(values) > FLOAT32_MAX,
        "are beyond what float32 holds",
        "Rescale it",
        values,
    )
    if np.all(values == values[0]):
        judge.problems.append(
            f"target {column!r} is {values[0]:g} in all {judge.rows:,} rows; there is nothing to"
            " learn"
        )
    return values


def _list_columns(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(c) for c in columns[:8])
    return f"it has {shown}" + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
