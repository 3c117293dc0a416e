"""Turn packed rows back into the table an estimator was fitted on: texts, booleans, missing values.

A model trained on a table of texts and numbers sees on a device what was packed by the schema;
the same rows, unpacked, are what its own answers are asked of. ``TableModel`` says that an
estimator wants its rows so; one that was fitted on packed rows needs none of this.

Rows are given as an array of objects whatever the model was fitted on, to a copy that has
forgotten the names of its columns: so no library of data frames is needed, and the order of the
columns is settled here. A missing text is an empty one. Left out: functions of
Python that want a data frame.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from converters.errors import InvalidRequestError
from converters.text_plan import is_vectorizer
from edge_agent.contract.schema import Dtype, Feature, ModelSchema
from edge_agent.statistics.packed_texts import unpack_texts

Array = NDArray[Any]
NAMES = "feature_names_in_"
"""Attribute in which scikit-learn keeps the names of columns."""
_UNKNOWN_TEXT = "\x00a category that is not listed"
_DEPTH_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TableModel:
    """An estimator fitted on a table, for a ``BuildRequest`` with packed rows.

    Attributes:
        estimator: Fitted on a data frame (then its columns are found by name), or on an array of
            objects with the columns of the schema in order.
        originals: Of a category, the values the table really had, in the order of the schema's
            list, where they were not the texts themselves (numbers, booleans).
        missing: What stood for a missing category, by feature; NaN where nothing is said.
    """

    estimator: Any
    originals: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    missing: Mapping[str, Any] = field(default_factory=dict)


class TableFeed:
    """Unpacks rows for one table model.

    Attributes:
        estimator: A copy of the model's that takes what is unpacked.
        places: Column of the packed tensor for each column of the table.
    """

    def __init__(self, model: TableModel, schema: ModelSchema) -> None:
        self._model = model
        first, owners = 0, dict[str, tuple[Feature, int]]()
        for feature in schema.features:
            for place, name in enumerate(feature.table_columns, first):
                owners[name] = feature, place
            first += feature.width
        known = list(owners)
        names = [str(name) for name in getattr(model.estimator, NAMES, known)]
        if sorted(names) != sorted(known):
            odd = sorted(set(names) ^ set(known))[:5]
            raise InvalidRequestError(
                f"the model was trained on the columns {names[:10]}, the schema differs in {odd}"
            )
        self.places = [owners[name][1] for name in names]
        self._features = [owners[name][0] for name in names]
        self._is_flat = reads_one_text(model.estimator)
        if self._is_flat and not (len(names) == 1 and self._features[0].is_text):
            raise InvalidRequestError(
                "the model was trained on one text a row, the schema has the columns"
                f" {names[:10]}; its only feature must be of dtype text"
            )
        self.estimator = forget_names(model.estimator)

    def __call__(self, rows: Array) -> Array:
        """Give object [rows, columns] of packed rows [rows, width]; [rows] of a text alone."""
        table = np.empty((len(rows), len(self.places)), object)
        for column, (feature, place) in enumerate(zip(self._features, self.places, strict=True)):
            if feature.is_text:
                texts = unpack_texts(rows[:, place : place + feature.width])
                table[:, column] = [text or "" for text in texts]
                continue
            table[:, column] = self._unpack(feature, np.asarray(rows[:, place], np.float64))
        return table[:, 0] if self._is_flat else table

    def _unpack(self, feature: Feature, values: Array) -> Array:
        if feature.is_number:
            return values
        listed = list(self._model.originals.get(feature.name, feature.categories))
        if feature.dtype == Dtype.BOOL:
            listed = listed or [False, True]
        lookup = np.empty(len(listed) + 2, object)
        lookup[:-2] = listed
        lookup[-2:] = [_make_unknown(listed), self._model.missing.get(feature.name, np.nan)]
        is_missing = np.isnan(values)
        codes = np.where(is_missing, 0, values)
        is_listed = (codes >= 0) & (codes < len(listed))
        places = np.where(is_listed, codes, len(listed)).astype(np.intp)
        return np.asarray(lookup[np.where(is_missing, len(listed) + 1, places)])


def list_columns(transformer: ColumnTransformer, chosen: Any, count: int) -> list[int]:
    """Give the numbers of the columns a branch reads, however they were written."""
    names = [str(name) for name in getattr(transformer, "feature_names_in_", [])]
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            first = 0 if chosen.start is None else names.index(chosen.start)
            last = count - 1 if chosen.stop is None else names.index(chosen.stop)
            return list(range(first, last + 1))
        return list(range(count))[chosen]
    if isinstance(chosen, str):
        return [names.index(chosen)]
    cells = np.atleast_1d(np.asarray(chosen))
    if cells.dtype == bool:
        return [int(place) for place in np.flatnonzero(cells)]
    if cells.dtype.kind in "iu":
        return [int(place) % count for place in cells]
    return [names.index(str(name)) for name in cells.tolist()]


def _make_unknown(listed: Sequence[Any]) -> Any:
    """Give a value that is none of the listed ones, of their kind where that has room."""
    if all(isinstance(value, int | float | np.number) for value in listed):
        return type(listed[0])(max(float(value) for value in listed) + 1)
    return _UNKNOWN_TEXT


def forget_names(estimator: Any) -> Any:
    """Copy an estimator and drop the names of its columns wherever it holds them."""
    clone = copy.deepcopy(estimator)
    for inner in list_parts(clone):
        if isinstance(inner, ColumnTransformer) and hasattr(inner, "transformers_"):
            count = inner.n_features_in_
            inner.transformers_ = [
                (name, step, columns[0] if reads_one_text(step) and len(columns) == 1 else columns)
                for name, step, chosen in inner.transformers_
                for columns in [list_columns(inner, chosen, count)]
            ]
        vars(inner).pop(NAMES, None)
    return clone


def reads_one_text(estimator: Any) -> bool:
    """Tell whether an estimator is fed texts, one a row, and not rows of columns."""
    while isinstance(estimator, Pipeline | FeatureUnion):
        is_union = isinstance(estimator, FeatureUnion)
        steps = estimator.transformer_list if is_union else estimator.steps
        steps = [step for _, step in steps if step not in (None, "passthrough", "drop")]
        if not steps:
            return False
        estimator = steps[0]
    inner = getattr(estimator, "estimators_", None) or getattr(
        estimator, "calibrated_classifiers_", None
    )
    if isinstance(inner, list) and inner:
        return reads_one_text(getattr(inner[0], "estimator", inner[0]))
    return is_vectorizer(estimator)


def list_parts(estimator: Any) -> list[Any]:
    """Give an estimator and every fitted part inside it."""
    return list(_iterate(estimator, 0))


def _iterate(value: Any, depth: int) -> Iterable[Any]:
    if depth > _DEPTH_MAX:
        return
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _iterate(inner, depth + 1)
    elif isinstance(value, dict):
        yield from _iterate(list(value.values()), depth)
    elif type(value).__module__.partition(".")[0] in _LIBRARIES and hasattr(value, "__dict__"):
        yield value
        yield from _iterate(list(vars(value).values()), depth + 1)


_LIBRARIES = ("sklearn", "lightgbm", "xgboost", "converters")
