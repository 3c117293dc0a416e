"""A finite function of categories as lookups: what any encoder of categories does, written out.

A category has few values, so whatever a fitted transformer makes of one column of it is a table
with a row for each value, one for missing and one for unknown. ``CodeTable`` holds these tables;
its graph is a Gather a column. It stands in converted copies of an estimator only.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from converters.graph_pieces import Pieces
from edge_agent.contract.schema import UNKNOWN_CODE

Array = NDArray[Any]
MISSING_ROW, UNKNOWN_ROW, FIRST_ROW = 0, 1, 2
"""Of a table: missing, unknown, then each category, then unknown once more (too large an index)."""
_ALIAS = "EdgefleetCodeTable"


class CodeTable(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Looks up columns of codes and joins what it finds.

    Args:
        tables: Of each column float64 [categories + 3, numbers], missing and unknown first and
            unknown once more last; None for a column of numbers that passes as it is.
        order: Place of each joined number in the output.
    """

    def __init__(self, tables: tuple[Array | None, ...] = (), order: Array | None = None) -> None:
        self.tables, self.order = tables, order

    @property
    def n_features_in_(self) -> int:
        """Columns."""
        return len(self.tables)

    def fit(self, _rows: Any, _targets: Any = None) -> Self:
        """Nothing to learn."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It is made fitted."""
        return True

    def transform(self, rows: Any) -> Array:
        """Give float64 [rows, numbers] of codes [rows, columns]."""
        codes = np.asarray(rows, np.float64)
        joined = np.hstack(
            [
                codes[:, [column]]
                if table is None
                else table[find_rows(codes[:, column], len(table) - FIRST_ROW - 1)]
                for column, table in enumerate(self.tables)
            ]
        )
        return joined if self.order is None else joined[:, self.order]


def find_rows(codes: Array, categories: int) -> NDArray[np.intp]:
    """Give the row of a table for each code; NaN is missing, what is not listed unknown.

    >>> find_rows(np.array([0.0, 1.0, 2.0, -1.0, np.nan]), 2).tolist()
    [2, 3, 4, 1, 0]
    """
    is_missing = np.isnan(codes)
    clipped = np.clip(np.where(is_missing, 0, codes), UNKNOWN_CODE, categories)
    return np.where(is_missing, MISSING_ROW, clipped + FIRST_ROW).astype(np.intp)


def register_code_table() -> None:
    """Teach skl2onnx the graph of a ``CodeTable``; again is no harm."""
    from skl2onnx import update_registered_converter

    update_registered_converter(CodeTable, _ALIAS, _find_shape, _convert, overwrite=True)


def _find_shape(operator: Any) -> None:
    table: CodeTable = operator.raw_operator
    width = sum(1 if one is None else one.shape[1] for one in table.tables)
    kind = type(operator.inputs[0].type)
    operator.outputs[0].type = kind([None, width])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto

    table: CodeTable = operator.raw_operator
    pieces = Pieces(scope, operator, container)
    lowest = pieces.constant("unknown", [float(UNKNOWN_CODE)])
    first = pieces.constant("first_row", [float(FIRST_ROW)])
    missing = pieces.constant("missing", [float(MISSING_ROW - FIRST_ROW)])
    found = []
    for column, one in enumerate(table.tables):
        if one is None:
            found.append(pieces.node("Gather", pieces.rows, pieces.constant("n", [column]), axis=1))
            continue
        code = pieces.node("Gather", pieces.rows, pieces.constant("column", column), axis=1)
        highest = pieces.constant("highest", [float(len(one) - FIRST_ROW - 1)])
        clipped = pieces.node("Min", pieces.node("Max", code, lowest), highest)
        place = pieces.node("Where", pieces.node("IsNaN", code), missing, clipped)
        index = pieces.node("Cast", pieces.node("Add", place, first), to=TensorProto.INT64)
        found.append(pieces.node("Gather", pieces.constant("table", one), index, axis=0))
    if table.order is None:
        pieces.finish(*found)
        return
    joined = found[0] if len(found) == 1 else pieces.node("Concat", *found, axis=1)
    order = pieces.constant("order", np.asarray(table.order, np.int64))
    pieces.finish(pieces.node("Gather", joined, order, axis=1))
