"""Free text of a spec: what is learned of it, and its cells in the packed rows.

The terms of a text are learned from the training rows and weighed by TF-IDF, as scikit-learn does.
A text counts in the hash of its row as a whole, so ``chars_max`` moves no row to the other side of
the split. An empty cell is a missing text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import Feature
from edge_agent.statistics.packed_texts import pack_texts
from fleet_server.ports.training import WordColumn
from fleet_server.training.row_hash import Lanes, hash_words

CHARS_MAX_DEFAULT = 512
TERMS_MAX = 20_000
TERMS_MAX_DEFAULT = 2_000
NGRAMS_MAX = 5
UNITS = ("words", "characters")
_MISSING_TEXT = "\x00missing"
_CHARACTERS_MIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTerms:
    """What is learned of one text.

    Attributes:
        terms_max: Commonest terms that are kept.
        ngrams: Longest run of words that is a term, or of characters within a word.
        unit: One of ``UNITS``.
    """

    terms_max: int = TERMS_MAX_DEFAULT
    ngrams: int = 1
    unit: str = UNITS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedColumn:
    """One column of texts.

    Attributes:
        cells: float32 [rows, 1 + chars_max].
        lanes: For the hash of the row.
        problems: What stands against the column, one sentence each.
    """

    cells: NDArray[np.float32]
    lanes: Lanes
    problems: tuple[str, ...] = ()


def pack_column(feature: Feature, column: WordColumn) -> PackedColumn:
    """Pack the texts of one column, as it was read."""
    problems = []
    long = np.array([len(text) > feature.chars_max for text in column.words] + [False])
    too_long = long[column.codes]
    if too_long.any():
        most = max(map(len, column.words))
        problems.append(
            f"column {feature.name!r}: {int(too_long.sum()):,} of {len(column.codes):,} texts are"
            f" longer than chars_max = {feature.chars_max}, the longest has {most:,} characters;"
            f" first in row {int(np.argmax(too_long)) + 1}. Raise chars_max of data.features."
            f"{feature.name}, or cut the texts"
        )
    is_missing = column.codes < 0
    if is_missing.any() and not feature.is_nullable:
        problems.append(
            f"column {feature.name!r}: {int(is_missing.sum()):,} of {len(column.codes):,} texts are"
            f" missing; first in row {int(np.argmax(is_missing)) + 1}. Drop these rows, or say"
            ' missing = "allow": a missing text is then an empty one'
        )
    words = [None if long[n] else text for n, text in enumerate(column.words)]
    table = pack_texts([*words, None], feature.chars_max)
    return PackedColumn(
        cells=table[column.codes],
        lanes=hash_words(column.codes, [*column.words, _MISSING_TEXT]),
        problems=tuple(problems),
    )


def make_text_step(feature: Feature, terms: TextTerms) -> Any:
    """Give the unfitted step that reads the cells of one text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from converters.text_table import TextTable

    is_words = terms.unit == UNITS[0]
    vectorizer = TfidfVectorizer(
        analyzer="word" if is_words else "char_wb",
        ngram_range=(1 if is_words else min(_CHARACTERS_MIN, terms.ngrams), terms.ngrams),
        max_features=terms.terms_max,
        sublinear_tf=True,
        strip_accents=None,
    )
    return TextTable(vectorizer, chars_max=feature.chars_max)
