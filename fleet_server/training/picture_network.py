"""A trained network of pixels, without the library it was trained with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureNetwork:
    """Answers packed rows as an estimator of scikit-learn does.

    Attributes:
        module: What the converters take.
        is_classifier: Whether it answers logits.
        ask: Rows float32 [rows, width] to what the module answers, [rows, answers].
        encode: Gives the module as the bytes of a file that holds numbers and operators alone.
        record: How it was trained, JSON values.
    """

    module: Any
    is_classifier: bool
    ask: Callable[[NDArray[np.float32]], Floats]
    encode: Callable[[], bytes]
    record: dict[str, Any] = field(default_factory=dict)

    def predict_proba(self, rows: NDArray[np.float32]) -> Floats:
        """Give the probability of each class, [rows, classes]."""
        answers = self.ask(rows)
        powers = np.exp(answers - answers.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def predict(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Give the index of the likeliest class, [rows], or values, [rows, targets]."""
        answers = self.ask(rows)
        return np.asarray(np.argmax(answers, axis=1) if self.is_classifier else answers)
