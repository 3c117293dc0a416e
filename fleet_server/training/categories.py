"""Categories of a spec: listed there, or learned from the rows it trains on.

A feature whose list is learned stands in the spec with ``LEARNED`` in place of its texts;
``settle_features`` puts what the table holds there, in the order of the alphabet. Cells become
codes by the rules a device follows (``edge_agent/contract/cells.py``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.cells import CellError, CellReader
from edge_agent.contract.schema import CATEGORY_CHARS_MAX, UNKNOWN_CODE, Dtype, Feature
from fleet_server.ports.training import WordColumn
from fleet_server.training.row_hash import Lanes, hash_words

LEARNED = "\x00learned from the data"
VALUES_MAX = 10_000
VALUES_MAX_DEFAULT = 1_000
_MISSING_WORD = "\x00missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedColumn:
    """One column of words as codes.

    Attributes:
        feature: With its texts.
        codes: float64 [rows]; NaN where missing or wrong.
        lanes: For the hash of the row: of the text, whatever its code.
        problems: What stands against the column, one sentence each.
    """

    feature: Feature
    codes: NDArray[np.float64]
    lanes: Lanes
    problems: tuple[str, ...] = ()


def is_learned(feature: Feature) -> bool:
    """Tell whether the texts of a feature are still to be learned."""
    return feature.categories == (LEARNED,)


def code_column(feature: Feature, column: WordColumn, values_max: int) -> CodedColumn:
    """Turn the words of one column into codes.

    Args:
        feature: A category or a boolean, its texts listed or to be learned.
        column: As it was read.
        values_max: Texts that may be learned.
    """
    problems: list[str] = []
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.words))
    if is_learned(feature):
        feature, problem = _learn(feature, column, counts, values_max)
        problems += problem
    reader = CellReader(feature)
    table = np.full(len(column.words) + 1, math.nan)
    strange: dict[str, int] = {}
    for code, word in enumerate(column.words):
        try:
            table[code] = reader.read(word)
        except CellError:
            if counts[code] and word.strip():
                strange[word] = int(counts[code])
    codes = table[column.codes]
    if strange:
        first = max(strange, key=lambda word: (strange[word], word))
        problems.append(
            f"column {feature.name!r}: {sum(strange.values()):,} values are not among"
            f" {_say_known(feature)}, such as {first[:40]!r}. List them in values, or say unknown ="
            ' "other"'
        )
    words = [word.strip() for word in column.words]
    is_blank = np.array([not word for word in words] + [True])[column.codes]
    missing = int(is_blank.sum())
    if missing and not feature.is_nullable:
        problems.append(
            f"column {feature.name!r}: {missing:,} of {len(codes):,} values are missing; first in"
            f" row {int(np.argmax(is_blank)) + 1}. Fill or drop these rows, or say missing ="
            ' "allow"'
        )
    return CodedColumn(
        feature=feature,
        codes=codes,
        lanes=hash_words(column.codes, [*words, _MISSING_WORD]),
        problems=tuple(problems),
    )


def find_unseen(feature: Feature, codes: NDArray[np.float32]) -> list[str]:
    """List the texts of a feature that no row has."""
    seen = set(codes[np.isfinite(codes)].astype(np.int64).tolist())
    return [text for code, text in enumerate(feature.categories) if code not in seen]


def translate_codes(
    codes: NDArray[np.float32], theirs: Feature, ours: Feature
) -> NDArray[np.float32] | None:
    """Give the codes of one list as those of another, unknown where it has no such text.

    Returns:
        None when a row has a text that the other list neither holds nor allows.
    """
    index = {text: float(code) for code, text in enumerate(theirs.categories)}
    table = np.array([index.get(text, UNKNOWN_CODE) for text in ours.categories] + [UNKNOWN_CODE])
    is_there = np.isfinite(codes)
    places = np.where(is_there, codes, 0).astype(np.int64)
    found = np.where(is_there, table[places], np.nan).astype(np.float32)
    if not theirs.is_open and np.any(found == UNKNOWN_CODE):
        return None
    if not theirs.is_nullable and not is_there.all():
        return None
    return found


def settle_features(
    features: Sequence[Feature], coded: Mapping[str, CodedColumn]
) -> tuple[Feature, ...]:
    """Give the features with the texts that were learned."""
    return tuple(coded[f.name].feature if f.name in coded else f for f in features)


def _learn(
    feature: Feature, column: WordColumn, counts: NDArray[Any], values_max: int
) -> tuple[Feature, list[str]]:
    words = {
        word.strip() for code, word in enumerate(column.words) if counts[code] and word.strip()
    }
    problems = []
    if not words:
        problems.append(
            f"column {feature.name!r}: every value is missing; there is nothing to learn"
        )
    if len(words) > values_max:
        problems.append(
            f"column {feature.name!r} has {len(words):,} different values, at most {values_max:,}"
            f" are learned; raise values_max (to {VALUES_MAX:,} at most) or join rare ones"
        )
    long = next((word for word in sorted(words) if len(word) > CATEGORY_CHARS_MAX), "")
    if long:
        problems.append(
            f"column {feature.name!r}: value {long[:40]!r}… has {len(long)} characters, at most"
            f" {CATEGORY_CHARS_MAX}"
        )
    texts = tuple(sorted(words)[:VALUES_MAX]) or ("",)
    return replace(feature, categories=texts), problems


def _say_known(feature: Feature) -> str:
    if feature.dtype == Dtype.BOOL:
        return "true and false"
    shown = ", ".join(repr(text[:40]) for text in feature.categories[:8])
    more = len(feature.categories) - 8
    return f"{shown} and {more} more" if more > 0 else shown
