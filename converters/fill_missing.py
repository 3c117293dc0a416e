"""Missing numbers filled in by comparison and choice, in float32 or float64.

skl2onnx writes a SimpleImputer as an operator that onnxruntime has for float32 alone, and leaves
the columns that tell what was missing out without a word. ``FillMissing`` stands in converted
copies of an estimator only.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from converters.graph_pieces import Pieces

Array = NDArray[Any]
_ALIAS = "EdgefleetFillMissing"


class FillMissing(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Fills columns and adds one of 0 or 1 for some of them.

    Args:
        fills: Of each column; NaN drops the column.
        told: Columns for which it is told whether they were missing.
    """

    def __init__(self, fills: Array | None = None, told: Array | None = None) -> None:
        self.fills, self.told = fills, told

    @property
    def n_features_in_(self) -> int:
        """Columns."""
        return 0 if self.fills is None else len(self.fills)

    def fit(self, _rows: Any, _targets: Any = None) -> Self:
        """Nothing to learn."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It is made fitted."""
        return True

    def transform(self, rows: Any) -> Array:
        """Give the filled columns, then those of 0 or 1."""
        numbers = np.asarray(rows, np.float64)
        fills, told = _parts(self)
        kept = ~np.isnan(fills)
        filled = np.where(np.isnan(numbers), fills, numbers)[:, kept]
        return np.hstack([filled, np.isnan(numbers[:, told]).astype(np.float64)])


def replace_imputer(step: Any) -> Any:
    """Give the ``FillMissing`` of a fitted SimpleImputer of numbers; anything else as it is."""
    if type(step).__name__ != "SimpleImputer":
        return step
    is_number = isinstance(step.missing_values, float) and np.isnan(step.missing_values)
    try:
        fills = np.asarray(step.statistics_, np.float64)
    except (TypeError, ValueError):
        return step
    if not is_number:
        return step
    if getattr(step, "keep_empty_features", False):
        fills = np.where(np.isnan(fills), 0.0, fills)
    told = step.indicator_.features_ if step.add_indicator else np.empty(0, np.intp)
    return FillMissing(fills, np.asarray(told, np.intp))


def register_fill_missing() -> None:
    """Teach skl2onnx the graph of a ``FillMissing``; again is no harm."""
    from skl2onnx import update_registered_converter

    update_registered_converter(FillMissing, _ALIAS, _find_shape, _convert, overwrite=True)


def _parts(step: FillMissing) -> tuple[Array, Array]:
    nothing = np.empty(0)
    fills = nothing if step.fills is None else step.fills
    return fills, (nothing if step.told is None else step.told).astype(np.intp)


def _find_shape(operator: Any) -> None:
    fills, told = _parts(operator.raw_operator)
    width = int(np.sum(~np.isnan(fills))) + len(told)
    operator.outputs[0].type = type(operator.inputs[0].type)([None, width])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    fills, told = _parts(operator.raw_operator)
    pieces = Pieces(scope, operator, container)
    is_missing = pieces.node("IsNaN", pieces.rows)
    kept = np.flatnonzero(~np.isnan(fills))
    row = pieces.constant("fills", np.nan_to_num(fills).reshape(1, -1))
    filled = pieces.node("Where", is_missing, row, pieces.rows)
    if len(kept) < len(fills):
        filled = pieces.node("Gather", filled, pieces.constant("kept", kept), axis=1)
    if not len(told):
        pieces.finish(filled)
        return
    chosen = pieces.node("Gather", is_missing, pieces.constant("told", told), axis=1)
    pieces.finish(filled, pieces.node("Cast", chosen, to=pieces.kind))
