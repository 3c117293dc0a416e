"""What the schema allows in the packed tensor: ranges, whole codes, missing values.

For rows that did not come by field name too, where a category is already its code.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.cells import say_allowed
from edge_agent.contract.schema import ModelSchema


class InputRanges:
    """The bounds of every column of one schema."""

    def __init__(self, schema: ModelSchema) -> None:
        self._of_column = [f for f in schema.features for _ in range(f.width)]
        self._columns = schema.columns
        # A text is checked where it is packed.
        bounds = [(None, None) if f.is_text else f.bounds for f in self._of_column]
        self._low = np.array([-np.inf if low is None else low for low, _ in bounds], np.float32)
        self._high = np.array([np.inf if high is None else high for _, high in bounds], np.float32)
        self._has_bounds = any(bound != (None, None) for bound in bounds)
        codes = [n for n, f in enumerate(self._of_column) if not f.is_number and not f.is_text]
        self._codes = np.array(codes, np.intp) if codes else None
        required = [n for n, f in enumerate(self._of_column) if not f.is_nullable]
        self._required = np.array(required, np.intp) if not schema.is_numeric else None
        self.takes_missing = len(required) < len(self._of_column)
        """Whether NaN is a value of some column."""

    def find_fault(self, features: NDArray[np.float32]) -> str:
        """Say what the first row does wrong that the schema does not allow; "" when none does.

        Args:
            features: float32 [rows, width].
        """
        if self._required is not None:
            is_missing = np.isnan(features[:, self._required])
            if is_missing.any():
                row, at = (int(index[0]) for index in np.nonzero(is_missing))
                return self._say(row, int(self._required[at]), "missing")
        if self._has_bounds:
            is_outside = (features < self._low) | (features > self._high)
            if is_outside.any():
                row, column = (int(index[0]) for index in np.nonzero(is_outside))
                if not self._of_column[column].is_number:
                    return self._say(row, column, f"code {features[row, column]:g}")
                return (
                    f"row {row}: {self._columns[column]} is {features[row, column]:g},"
                    f" allowed is {self._low[column]:g} to {self._high[column]:g}"
                )
        if self._codes is not None:
            codes = features[:, self._codes]
            is_part = (codes != np.floor(codes)) & ~np.isnan(codes)
            if is_part.any():
                row, at = (int(index[0]) for index in np.nonzero(is_part))
                column = int(self._codes[at])
                return self._say(row, column, f"code {features[row, column]:g}")
        return ""

    def _say(self, row: int, column: int, what: str) -> str:
        feature = self._of_column[column]
        allowed = say_allowed(feature)
        if not feature.is_number and what != "missing":
            low, high = feature.bounds
            allowed = f"a whole number from {low:g} to {high:g}"
        return f"row {row}: {self._columns[column]} is {what}, it takes {allowed}"
