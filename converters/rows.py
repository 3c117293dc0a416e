"""Check the rows a build is given and round them to what travels: float32."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from edge_agent.contract.schema import Feature, ModelSchema

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a build.

    Attributes:
        calibration: float32 [N, width].
        holdout: float32 [M, width].
        holdout_raw: As given, before rounding.
        is_exact: Whether rounding changed nothing.
    """

    calibration: Array
    holdout: Array
    holdout_raw: Array
    is_exact: bool


def check_rows(schema: ModelSchema, calibration: Array, holdout: Array, targets: Array) -> Rows:
    """Check shapes and numbers.

    Raises:
        InvalidRequestError: Names the table, and the column where one is at fault.
    """
    columns = (len(schema.answer_names),) if schema.answer_names else ()
    if np.shape(targets) != (len(holdout), *columns):
        raise InvalidRequestError(
            f"holdout has {len(holdout)} rows and targets of shape {np.shape(targets)}, needs"
            f" {(len(holdout), *columns)}"
        )
    raw = np.asarray(holdout)
    rounded = _round(schema, raw, "holdout")
    return Rows(
        calibration=_round(schema, calibration, "calibration"),
        holdout=rounded,
        holdout_raw=raw,
        is_exact=bool(np.array_equal(rounded.astype(np.float64), raw, equal_nan=True)),
    )


def _round(schema: ModelSchema, rows: Array, table: str) -> Array:
    try:
        wide = np.asarray(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{table} holds more than numbers: {error}") from error
    if wide.ndim != 2 or wide.shape[1] != schema.width or len(wide) == 0:
        raise InvalidRequestError(
            f"{table} has shape {wide.shape}, needs rows of the schema's {schema.width} columns"
        )
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(wide.astype(np.float32))
    beyond = np.isinf(rounded).any(axis=0)
    if beyond.any():
        place = int(np.argmax(beyond))
        row = int(np.argmax(np.isinf(rounded[:, place])))
        raise InvalidRequestError(
            f"{table} column {schema.columns[place]!r} has a number beyond float32:"
            f" {wide[row, place]:g} in row {row + 1}; leave such rows out or cap the column"
        )
    if not schema.is_numeric:
        _check_typed(schema, rounded, table)
    return rounded


def _check_typed(schema: ModelSchema, rows: Array, table: str) -> None:
    """Check that codes are codes and that only what may be missing is."""
    first = 0
    declared = []
    for feature in schema.features:
        if feature.is_text:
            _check_texts(feature, rows[:, first : first + feature.width], table)
        else:
            declared += [(feature, first + n, name) for n, name in enumerate(feature.columns)]
        first += feature.width
    for feature, column, name in declared:
        values = rows[:, column]
        is_missing = np.isnan(values)
        if is_missing.any() and not feature.is_nullable:
            raise InvalidRequestError(
                f"{table} column {name!r}: {int(is_missing.sum())} values are missing, first in row"
                f" {int(np.argmax(is_missing)) + 1}; the schema allows none (missing)"
            )
        if feature.is_number:
            continue
        low, high = feature.bounds
        there = values[~is_missing]
        is_wrong = (there < (low or 0)) | (there > (high or 0)) | (there != np.floor(there))
        if is_wrong.any():
            raise InvalidRequestError(
                f"{table} column {name!r}: {there[int(np.argmax(is_wrong))]:g} is no code of a"
                f" {feature.dtype}, which goes from {low:g} to {high:g}; pack texts by the schema"
            )


def _check_texts(feature: Feature, cells: Array, table: str) -> None:
    """Check that packed texts are lengths and code points."""
    lengths, codes = cells[:, 0], cells[:, 1:]
    is_missing = np.isnan(lengths)
    if is_missing.any() and not feature.is_nullable:
        raise InvalidRequestError(
            f"{table} column {feature.name!r}: {int(is_missing.sum())} texts are missing, first in"
            f" row {int(np.argmax(is_missing)) + 1}; the schema allows none (missing)"
        )
    is_length = (lengths >= 0) & (lengths <= feature.chars_max) & (lengths == np.floor(lengths))
    low, high = feature.bounds
    is_code = (codes >= (low or 0)) & (codes <= (high or 0)) & (codes == np.floor(codes))
    wrong = ~(is_length | is_missing) | ~is_code.all(axis=1)
    if wrong.any():
        raise InvalidRequestError(
            f"{table} column {feature.name!r}: row {int(np.argmax(wrong)) + 1} is no packed text of"
            f" at most {feature.chars_max} characters; pack texts by the schema"
        )
