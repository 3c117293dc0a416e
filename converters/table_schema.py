"""Read from a table, and from what was fitted on it, which features a model takes.

A column that a vectorizer reads is a text, one whose encoder learned texts a category ("01234" is
no number then). Of the others one whose cells are all numbers is a number, of true and false a
boolean, any other a category with the texts found. Empty cells make it
one that may be missing. Whether a category may be one that is not listed is asked of the estimator
itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer

from converters.errors import InvalidRequestError
from converters.table_feed import (
    TableFeed,
    TableModel,
    list_columns,
    list_parts,
    reads_one_text,
)
from converters.tables import Table
from converters.text_plan import is_vectorizer
from converters.text_table import TextTable
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.schema import (
    CATEGORIES_MAX,
    TEXT_CHARS_MAX,
    Dtype,
    Feature,
    ModelSchema,
)

TEXT_ROOM_MIN = 64
"""Fewest characters that an inferred text may have."""
_FLAGS = frozenset({"true", "false"})


def infer_features(
    table: Table,
    columns: Sequence[str],
    texts: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> tuple[Feature, ...]:
    """Give a feature for each column of a table.

    Args:
        table: Whose cells are looked at.
        columns: In the order of the features.
        texts: Those of them that are free text.
        categories: Those of them that are a category whatever their cells look like.

    Raises:
        InvalidRequestError: A column is not there, is empty, or has too many or too long texts.
    """
    return tuple(
        _infer_text(table, column)
        if column in texts
        else _infer(table, column, is_category=column in categories)
        for column in columns
    )


def list_texts(estimator: Any, columns: Sequence[str]) -> list[str]:
    """Name the columns that a vectorizer reads."""
    if reads_one_text(estimator) and len(columns) == 1:
        return [*columns]
    found: dict[str, None] = {}
    for part in list_parts(estimator):
        if isinstance(part, ColumnTransformer) and hasattr(part, "transformers_"):
            for _, step, chosen in part.transformers_:
                if reads_one_text(step):
                    places = list_columns(part, chosen, part.n_features_in_)
                    found |= dict.fromkeys(columns[place] for place in places)
    return list(found)


def list_categories(estimator: Any, columns: Sequence[str]) -> list[str]:
    """Name the columns of which an encoder learned texts."""
    parts = list_parts(estimator)
    tables = [p for p in parts if isinstance(p, ColumnTransformer) and hasattr(p, "transformers_")]
    branches = [
        (step, [columns[place] for place in list_columns(part, chosen, part.n_features_in_)])
        for part in tables
        for _, step, chosen in part.transformers_
        if part.n_features_in_ == len(columns)
    ] or [(estimator, [*columns])]
    found: dict[str, None] = {}
    for step, names in branches:
        for part in list_parts(step):
            known = getattr(part, "categories_", None)
            if isinstance(known, list) and len(known) == len(names):
                of_texts = (any(isinstance(value, str) for value in values) for values in known)
                found |= dict.fromkeys(
                    n for n, is_text in zip(names, of_texts, strict=True) if is_text
                )
    return list(found)


def is_fed_tables(estimator: Any) -> bool:
    """Tell whether an estimator was fitted on texts, not on packed rows."""
    parts = list_parts(estimator)
    if any(isinstance(part, TextTable) for part in parts):
        return False
    return any(
        is_vectorizer(part) or any(isinstance(value, str) for value in _list_known(part))
        for part in parts
    )


def wrap_table_model(
    estimator: Any, schema: ModelSchema, *, is_schema_given: bool
) -> tuple[Any, ModelSchema]:
    """Give a model of tables as one, and what it allows in its schema.

    Args:
        estimator: Fitted on a table of the schema's columns, or on packed rows.
        schema: Given, or with features of ``infer_features``.
        is_schema_given: Then nothing of it changes.

    Returns:
        The estimator itself and the schema when it was fitted on packed rows.
    """
    if schema.is_numeric or not is_fed_tables(estimator):
        return estimator, schema
    known = [value for part in list_parts(estimator) for value in _list_known(part)]
    texts = {value for value in known if isinstance(value, str)}
    by_text = {_write(value): value for value in known if not isinstance(value, str)}
    originals = {
        f.name: tuple(t if t in texts else by_text.get(t, t) for t in f.categories)
        for f in schema.features
        if f.dtype == Dtype.CATEGORY
    }
    has_none = any(value is None for value in known) or any(
        getattr(part, "missing_values", 0) is None for part in list_parts(estimator)
    )
    kinds = (Dtype.CATEGORY, Dtype.BOOL)
    missing = {f.name: None for f in schema.features if f.dtype in kinds} if has_none else {}
    model = TableModel(estimator=estimator, originals=originals, missing=missing)
    if is_schema_given:
        return model, schema
    opened = tuple(
        replace(f, is_open=True) if _takes_unknown(model, schema, f) else f for f in schema.features
    )
    return model, replace(schema, features=opened)


def _infer(table: Table, column: str, *, is_category: bool) -> Feature:
    cells = table.read_values(column)
    there = [cell for cell in cells if not _is_empty(cell)]
    is_nullable = len(there) < len(cells)
    if not there:
        raise InvalidRequestError(f"{table.name} column {column!r} is empty in every row")
    words = {_write(cell) for cell in there}
    if not is_category and all(word.lower() in _FLAGS for word in words):
        return Feature(name=column, dtype=Dtype.BOOL, is_nullable=is_nullable)
    if not is_category and all(_is_number(word) for word in words):
        return Feature(name=column, is_nullable=is_nullable)
    try:
        return Feature(
            name=column,
            dtype=Dtype.CATEGORY,
            categories=tuple(sorted(words)),
            is_nullable=is_nullable,
        )
    except MalformedError as error:
        raise InvalidRequestError(
            f"{table.name} column {column!r} has {len(words)} texts, at most {CATEGORIES_MAX}"
            " are a category; a free text needs a vectorizer that reads its column"
        ) from error


def _infer_text(table: Table, column: str) -> Feature:
    """Allow twice the longest text that is there."""
    cells = table.read_values(column)
    longest = max((len(cell) for cell in cells if isinstance(cell, str)), default=0)
    if longest > TEXT_CHARS_MAX:
        raise InvalidRequestError(
            f"{table.name} column {column!r} has a text of {longest} characters, at most"
            f" {TEXT_CHARS_MAX} are taken; cut the texts before training"
        )
    room = TEXT_ROOM_MIN
    while room < 2 * longest:
        room *= 2
    return Feature(
        name=column,
        dtype=Dtype.TEXT,
        chars_max=min(room, TEXT_CHARS_MAX),
        is_nullable=any(cell is None for cell in cells),
    )


def _takes_unknown(model: TableModel, schema: ModelSchema, feature: Feature) -> bool:
    if feature.dtype != Dtype.CATEGORY:
        return False
    row = np.zeros((1, schema.width))
    row[0, schema.columns.index(feature.name)] = -1
    feed = TableFeed(model, schema)
    try:
        feed.estimator.predict(feed(row))
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _list_known(part: Any) -> list[Any]:
    known = getattr(part, "categories_", None)
    if not isinstance(known, list):
        return []
    return [value for column in known for value in np.asarray(column, object).tolist()]


def _is_empty(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())  # noqa: PLR0124 - NaN


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _write(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
