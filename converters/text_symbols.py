"""What a fitted vectorizer makes of single characters, as tables over all code points. Pure.

Lower case, accents and the classes of a pattern are asked of Python itself on this machine, for
every code point, so no device needs a locale or a library for regular expressions. A character
becomes symbols: the characters of the vocabulary have their own, all others share one of each
kind. Lower case depends on neighbours for one letter alone, the Greek capital sigma.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Symbols = tuple[int, ...]
ROW_END, SEPARATOR, BAD, UNKNOWN, FIRST = 0, 1, 2, 3, 4
"""Symbols: behind a text; no part of a token (of n-grams of characters: white space); makes its
token invalid; any other character; the first of the vocabulary's own."""
SIGMA, SIGMA_SMALL, SIGMA_FINAL = "\u03a3", "\u03c3", "\u03c2"
"""The capital sigma and its two small ones."""
OTHER, CASED, IGNORABLE = 0, 1, 2
"""What a character is to the sigma beside it."""
_PAGE_SIZES = (32, 64, 128, 256)
_ASSIGNED = ((0, 0x40000), (0xE0000, 0xE1000))
"""Where characters that differ from each other are; all others are unassigned or private."""
_ALL = sys.maxunicode + 1
_UNASSIGNED = 0x50000


@dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """A table over all code points without its repetitions.

    Attributes:
        size: Code points a page.
        pages: uint16; page of each run of ``size`` code points.
        cells: uint16 [pages * size].
    """

    size: int
    pages: NDArray[np.uint16]
    cells: NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolTable:
    """Code points to symbols.

    Attributes:
        kinds: Kind of each code point.
        symbols: Symbols of each kind; kind 0 is the end of a row.
        sigma: Kind of the capital sigma that depends on its neighbours, and its kind at the end
            of a word; None when no answer depends on it.
        cases: OTHER, CASED or IGNORABLE for each kind, where there is a sigma.
    """

    kinds: Paged
    symbols: tuple[Symbols, ...]
    sigma: tuple[int, int] | None
    cases: tuple[int, ...]


def tabulate_symbols(
    *,
    is_lowered: bool,
    strip: Callable[[str], str] | None,
    known: Mapping[str, int],
    others: NDArray[np.uint16],
) -> SymbolTable:
    """Tabulate what becomes of every code point.

    Args:
        is_lowered: Whether a text is made lower case first.
        strip: Takes accents off after that; works on each character by itself.
        known: Symbols of the vocabulary's characters.
        others: Symbol of every code point that is not known, as it is after all that.
    """
    own = others.copy()
    for character, symbol in known.items():
        own[ord(character)] = symbol
    is_sigma_wanted = is_lowered and bool({SIGMA_SMALL, SIGMA_FINAL} & known.keys())
    cases = _find_cases() if is_sigma_wanted else None
    changed = _find_changes(is_lowered, strip)
    numbers: dict[tuple[Symbols, int], int] = {((ROW_END,), OTHER): 0}

    def number(symbols: Symbols, case: int) -> int:
        return numbers.setdefault((symbols, case), len(numbers))

    def spell(text: str) -> Symbols:
        return tuple(int(own[ord(character)]) for character in text)

    case_of = np.zeros(_ALL, np.uint16) if cases is None else cases
    pairs = own.astype(np.uint32) * (IGNORABLE + 1) + case_of
    lookup = np.zeros(int(pairs.max()) + 1, np.uint16)
    for pair in np.flatnonzero(np.bincount(pairs)).tolist():
        symbol, case = divmod(pair, IGNORABLE + 1)
        lookup[pair] = number((symbol,), case)
    kinds = lookup[pairs]
    if not _change(chr(_UNASSIGNED), is_lowered, strip):
        kinds[_ASSIGNED[0][1] : _ASSIGNED[1][0]] = kinds[_ASSIGNED[1][1] :] = number((), OTHER)
    for code, text in changed.items():
        kinds[code] = number(spell(text), int(case_of[code]))
    sigma = None
    if cases is not None:
        # Kinds of their own: the same symbols as others may have.
        sigma = len(numbers), len(numbers) + 1
        final = strip(SIGMA_FINAL) if strip else SIGMA_FINAL
        medial = strip(SIGMA_SMALL) if strip else SIGMA_SMALL
        kinds[ord(SIGMA)] = sigma[0]
        table = [*numbers, (spell(medial), CASED), (spell(final), CASED)]
    else:
        table = [*numbers]
    return SymbolTable(
        kinds=_page(kinds),
        symbols=tuple(symbols for symbols, _ in table),
        sigma=sigma,
        cases=tuple(case for _, case in table),
    )


@cache
def find_members(atom: str, flags: str = "") -> NDArray[np.bool_]:
    """Tell of every code point whether it matches the pattern of one character.

    Raises:
        re.error: No pattern.
    """
    members = np.zeros(_ALL, bool)
    for found in re.finditer(f"{flags}(?:{atom})+", _all_characters()):
        members[found.start() : found.end()] = True
    return members


def find_spaces() -> NDArray[np.bool_]:
    """Tell of every code point whether it is white space."""
    return find_members(r"\s")


def _page(kinds: NDArray[np.uint16]) -> Paged:
    """Choose the size of pages that needs least."""
    content = kinds.tobytes()

    def cut(size: int) -> Paged:
        step = size * kinds.itemsize
        numbers: dict[bytes, int] = {}
        pages = [
            numbers.setdefault(content[start : start + step], len(numbers))
            for start in range(0, len(content), step)
        ]
        cells = np.frombuffer(b"".join(numbers), np.uint16)
        return Paged(size=size, pages=np.array(pages, np.uint16), cells=cells)

    return min(map(cut, _PAGE_SIZES), key=_weigh)


def _weigh(paged: Paged) -> int:
    return int(paged.pages.size + paged.cells.size)


@cache
def _find_changes(
    is_lowered: bool,  # noqa: FBT001 - a key of the cache
    strip: Callable[[str], str] | None,
) -> Mapping[int, str]:
    """Give what becomes of the code points that do not stay as they are."""
    changes = {}
    for code in _list_assigned():
        text = _change(chr(code), is_lowered, strip)
        if text != chr(code):
            changes[code] = text
    return changes


def _change(
    character: str,
    is_lowered: bool,  # noqa: FBT001 - as above
    strip: Callable[[str], str] | None,
) -> str:
    text = character.lower() if is_lowered else character
    return text if strip is None else strip(text)


@cache
def _find_cases() -> NDArray[np.uint16]:
    """Ask Python's lower case what each character is to a capital sigma behind it."""
    cases = np.zeros(_ALL, np.uint16)
    for code in _list_assigned():
        character = chr(code)
        if (character + SIGMA).lower()[-1] == SIGMA_FINAL:
            cases[code] = CASED
        elif ("A" + character + SIGMA).lower()[-1] == SIGMA_FINAL:
            cases[code] = IGNORABLE
    return cases


def _list_assigned() -> Iterator[int]:
    return chain.from_iterable(range(*bounds) for bounds in _ASSIGNED)


@cache
def _all_characters() -> str:
    return "".join(map(chr, range(_ALL)))


def count_symbols(words: Sequence[str], extra: str = "") -> dict[str, int]:
    """Number the characters of words, from FIRST."""
    return {c: n for n, c in enumerate(sorted({*extra, *"".join(words)}), FIRST)}
