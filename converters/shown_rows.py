"""Packed rows as a person reads them: a text as its beginning instead of code points."""

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import ModelSchema
from edge_agent.contract.texts import shorten
from edge_agent.statistics.packed_texts import unpack_texts

TEXT_CHARS = 200
"""Of one text."""


class ShownRows:
    """Looks rows up one by one.

    Attributes:
        columns: Names of the cells.
    """

    def __init__(self, schema: ModelSchema, rows: NDArray[np.floating]) -> None:
        self._features, self._rows = schema.features, rows
        self.columns = tuple(c for f in schema.features for c in f.table_columns)

    def __getitem__(self, row: int) -> list[float | str]:
        """Give the cells of one row."""
        cells: list[float | str] = []
        first = 0
        for feature in self._features:
            own = self._rows[row, first : first + feature.width]
            first += feature.width
            if feature.is_text:
                cells.append(shorten(unpack_texts(own[None])[0] or "", TEXT_CHARS))
            else:
                cells += [float(cell) for cell in own]
        return cells
