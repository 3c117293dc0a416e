"""Write a text plan as nodes: from the cells of one text to the columns of a vectorizer.

All rows of a batch are one run of symbols with an end behind each row, so no node depends on how
long a text is and none loops. Words are found by a sum over their symbols and then compared symbol
by symbol: what is not in the vocabulary is never taken for a word of it. Only operators of ONNX
itself, and integers until the weights, which are in float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from converters.graph_pieces import Pieces
from converters.text_plan import Level, TextPlan, Words
from converters.text_symbols import BAD, FIRST, ROW_END, SEPARATOR, UNKNOWN, SymbolTable
from converters.text_weights import write_weights

Array = NDArray[Any]
_INT64, _FLOAT64 = TensorProto.INT64, TensorProto.DOUBLE
_HIGH = np.iinfo(np.int64).max
_SUM_BITS = 22, 14
"""Of the factor of a symbol and of its place; with TERM_CHARS_MAX of them far from 63."""
_DRAWS_MAX = 64


class TextFront:
    """The nodes of one plan; ``write`` gives the name of [rows, columns]."""

    def __init__(self, pieces: Pieces, plan: TextPlan, chars_max: int) -> None:
        self._p, self._plan, self._chars_max = pieces, plan, chars_max
        self._zero = self._whole("zero", [0])
        self._one = self._whole("one", [1])
        self._end = self._whole("row_end", ROW_END)

    def write(self) -> str:
        """Write everything, from ``pieces.rows`` [rows, 1 + chars_max]."""
        symbols = self._read_symbols()
        words = self._plan.words
        items = self._find_words(symbols, words) if words else self._find_characters(symbols)
        counts = self._count(*items)
        return write_weights(self._p, counts, self._plan.weights)

    def _read_symbols(self) -> str:
        """Give one run of symbols, int64, ROW_END behind each row."""
        node, table = self._p.node, self._plan.table
        given = node("Gather", self._p.rows, self._whole("length_cell", [0]), axis=1)
        there = node("Where", node("IsNaN", given), self._p.constant("none", [0.0]), given)
        length = node("Cast", there, to=_INT64)
        length = node("Min", node("Max", length, self._zero), self._whole("most", self._chars_max))
        longest = node("ReduceMax", length, keepdims=0)
        stop = node("Add", longest, self._one)
        cells = node("Slice", self._p.rows, self._one, stop, self._one)
        codes = node("Cast", cells, to=_INT64)
        limit = self._whole("highest_code", 0x10FFFF)
        codes = node("Min", node("Max", codes, self._zero), limit)
        kinds = self._look_up_paged(codes, table)
        # One cell more than the longest text: the end of each row.
        edge = node("Mul", length, self._zero)
        kinds = node("Concat", kinds, edge, axis=1)
        places = node("Range", self._whole("first", 0), node("Squeeze", stop), self._scalar(1))
        is_text = node("Less", places, length)
        is_end = node("Equal", places, length)
        kinds = node("Where", is_text, kinds, self._zero)
        kept = node("Or", is_text, is_end)
        run = node("Compress", kinds, self._flat(kept))
        run = run if table.sigma is None else self._decide_sigma(run, table, table.sigma)
        return self._spell(run, table)

    def _look_up_paged(self, codes: str, table: SymbolTable) -> str:
        node, kinds = self._p.node, table.kinds
        size = self._scalar(kinds.size)
        pages = self._table("pages", kinds.pages)
        page = node("Cast", node("Gather", pages, node("Div", codes, size), axis=0), to=_INT64)
        place = node("Add", node("Mul", page, size), node("Mod", codes, size))
        found = node("Gather", self._table("kinds", kinds.cells), place, axis=0)
        return node("Cast", found, to=_INT64)

    def _decide_sigma(self, kinds: str, table: SymbolTable, sigma: tuple[int, int]) -> str:
        """Let a capital sigma behind a letter and before none become the final one."""
        node = self._p.node
        case = node("Gather", self._whole("cases", table.cases), kinds, axis=0)
        is_seen = node("Less", case, self._scalar(2))
        seen = node("Compress", case, is_seen)
        framed = node("Concat", self._zero, seen, self._zero, axis=0)
        rank = node("CumSum", node("Cast", is_seen, to=_INT64), self._axis())
        before = node("Gather", framed, node("Sub", rank, self._one), axis=0)
        behind = node("Gather", framed, node("Add", rank, self._one), axis=0)
        is_last = node("And", self._is(before, 1), node("Not", self._is(behind, 1)))
        is_final = node("And", self._is(kinds, sigma[0]), is_last)
        return node("Where", is_final, self._scalar(sigma[1]), kinds)

    def _spell(self, kinds: str, table: SymbolTable) -> str:
        """Give the symbols of each kind; a character may become none or several."""
        node = self._p.node
        sizes = [len(symbols) for symbols in table.symbols]
        if set(sizes) == {1}:
            flat = np.array([symbols[0] for symbols in table.symbols], np.int64)
            return node("Gather", self._whole("symbols", flat), kinds, axis=0)
        flat = np.array([symbol for symbols in table.symbols for symbol in symbols], np.int64)
        offsets = np.cumsum([0, *sizes[:-1]])
        size = node("Gather", self._whole("sizes", sizes), kinds, axis=0)
        offset = node("Gather", self._whole("offsets", offsets), kinds, axis=0)
        ends = node("CumSum", size, self._axis())
        starts = node("Sub", ends, size)
        total = node("ReduceSum", size, keepdims=1)
        # The last kind is the end of a row and has one symbol: every start is inside.
        marks = self._add_up(node("Expand", self._zero, total), starts, self._like(starts, 1))
        source = node("Sub", node("CumSum", marks, self._axis()), self._one)
        shift = node("Sub", offset, starts)
        places = node("Range", self._scalar(0), node("Squeeze", total), self._scalar(1))
        place = node("Add", places, node("Gather", shift, source, axis=0))
        return node("Gather", self._whole("symbols", flat), place, axis=0)

    def _find_words(self, symbols: str, words: Words) -> tuple[str, str]:
        """Give the number of each token, 0 for an unknown one, and which ones are ends of rows."""
        node = self._p.node
        is_end = self._is(symbols, ROW_END)
        is_part = node("Less", self._scalar(SEPARATOR), symbols)
        follows = self._shift_right(is_part)
        is_start = node("Or", is_end, node("And", is_part, node("Not", follows)))
        token = node("CumSum", node("Cast", is_start, to=_INT64), self._axis())
        token = node("Sub", token, self._one)
        kept = node("Or", is_part, is_end)
        place = node("Range", self._scalar(0), self._count_of(symbols), self._scalar(1))
        begins = node("Compress", place, is_start)
        symbol, token = node("Compress", symbols, kept), node("Compress", token, kept)
        first = node("Gather", begins, token, axis=0)
        within = node("Sub", node("Compress", place, kept), first)
        ends = node("Compress", is_end, is_start)
        nothing = self._like(begins, 0)
        size = self._add_up(nothing, token, self._like(symbol, 1))
        number = self._recognise(words, symbol, token, within, size, nothing)
        number = node("Where", ends, self._zero, number)
        kept_tokens = self._choose_tokens(words, symbol, token, size, number, nothing)
        if kept_tokens:
            kept = node("Or", kept_tokens, ends)
            return node("Compress", number, kept), node("Compress", ends, kept)
        return number, ends

    def _recognise(
        self, words: Words, symbol: str, token: str, within: str, size: str, nothing: str
    ) -> str:
        """Find the word each token is: by a sum, then symbol by symbol."""
        node = self._p.node
        if not words.spelled:
            return nothing
        longest = max(map(len, words.spelled))
        factors, places, sums = _draw_sums(words.spelled)
        within = node("Min", within, self._scalar(longest))
        share = node(
            "Mul",
            node("Gather", self._whole("factors", factors), symbol, axis=0),
            node("Gather", self._whole("places", places), within, axis=0),
        )
        total = self._add_up(nothing, token, share)
        guess = self._encode(total, sums.tolist())
        offsets = np.cumsum([0, 0, *map(len, words.spelled[:-1])])
        spelled = [symbol for word in words.spelled for symbol in word] + [0] * (longest + 1)
        begin = node("Gather", node("Gather", self._whole("begins", offsets), guess, axis=0), token)
        letters = self._table("letters", np.array(spelled, np.uint16))
        letter = node("Gather", letters, node("Add", begin, within), axis=0)
        differs = node("Not", node("Equal", node("Cast", letter, to=_INT64), symbol))
        faults = self._add_up(nothing, token, node("Cast", differs, to=_INT64))
        sizes = self._whole("word_sizes", [-1, *map(len, words.spelled)])
        is_sized = node("Equal", node("Gather", sizes, guess, axis=0), size)
        return node("Where", node("And", is_sized, self._is(faults, 0)), guess, self._zero)

    def _choose_tokens(
        self, words: Words, symbol: str, token: str, size: str, number: str, nothing: str
    ) -> str:
        """Tell which tokens count; empty when all do."""
        node, reasons = self._p.node, []
        if words.chars_min > 1:
            reasons.append(node("Less", self._scalar(words.chars_min - 1), size))
        if any(BAD in symbols for symbols in self._plan.table.symbols):
            spoilt = node("Cast", self._is(symbol, BAD), to=_INT64)
            reasons.append(self._is(self._add_up(nothing, token, spoilt), 0))
        if words.stops:
            is_stop = np.zeros(len(words.spelled) + 1, np.int64)
            is_stop[list(words.stops)] = 1
            found = node("Gather", self._whole("stops", is_stop), number, axis=0)
            reasons.append(self._is(found, 0))
        for reason in reasons[1:]:
            reasons[0] = node("And", reasons[0], reason)
        return reasons[0] if reasons else ""

    def _find_characters(self, symbols: str) -> tuple[str, str]:
        """Give the number of each character, and which ones are ends of rows."""
        node, plan = self._p.node, self._plan
        is_space = self._is(symbols, plan.spaces[0])
        for space in plan.spaces[1:]:
            is_space = node("Or", is_space, self._is(symbols, space))
        if plan.analyzer == "char":
            # Two or more together become one space, a single one stays what it is.
            before, behind = self._shift_right(is_space), self._shift_left(is_space)
            is_run = node("And", is_space, behind)
            symbols = node("Where", is_run, self._scalar(plan.space), symbols)
            symbols = node("Compress", symbols, node("Not", node("And", is_space, before)))
        else:
            symbols = self._frame_words(symbols, is_space)
        is_end = self._is(symbols, ROW_END)
        number = node("Max", node("Sub", symbols, self._scalar(UNKNOWN)), self._zero)
        if plan.analyzer == "char_wb":
            # An end of a word, behind which the next begins, is told by SEPARATOR.
            self._edges = node("Less", symbols, self._scalar(SEPARATOR + 1))
        return number, is_end

    def _frame_words(self, symbols: str, is_space: str) -> str:
        """Put a space before and behind each word, and a SEPARATOR before that."""
        node = self._p.node
        is_gap = node("Or", is_space, self._is(symbols, ROW_END))
        is_word = node("Not", is_gap)
        is_start = node("And", is_word, node("Not", self._shift_right(is_word)))
        is_last = node("And", is_word, node("Not", self._shift_left(is_word)))
        column = self._whole("column", [-1, 1])
        separator = node("Mul", self._like(symbols, 1), self._scalar(SEPARATOR))
        space = node("Mul", self._like(symbols, 1), self._scalar(self._plan.space))
        cells = [node("Reshape", one, column) for one in (separator, space, symbols, space)]
        wanted = [is_start, is_start, node("Not", is_space), is_last]
        kept = node("Concat", *[node("Reshape", one, column) for one in wanted], axis=1)
        return node("Compress", node("Concat", *cells, axis=1), self._flat(kept))

    def _count(self, number: str, is_end: str) -> str:
        """Count the terms of each row, float64 [rows, columns]."""
        node, plan = self._p.node, self._plan
        row = node("CumSum", node("Cast", is_end, to=_INT64), self._axis(), exclusive=1)
        base = node("Mul", row, self._scalar(plan.columns + 1))
        count = self._count_of(number)
        longest = len(plan.levels)
        padded = number
        if longest > 1:
            padded = node("Concat", number, self._whole("beyond", [0] * (longest - 1)), axis=0)
        found, current = list[str](), number
        for length, level in enumerate(plan.levels, 1):
            if length > 1:
                key = node("Mul", current, self._scalar(plan.base))
                current = self._encode(
                    node("Add", key, self._later(padded, length - 1, count)), level.keys.tolist()
                )
            if len(level.terms):
                terms = node("Gather", self._whole("terms", level.terms), current, axis=0)
                found.append(node("Add", base, terms))
            if len(level.short):
                found.append(self._count_short(level, current, length, base, count))
        rows = node("ReduceSum", node("Cast", is_end, to=_INT64), keepdims=1)
        cells = node("Mul", rows, self._scalar(plan.columns + 1))
        empty = node("Expand", self._numbers("nothing", [0.0]), cells)
        if found:
            places = found[0] if len(found) == 1 else node("Concat", *found, axis=0)
            ones = node("Cast", self._like(places, 1), to=_FLOAT64)
            empty = self._add_up(empty, places, ones)
        table = node("Reshape", empty, self._whole("table_shape", [-1, plan.columns + 1]))
        stop = self._whole("columns", [plan.columns])
        return node("Slice", table, self._zero, stop, self._one)

    def _count_short(self, level: Level, current: str, length: int, base: str, count: str) -> str:
        """Give the places of words that are shorter than every n-gram, once each."""
        node = self._p.node
        framed = node("Concat", self._edges, self._truth([True] * (length + 1)), axis=0)
        before = self._shift_right(self._edges)
        behind = self._later(framed, length, count)
        is_whole = node("And", before, behind)
        terms = node("Gather", self._whole("short_terms", level.short), current, axis=0)
        kept = node("Where", is_whole, terms, self._scalar(self._plan.columns))
        return node("Add", base, kept)

    def _encode(self, keys: str, listed: Sequence[int]) -> str:
        """Give the place of each key in a list, from 1; 0 when it is not there."""
        if not listed:
            return self._like(keys, 0)
        return self._p.node(
            "LabelEncoder",
            keys,
            op_domain="ai.onnx.ml",
            op_version=2,
            keys_int64s=list(listed),
            values_int64s=list(range(1, len(listed) + 1)),
            default_int64=0,
        )

    def _add_up(self, start: str, places: str, values: str) -> str:
        return self._p.node("ScatterElements", start, places, values, axis=0, reduction="add")

    def _shift_right(self, flags: str) -> str:
        """Give of each place the flag of the one before."""
        node = self._p.node
        stop = self._whole("but_last", [-1])
        shorter = node("Slice", flags, self._zero, stop, self._zero)
        return node("Concat", self._truth([False]), shorter, axis=0)

    def _shift_left(self, flags: str) -> str:
        """Give of each place the flag of the next."""
        node = self._p.node
        shorter = node("Slice", flags, self._one, self._whole("all", [_HIGH]), self._zero)
        return node("Concat", shorter, self._truth([False]), axis=0)

    def _later(self, padded: str, places: int, count: str) -> str:
        """Give of each place what stands some places later."""
        node = self._p.node
        begin = self._whole("later", [places])
        stop = node("Add", node("Reshape", count, self._one), begin)
        return node("Slice", padded, begin, stop, self._zero)

    def _count_of(self, run: str) -> str:
        return self._p.node("Squeeze", self._p.node("Shape", run))

    def _like(self, run: str, value: int) -> str:
        return self._p.node("Expand", self._whole("value", [value]), self._p.node("Shape", run))

    def _flat(self, table: str) -> str:
        return self._p.node("Reshape", table, self._whole("flat", [-1]))

    def _is(self, run: str, value: int) -> str:
        return self._p.node("Equal", run, self._scalar(value))

    def _axis(self) -> str:
        return self._scalar(0)

    def _scalar(self, value: int) -> str:
        return self._whole("number", value)

    def _whole(self, name: str, value: Any) -> str:
        return self._p.constant(name, np.asarray(value, np.int64))

    def _truth(self, values: list[bool]) -> str:
        return self._p.add(name="truth", kind=TensorProto.BOOL, value=np.array(values))

    def _numbers(self, name: str, values: Any) -> str:
        return self._p.add(name=name, kind=_FLOAT64, value=np.asarray(values, np.float64))

    def _table(self, name: str, values: NDArray[np.uint16]) -> str:
        return self._p.add(name=name, kind=TensorProto.UINT16, value=values)


def _draw_sums(words: Sequence[tuple[int, ...]]) -> tuple[Array, Array, Array]:
    """Draw factors under which no two words have the same sum.

    Returns:
        Factors by symbol, factors by place, and the sum of each word.
    """
    longest, highest = max(map(len, words)), max(map(max, words))
    cells = np.zeros((len(words), longest), np.int64)
    for row, word in zip(cells, words, strict=True):
        row[: len(word)] = word
    for seed in range(_DRAWS_MAX):
        draw = np.random.default_rng(seed)
        factors = draw.integers(1, 2 ** _SUM_BITS[0], max(highest, FIRST) + 1)
        factors[0] = 0
        places = np.append(draw.integers(1, 2 ** _SUM_BITS[1], longest), 0)
        sums = factors[cells] @ places[:-1]
        if len(np.unique(sums)) == len(sums):
            return factors, places, sums
    raise ValueError(f"no factors tell {len(words)} words apart")
