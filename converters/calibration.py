"""Pick the rows that give int8 its activation ranges, and say what was done with the others.

The same rows are picked every time. Rows with missing values are left out: a range has no place
for them. Too few rows are used all the same, and said.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CALIBRATION_ROWS_MAX = 512
CALIBRATION_ROWS_FEW = 32
"""Below it the ranges hang on single rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Rows to calibrate with.

    Attributes:
        rows: float32 [N, width], finite; may be empty.
        notes: What was left out or is too little, one sentence each.
    """

    rows: Array
    notes: tuple[str, ...]


def pick_calibration(rows: Array) -> Calibration:
    """Pick finite rows, evenly spaced.

    >>> picked = pick_calibration(np.array([[1.0], [np.nan], [3.0]]))
    >>> picked.rows.tolist(), picked.notes[0]
    ([[1.0], [3.0]], '1 of 3 calibration rows holds missing values and was left out')
    """
    numbers = np.asarray(rows, np.float32)
    finite = numbers[np.isfinite(numbers).all(axis=1)]
    notes = []
    left_out = len(numbers) - len(finite)
    if left_out:
        holds, was = ("holds", "was") if left_out == 1 else ("hold", "were")
        notes.append(
            f"{left_out} of {len(numbers)} calibration rows {holds} missing values and {was} left"
            " out"
        )
    if 0 < len(finite) < CALIBRATION_ROWS_FEW:
        notes.append(
            f"only {len(finite)} row{'s' if len(finite) > 1 else ''} to calibrate with: the ranges"
            f" are theirs alone, give {CALIBRATION_ROWS_FEW} or more"
        )
    if len(finite) > CALIBRATION_ROWS_MAX:
        places = np.linspace(0, len(finite) - 1, CALIBRATION_ROWS_MAX).astype(np.int64)
        finite = finite[places]
    return Calibration(rows=finite, notes=tuple(notes))
