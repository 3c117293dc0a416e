"""Read what a fitted vectorizer does to a text, as tables that a graph can follow. Pure.

Understood are CountVectorizer and TfidfVectorizer (a TfidfTransformer behind the first too) with
every option that is no function of the caller: lower case, accents, words or n-grams of words or
characters, stop words, fixed vocabularies, binary counts, weights. Of token patterns those that
cut out runs of one class of characters. All else is refused with its reason.

Terms that no text can have (of another length, with a character no token holds) count nothing, as
in scikit-learn. Invariant: a plan is integers but for the weights, so every device counts alike.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
    strip_accents_ascii,
    strip_accents_unicode,
)

from converters.errors import UnsupportedEstimatorError
from converters.text_symbols import (
    BAD,
    SEPARATOR,
    UNKNOWN,
    SymbolTable,
    count_symbols,
    find_members,
    find_spaces,
    tabulate_symbols,
)

TERMS_MAX = 65_536
"""Columns of one vectorizer; a row of them is dense in the graph."""
TERM_CHARS_MAX = 1_024
NGRAMS_MAX = 16
_SYMBOLS_MAX = 40_000
SPACE = " "
_ATOM = r"(?:\\[wWdDsS]|\[\^?\]?(?:\\.|[^\]\\])*\])"
_PATTERN = re.compile(
    rf"(?P<flags>\(\?[aiu]+\))?(?P<left>\\b)?(?P<open>\()?(?P<body>(?:{_ATOM})+(?:\+|\{{\d+,\}}))"
    r"(?P<close>\))?(?P<right>\\b)?"
)
_ADVICE_PATTERN = (
    r"Use the default pattern, or a run of one class of characters: (?u)\b\w\w+\b, \S+, [a-z]{3,}."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """N-grams of one length.

    Attributes:
        keys: int64; number of the n-gram one shorter times ``base`` plus that of what follows it.
            Of length 1 empty: there the number is the item's own.
        terms: int64; column of each n-gram by its number, ``columns`` for none; number 0 is any
            that is not listed.
        short: The same for n-grams that fill a whole short word; empty when there is none.
    """

    keys: NDArray[np.int64]
    terms: NDArray[np.int64]
    short: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words that are told apart.

    Attributes:
        spelled: Symbols of each word, from number 1.
        stops: Numbers of those that are left out before n-grams are made.
        chars_min: Shortest token.
    """

    spelled: tuple[tuple[int, ...], ...]
    stops: tuple[int, ...]
    chars_min: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What becomes of the counts of a row.

    Attributes:
        is_binary: Counts above 0 are 1.
        is_sublinear: Counts above 0 become 1 + log(count).
        idf: Factor of each column; None when there is none.
        norm: ``l1``, ``l2`` or None.
    """

    is_binary: bool
    is_sublinear: bool = False
    idf: NDArray[np.float64] | None = None
    norm: str | None = None

    @property
    def are_none(self) -> bool:
        """Whether the counts stay what they are."""
        return not (self.is_binary or self.is_sublinear or self.norm) and self.idf is None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """Everything a graph needs.

    Attributes:
        analyzer: ``word``, ``char`` or ``char_wb``.
        table: Code points to symbols.
        spaces: Symbols that are white space.
        space: Symbol of the space; 0 for words.
        words: Of the analyzer ``word``, else None.
        base: Numbers of items, in keys.
        levels: N-grams of 1 item and up.
        columns: Of the answer.
        weights: Of the counts.
    """

    analyzer: str
    table: SymbolTable
    spaces: tuple[int, ...]
    space: int
    words: Words | None
    base: int
    levels: tuple[Level, ...]
    columns: int
    weights: Weights


def is_vectorizer(estimator: Any) -> bool:
    """Tell what reads texts."""
    return isinstance(estimator, CountVectorizer | HashingVectorizer)


def read_plan(vectorizer: Any, tfidf: TfidfTransformer | None = None) -> TextPlan:
    """Read a fitted vectorizer.

    Args:
        vectorizer: Whatever ``is_vectorizer`` tells.
        tfidf: A fitted one that weighs its counts.

    Raises:
        UnsupportedEstimatorError: An option has no graph.
    """
    _check_options(vectorizer)
    terms = sorted((str(term), int(place)) for term, place in vectorizer.vocabulary_.items())
    if len(terms) > TERMS_MAX:
        _refuse(
            vectorizer,
            f"its vocabulary has {len(terms)} terms, the limit is {TERMS_MAX}",
            f"Give it max_features={TERMS_MAX} or fewer, or min_df.",
        )
    weigher = getattr(vectorizer, "_tfidf", tfidf)
    weights = Weights(is_binary=bool(vectorizer.binary))
    if weigher is not None:
        weights = Weights(
            is_binary=bool(vectorizer.binary),
            is_sublinear=bool(weigher.sublinear_tf),
            idf=np.asarray(weigher.idf_, np.float64) if weigher.use_idf else None,
            norm=weigher.norm,
        )
    make = _plan_words if vectorizer.analyzer == "word" else _plan_characters
    return make(vectorizer, terms, weights)


def _check_options(vectorizer: Any) -> None:
    if isinstance(vectorizer, HashingVectorizer):
        _refuse(
            vectorizer,
            "it counts every word by a hash of its bytes, which no standard operator computes",
            "Use TfidfVectorizer(max_features=...) or CountVectorizer(max_features=...).",
        )
    if not isinstance(vectorizer, CountVectorizer) or type(vectorizer) not in (
        CountVectorizer,
        TfidfVectorizer,
    ):
        _refuse(vectorizer, "it is a class of its own", "Use CountVectorizer or TfidfVectorizer.")
    for name in ("analyzer", "tokenizer", "preprocessor", "strip_accents"):
        if callable(getattr(vectorizer, name)):
            _refuse(
                vectorizer,
                f"its {name} is a function of Python, which a graph cannot hold",
                "Use the options of the vectorizer itself (token_pattern, lowercase, ngram_range).",
            )
    if vectorizer.input != "content":
        _refuse(vectorizer, f"it reads input={vectorizer.input!r}", "Give it the texts themselves.")
    if not hasattr(vectorizer, "vocabulary_"):
        vectorizer._validate_vocabulary()  # noqa: SLF001 - as its own transform does
    if vectorizer.ngram_range[1] > NGRAMS_MAX:
        _refuse(
            vectorizer,
            f"its n-grams have up to {vectorizer.ngram_range[1]} items, the limit is {NGRAMS_MAX}",
            "Use shorter n-grams.",
        )


def _plan_words(vectorizer: Any, terms: Sequence[tuple[str, int]], weights: Weights) -> TextPlan:
    members, bad, chars_min = _read_pattern(vectorizer)
    low, high = vectorizer.ngram_range
    if high > 1 and members[ord(SPACE)]:
        _refuse(
            vectorizer,
            "its tokens may hold spaces, so n-grams of words cannot be told from words",
            _ADVICE_PATTERN,
        )

    def is_token(word: str) -> bool:
        return len(word) >= chars_min and all(members[ord(c)] for c in word)

    reachable = []
    for term, place in terms:
        parts = term.split(SPACE) if high > 1 else [term]
        if low <= len(parts) <= high and all(map(is_token, parts)):
            reachable.append((parts, place))
    stop_words = sorted(filter(is_token, vectorizer.get_stop_words() or ()))
    words = sorted({*stop_words, *(word for parts, _ in reachable for word in parts)})
    _check_words(vectorizer, words)
    known = count_symbols(words)
    _check_symbols(vectorizer, known)
    numbers = {word: n for n, word in enumerate(words, 1)}
    others = np.where(members, UNKNOWN, np.where(bad, BAD, SEPARATOR)).astype(np.uint16)
    items = [([numbers[word] for word in parts], place) for parts, place in reachable]
    return TextPlan(
        analyzer="word",
        table=_tabulate(vectorizer, known, others),
        spaces=(),
        space=0,
        words=Words(
            spelled=tuple(tuple(known[c] for c in word) for word in words),
            stops=tuple(numbers[word] for word in stop_words),
            chars_min=chars_min,
        ),
        base=len(words) + 1,
        levels=_build_levels(items, len(words), len(vectorizer.vocabulary_), low),
        columns=len(vectorizer.vocabulary_),
        weights=weights,
    )


def _plan_characters(
    vectorizer: Any, terms: Sequence[tuple[str, int]], weights: Weights
) -> TextPlan:
    low, high = vectorizer.ngram_range
    is_within = vectorizer.analyzer == "char_wb"
    spaces = find_spaces()

    def is_short(term: str) -> bool:
        """Tell a whole word with its spaces that is shorter than every n-gram."""
        body = term[1:-1]
        return (
            is_within
            and 2 < len(term) < low
            and term[0] == term[-1] == SPACE
            and not any(spaces[ord(c)] for c in body)
        )

    texts = [(t, place) for t, place in terms if low <= len(t) <= high or is_short(t)]
    known = count_symbols([term for term, _ in texts], SPACE)
    _check_symbols(vectorizer, known)
    first = UNKNOWN
    others = np.where(spaces, SEPARATOR, UNKNOWN).astype(np.uint16)
    items = [([known[c] - first for c in term], place) for term, place in texts]
    return TextPlan(
        analyzer=vectorizer.analyzer,
        table=_tabulate(vectorizer, known, others),
        spaces=(SEPARATOR, *(n for c, n in known.items() if spaces[ord(c)])),
        space=known[SPACE],
        words=None,
        base=len(known) + 1,
        levels=_build_levels(items, len(known), len(vectorizer.vocabulary_), low),
        columns=len(vectorizer.vocabulary_),
        weights=weights,
    )


def _build_levels(
    terms: Sequence[tuple[Sequence[int], int]], items: int, columns: int, low: int
) -> tuple[Level, ...]:
    """Number the beginnings of all terms, length by length.

    Args:
        terms: Numbers of the items, from 1, and the column of each.
        items: How many there are.
        columns: Of the answer, which is also the column of nothing.
        low: Shortest n-gram; shorter terms are whole short words.
    """
    base = items + 1
    numbers: dict[tuple[int, ...], int] = {(item,): item for item in range(1, base)}
    levels = []
    for length in range(1, max((len(term) for term, _ in terms), default=1) + 1):
        keys: list[int] = []
        if length > 1:
            beginnings = sorted({tuple(t[:length]) for t, _ in terms if len(t) >= length})
            shorter, numbers = numbers, {}
            for n, beginning in enumerate(beginnings, 1):
                numbers[beginning] = n
                keys.append(shorter[beginning[:-1]] * base + beginning[-1])
        own = np.full(len(numbers) + 1, columns, np.int64)
        has_terms = False
        for term, place in terms:
            if len(term) == length:
                own[numbers[tuple(term)]] = place
                has_terms = True
        none = np.empty(0, np.int64)
        is_short = length < low
        levels.append(
            Level(
                keys=np.array(keys, np.int64),
                terms=own if has_terms and not is_short else none,
                short=own if has_terms and is_short else none,
            )
        )
    return tuple(levels)


def _read_pattern(vectorizer: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Give the characters of tokens, those that spoil one, and the shortest length."""
    pattern = str(vectorizer.token_pattern)
    found = _PATTERN.fullmatch(pattern)
    parts = re.findall(rf"({_ATOM})(\+|\{{\d+,\}})?", found["body"]) if found else []
    atoms = {atom for atom, _ in parts}
    is_run = len(atoms) == 1 and all(not much for _, much in parts[:-1])
    if found is None or not is_run or bool(found["open"]) != bool(found["close"]):
        _refuse_pattern(vectorizer, pattern)
    last = parts[-1][1]
    chars_min = len(parts) - 1 + (1 if last == "+" else int(last[1:-2]))
    flags = found["flags"] or ""
    try:
        members = find_members(atoms.pop(), flags)
    except re.error:
        _refuse_pattern(vectorizer, pattern)
    word = find_members(r"\w", flags)
    edges = bool(found["left"]), bool(found["right"])
    if chars_min < 1 or not members.any():
        _refuse_pattern(vectorizer, pattern)
    if not any(edges) or np.array_equal(members, word):
        return members, np.zeros_like(word), chars_min
    if not all(edges) or bool((members & ~word).any()):
        _refuse_pattern(vectorizer, pattern)
    return members, word & ~members, chars_min


def _refuse_pattern(vectorizer: Any, pattern: str) -> NoReturn:
    _refuse(
        vectorizer,
        f"its token_pattern {pattern[:80]!r} does more than cut out runs of one class of"
        " characters",
        _ADVICE_PATTERN,
    )


def _tabulate(vectorizer: Any, known: Mapping[str, int], others: NDArray[np.uint16]) -> SymbolTable:
    strips: dict[Any, Callable[[str], str]] = {
        "ascii": strip_accents_ascii,
        "unicode": strip_accents_unicode,
    }
    return tabulate_symbols(
        is_lowered=bool(vectorizer.lowercase),
        strip=strips.get(vectorizer.strip_accents),
        known=known,
        others=others,
    )


def _check_words(vectorizer: Any, words: Sequence[str]) -> None:
    longest = max(words, key=len, default="")
    if len(longest) > TERM_CHARS_MAX:
        _refuse(
            vectorizer,
            f"its vocabulary has a word of {len(longest)} characters, the limit is"
            f" {TERM_CHARS_MAX}",
            "Give it min_df=2 or more, or a token_pattern that leaves such words out.",
        )


def _check_symbols(vectorizer: Any, known: Mapping[str, int]) -> None:
    if len(known) > _SYMBOLS_MAX:
        _refuse(
            vectorizer,
            f"its vocabulary has {len(known)} different characters, the limit is {_SYMBOLS_MAX}",
            "Give it max_features or min_df.",
        )


def _refuse(vectorizer: Any, reason: str, advice: str) -> NoReturn:
    raise UnsupportedEstimatorError(type(vectorizer).__name__, reason, advice)
