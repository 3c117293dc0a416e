"""Check the rows a build is given and round them to what travels: float32."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from edge_agent.contract.schema import ModelSchema

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
    if len(np.shape(targets)) != 1 or len(targets) != len(holdout):
        raise InvalidRequestError(
            f"holdout has {len(holdout)} rows and targets of shape {np.shape(targets)}"
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
        column = schema.columns[int(np.argmax(beyond))]
        raise InvalidRequestError(f"{table} column {column!r} has a number beyond float32")
    return rounded
