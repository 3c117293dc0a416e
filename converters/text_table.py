"""A vectorizer as a step that reads the packed cells of one text; its graph is ``text_front.py``.

Stands in converted copies of an estimator only.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
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
        vectorizer: Fitted.
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

    @property
    def plan(self) -> TextPlan:
        """What the graph follows; raises UnsupportedEstimatorError."""
        return read_plan(self.vectorizer, self.tfidf)

    def fit(self, _rows: Any, _targets: Any = None) -> Self:
        """Nothing to learn."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It is made fitted."""
        return True

    def transform(self, rows: Any) -> NDArray[Any]:
        """Give [rows, terms] of packed cells [rows, 1 + chars_max]."""
        texts = [text or "" for text in unpack_texts(np.asarray(rows))]
        found = self.vectorizer.transform(texts)
        found = found if self.tfidf is None else self.tfidf.transform(found)
        return np.asarray(found.toarray())


def register_text_table() -> None:
    """Teach skl2onnx the graph of a ``TextTable``; again is no harm."""
    from skl2onnx import update_registered_converter

    update_registered_converter(TextTable, _ALIAS, _find_shape, _convert, overwrite=True)


def _find_shape(operator: Any) -> None:
    columns = len(operator.raw_operator.vectorizer.vocabulary_)
    operator.outputs[0].type = type(operator.inputs[0].type)([None, columns])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    table: TextTable = operator.raw_operator
    if container.target_opset < OPSET_MIN:
        raise UnsupportedEstimatorError(
            type(table.vectorizer).__name__,
            f"reading texts needs operator set {OPSET_MIN}, the profile allows"
            f" {container.target_opset}",
            "Choose a profile with a newer runtime.",
        )
    pieces = Pieces(scope, operator, container)
    pieces.finish(TextFront(pieces, table.plan, table.chars_max).write())
