"""OneHotEncoder on numbers as comparisons with its categories.

skl2onnx cuts a number to a whole one first, so that 1.9 counts as category 1 where scikit-learn
says unknown. Columns that a schema calls categories never come here (``recode.py``).
"""

from typing import Any

import numpy as np

from converters.errors import UnsupportedEstimatorError
from converters.graph_pieces import Pieces

NAME = "OneHotEncoder"


def count_columns(step: Any) -> int:
    """Return how many columns a fitted encoder answers."""
    return len(step.get_feature_names_out())


def is_of_numbers(step: Any) -> bool:
    """Tell whether all categories are numbers."""
    return all(np.asarray(known).dtype.kind in "biuf" for known in step.categories_)


def write_one_hot(pieces: Pieces, step: Any, rows: str) -> str:
    """Compare each column with the categories that have a column of their own.

    Args:
        pieces: Where the nodes go.
        step: The fitted encoder.
        rows: Name of the numbers in float64, [rows, columns]; those of a float32 input were
            rounded, and so are the categories then.

    Raises:
        UnsupportedEstimatorError: Categories that are no numbers, that are one in float32, or
            that share a column because they are infrequent.
    """
    from onnx import TensorProto

    node = pieces.node
    columns, categories = _find_compared(step, pieces.dtype)
    given = node("Gather", rows, pieces.constant("column", columns), axis=1)
    wanted = pieces.add(name="category", kind=TensorProto.DOUBLE, value=categories[None, :])
    hit = node("Equal", given, wanted)
    is_missing = np.isnan(categories)
    if is_missing.any():
        told = pieces.add(name="missing", kind=TensorProto.BOOL, value=is_missing[None, :])
        hit = node("Or", hit, node("And", node("IsNaN", given), told))
    return node("Cast", hit, to=TensorProto.DOUBLE)


def _find_compared(step: Any, dtype: Any) -> tuple[Any, Any]:
    """Give the input column of each output column and the number it stands for."""
    if not is_of_numbers(step):
        raise UnsupportedEstimatorError(
            NAME, "its categories are no numbers", "Call these columns categories in the schema."
        )
    if any(found is not None for found in getattr(step, "infrequent_categories_", ())):
        raise UnsupportedEstimatorError(
            NAME,
            "it puts infrequent numbers into one column",
            "Call these columns categories in the schema, or leave out min_frequency.",
        )
    dropped = step.drop_idx_ if step.drop_idx_ is not None else [None] * len(step.categories_)
    columns, kept = [], []
    for column, (known, left_out) in enumerate(zip(step.categories_, dropped, strict=True)):
        exact = np.asarray(known, np.float64)
        seen = exact.astype(dtype).astype(np.float64)
        if len(np.unique(seen)) < len(exact):
            raise UnsupportedEstimatorError(
                NAME,
                f"categories of column {column} are one number in {np.dtype(dtype).name}",
                "Round them before the encoder, or call the column a category in the schema.",
            )
        places = [place for place in range(len(seen)) if place != left_out]
        columns += [column] * len(places)
        kept.append(seen[places])
    return np.asarray(columns, np.int64), np.concatenate(kept)
