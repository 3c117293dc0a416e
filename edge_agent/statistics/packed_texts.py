"""Texts in the columns of the packed tensor; see ``contract/texts.py`` for the layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.schema import Feature
from edge_agent.contract.texts import spell, unspell


def pack_text(cells: NDArray[Any], text: str | None) -> None:
    """Write one text into its cells, [1 + chars_max]; it must fit.

    >>> cells = np.empty(4)
    >>> pack_text(cells, "hi"), cells.tolist()
    (None, [2.0, 104.0, 105.0, 0.0])
    """
    cells[1:] = 0
    if text is None:
        cells[0] = np.nan
        return
    cells[0] = len(text)
    cells[1 : 1 + len(text)] = np.frombuffer(spell(text), "<u4")


def pack_texts(texts: Sequence[str | None], chars_max: int) -> NDArray[np.float32]:
    """Give float32 [texts, 1 + chars_max]."""
    packed = np.empty((len(texts), 1 + chars_max), np.float32)
    for cells, text in zip(packed, texts, strict=True):
        pack_text(cells, text)
    return packed


def unpack_texts(cells: NDArray[Any]) -> list[str | None]:
    """Give the texts of [rows, 1 + chars_max]; None where one is missing.

    >>> unpack_texts(pack_texts(["hi", None, ""], 2))
    ['hi', None, '']
    """
    lengths = np.nan_to_num(cells[:, 0], nan=-1).astype(np.intp)
    codes = np.nan_to_num(cells[:, 1:]).astype("<u4")
    return [
        None if length < 0 else unspell(row[:length].tobytes())
        for length, row in zip(lengths.tolist(), codes, strict=True)
    ]


class TextPlaces:
    """Where texts and everything else stand in the packed tensor of some features.

    Attributes:
        texts: Each with its cells.
        numbers: Columns of all that is no text.
        names: Of those columns.
        width: Of the packed tensor.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        texts, numbers, names, first = list[tuple[Feature, slice]](), list[int](), list[str](), 0
        for feature in features:
            if feature.is_text:
                texts.append((feature, slice(first, first + feature.width)))
            else:
                numbers += range(first, first + feature.width)
                names += feature.columns
            first += feature.width
        self.texts, self.names = tuple(texts), tuple(names)
        self.numbers = np.array(numbers, np.intp)
        self.width = first
