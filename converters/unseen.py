"""What rows lack: values the model asks for, and what no held-out row shows. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from edge_agent.contract.schema import ModelSchema

NAMED_MAX = 10
HOLDOUT_ROWS_FEW = 30
"""Below it a share of rows moves by more than 3 % with one row."""


def say_missing(rows: NDArray[Any]) -> str:
    """Say where rows have missing values and what helps, after a model refused them.

    >>> say_missing(np.array([[1.0, 2.0], [3.0, np.nan]]))
    '; 1 of 2 rows has a missing value, first row 2 in column 2: put an imputer before the model'
    >>> say_missing(np.ones((2, 2)))
    ''
    """
    if not np.issubdtype(rows.dtype, np.floating) or rows.ndim != 2:
        return ""
    gaps = np.isnan(rows)
    at = gaps.any(axis=1)
    count = int(np.sum(at))
    if not count:
        return ""
    row = int(np.argmax(at))
    column = int(np.argmax(gaps[row])) + 1
    return (
        f"; {count} of {len(rows)} rows {'has' if count == 1 else 'have'} a missing value, first"
        f" row {row + 1} in column {column}: put an imputer before the model"
    )


def note_unseen(schema: ModelSchema, holdout: NDArray[np.float32]) -> tuple[str, ...]:
    """Say which features have no value in any held-out row, and when there are few rows.

    Args:
        schema: Names the features.
        holdout: Rows [N, width].

    Raises:
        InvalidRequestError: None has one.
    """
    is_empty: NDArray[np.bool_] = np.min(np.isnan(holdout), axis=0)
    unseen, first = [], 0
    for feature in schema.features:
        if is_empty[first : first + feature.width].all():
            unseen.append(feature.name)
        first += feature.width
    if is_empty.all():
        raise InvalidRequestError(
            f"no held-out row has a value in any column, {unseen[0]!r} and the others: nothing of"
            " the model can be compared; give rows as the device will see them"
        )
    count = len(holdout)
    few = f"every figure is from {count} held-out row{'s' if count > 1 else ''} alone"
    notes = (f"{few}: give {HOLDOUT_ROWS_FEW} or more",) if count < HOLDOUT_ROWS_FEW else ()
    if not unseen:
        return notes
    named = ", ".join(map(repr, unseen[:NAMED_MAX]))
    more = f" and {len(unseen) - NAMED_MAX} more" if len(unseen) > NAMED_MAX else ""
    return (
        *notes,
        f"no held-out row has a value in {named}{more}: what the model answers when there is one"
        " was compared on no row",
    )
