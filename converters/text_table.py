"""A vectorizer as a step that reads the packed cells of one text; its graph is ``text_front.py``.

Stands in converted copies of an estimator, and in estimators that are trained on packed rows.
"""

from functools import cached_property
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.feature_extraction.text import TfidfTransformer

from converters.errors import UnsupportedEstimatorError
from converters.graph_pieces import Pieces
from converters.text_front import TextFront
from converters.text_plan import TextPlan, read_plan
from edge_agent.statistics.packed_texts import unpack_texts

OPSET_MIN = 18
_ALIAS = "EdgefleetTextTable"


class TextTable(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Counts and weighs the terms of texts.

    Args:
        vectorizer: Fitted, or to be by ``fit``.
        tfidf: A fitted one that weighs its counts; None when there is none.
        chars_max: Most characters of a text.
    """

    def __init__(
        self, vectorizer: Any = None, tfidf: TfidfTransformer | None = None, chars_max: int = 0
    ) -> None:
        self.vectorizer, self.tfidf, self.chars_max = vectorizer, tfidf, chars_max

    @property
    def n_features_in_(self) -> int:
        """Packed cells of a text."""
        return 1 + int(self.chars_max)

    @cached_property
    def plan(self) -> TextPlan:
        """What the graph follows; raises UnsupportedEstimatorError."""
        return read_plan(self.fitted, self.tfidf)

    @property
    def fitted(self) -> Any:
        """The vectorizer that answers."""
        return getattr(self, "fitted_", self.vectorizer)

    def fit(self, rows: Any, _targets: Any = None) -> Self:
        """Learn the terms of packed texts."""
        self.fitted_ = clone(self.vectorizer).fit(_unpack(rows))
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether its vectorizer knows its terms."""
        return hasattr(self.fitted, "vocabulary_") or self.fitted.vocabulary is not None

    def transform(self, rows: Any) -> Any:
        """Give sparse [rows, terms] of packed cells [rows, 1 + chars_max]."""
        found = self.fitted.transform(_unpack(rows))
        return found if self.tfidf is None else self.tfidf.transform(found)


def _unpack(rows: Any) -> list[str]:
    return [text or "" for text in unpack_texts(np.asarray(rows))]


def register_text_table() -> None:
    """Teach skl2onnx the graph of a ``TextTable``; again is no harm."""
    from skl2onnx import update_registered_converter

    update_registered_converter(TextTable, _ALIAS, _find_shape, _convert, overwrite=True)


def _find_shape(operator: Any) -> None:
    columns = len(operator.raw_operator.fitted.vocabulary_)
    operator.outputs[0].type = type(operator.inputs[0].type)([None, columns])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    table: TextTable = operator.raw_operator
    if container.target_opset < OPSET_MIN:
        raise UnsupportedEstimatorError(
            type(table.fitted).__name__,
            f"reading texts needs operator set {OPSET_MIN}, the profile allows"
            f" {container.target_opset}",
            "Choose a profile with a newer runtime.",
        )
    pieces = Pieces(scope, operator, container)
    pieces.finish(TextFront(pieces, table.plan, table.chars_max).write())
