"""HistGradientBoosting's splits on sets of categories, written as splits on 0 or 1.

The trees ask whether a category is in a set; the operator for trees compares numbers. Each set
that a tree asks for becomes a column of a ``CodeTable``: 0 for categories that go left, 1 for the
others, missing and unknown ones as the tree sends them. Exact, and as large as the trees have sets.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from converters.code_table import CodeTable, register_code_table
from converters.errors import UnsupportedEstimatorError

Array = NDArray[Any]
CODES_MAX = 4_096
_WORD_BITS = 32


def rewrite_category_splits(estimator: Any) -> Any:
    """Give an estimator whose boosted trees compare numbers alone; itself when they do already.

    Raises:
        UnsupportedEstimatorError: Categories that are no small whole numbers from 0.
    """
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        rewritten = rewrite_category_splits(last)
        if rewritten is last:
            return estimator
        return Pipeline([*estimator.steps[:-1], (name, rewritten)])
    is_boosted = type(estimator).__name__.startswith("HistGradientBoosting")
    if not is_boosted or getattr(estimator, "is_categorical_", None) is None:
        return estimator
    register_code_table()
    return _rewrite(estimator)


def splits_categories(estimator: Any, columns: Sequence[int]) -> bool:
    """Tell whether an estimator takes codes in these columns for what they are: categories."""
    known = getattr(estimator, "is_categorical_", None)
    return known is not None and bool(np.asarray(known, bool)[list(columns)].all())


def _rewrite(estimator: Any) -> Pipeline:
    is_category = np.asarray(estimator.is_categorical_, bool)
    chosen = np.flatnonzero(is_category)
    others = np.flatnonzero(~is_category)
    encoder = estimator._preprocessor.named_transformers_["encoder"]  # noqa: SLF001 - its codes
    codes = [_check_codes(estimator, values) for values in encoder.categories_]
    sets: list[dict[bytes, int]] = [{} for _ in chosen]
    columns: list[list[Array]] = [[] for _ in chosen]
    clone = copy.deepcopy(estimator)
    nodes = [p for stage in clone._predictors for p in stage]  # noqa: SLF001 - its trees
    for predictor in nodes:
        for node in np.flatnonzero(predictor.nodes["is_categorical"]):
            at = int(predictor.nodes["feature_idx"][node])
            column = _list_sides(predictor, node, codes[at])
            place = sets[at].setdefault(column.tobytes(), len(columns[at]))
            if place == len(columns[at]):
                columns[at].append(column)
            predictor.nodes["bitset_idx"][node] = place
    widths = [len(of_one) for of_one in columns]
    first = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    for predictor in nodes:
        _renumber(predictor.nodes, first, len(chosen))
    tables = tuple(
        np.stack(of_one, axis=1) if of_one else np.zeros((int(known.max(initial=0)) + 4, 0))
        for of_one, known in zip(columns, codes, strict=True)
    )
    for name in ("_preprocessor", "is_categorical_"):
        setattr(clone, name, None)
    clone.n_features_in_ = clone._n_features = int(first[-1]) + len(others)  # noqa: SLF001
    vars(clone).pop("feature_names_in_", None)
    by_column: list[Array | None] = [None] * len(is_category)
    for place, column_of in enumerate(chosen):
        by_column[column_of] = tables[place]
    return Pipeline(
        [("sets", CodeTable(tuple(by_column), _sort(is_category, widths))), ("trees", clone)]
    )


def _sort(is_category: Array, widths: Sequence[int]) -> Array:
    """Give the order that puts the columns of all sets before the numbers."""
    sizes = np.ones(len(is_category), np.int64)
    sizes[is_category] = widths
    of_set = np.repeat(is_category, sizes)
    return np.concatenate([np.flatnonzero(of_set), np.flatnonzero(~of_set)])


def _check_codes(estimator: Any, values: Array) -> Array:
    known = np.asarray([value for value in values if value == value], np.float64)  # noqa: PLR0124
    if np.any((known != np.floor(known)) | (known < 0) | (known >= CODES_MAX)):
        raise UnsupportedEstimatorError(
            type(estimator).__name__,
            f"its categories must be whole numbers from 0 to {CODES_MAX - 1}, they are"
            f" {values[:5].tolist()}",
            "Put an OrdinalEncoder before it.",
        )
    return known.astype(np.int64)


def _list_sides(predictor: Any, node: np.intp, codes: Array) -> Array:
    """Give the column of one set: missing, unknown, each code from 0, and too large a code."""
    nodes, bits = predictor.nodes, predictor.raw_left_cat_bitsets
    of_missing = 0.0 if nodes["missing_go_to_left"][node] else 1.0
    words = bits[nodes["bitset_idx"][node]]
    size = int(codes.max(initial=0)) + 1
    column = np.full(size + 3, of_missing)
    for ordinal, code in enumerate(codes):
        is_left = words[ordinal // _WORD_BITS] >> (ordinal % _WORD_BITS) & 1
        column[2 + code] = 0.0 if is_left else 1.0
    return column


def _renumber(nodes: Any, first: Array, categories: int) -> None:
    """Point every split at its new column."""
    is_split = nodes["is_leaf"] == 0
    is_set = is_split & (nodes["is_categorical"] == 1)
    is_number = is_split & ~is_set
    nodes["feature_idx"][is_number] += int(first[-1]) - categories
    nodes["feature_idx"][is_set] = first[nodes["feature_idx"][is_set]] + nodes["bitset_idx"][is_set]
    nodes["num_threshold"][is_set] = 0.5
    nodes["missing_go_to_left"][is_set] = 0
    nodes["is_categorical"][is_set] = 0
