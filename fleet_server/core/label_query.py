"""Read and answer queries over devices, such as ``profile=camera and site!=lab``.

A query sees a device as names with text values: its labels, and ``id`` and ``profile``, which win
over labels of the same name. A label that a device lacks is the empty text, so ``site!=lab`` holds
for a device without a site, and ``site=''`` finds it. Names and values are compared exactly.

    query      = "all" | either
    either     = both { "or" both }
    both       = claim { "and" claim }
    claim      = "not" claim | "(" either ")" | name "=" value | name "!=" value
               | name ["not"] "in" "(" value { "," value } ")"
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

QUERY_CHARS_MAX = 65_536
NESTING_MAX = 32
WORDS = frozenset({"and", "or", "not", "in", "all"})

_TOKEN = re.compile(
    r"""\s*(?:(?P<sign>!=|=|\(|\)|,)|'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<word>[\w.@/:-]+))"""
)

Facts = Mapping[str, str]
_Test = Callable[[Facts], bool]


class QueryError(ValueError):
    """The query cannot be read; says where and what was expected."""


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """A query that was read; ``text`` is what the person wrote."""

    text: str
    _test: _Test

    def is_match(self, facts: Facts) -> bool:
        """Tell whether a device with these labels, id and profile is meant."""
        return self._test(facts)


def device_facts(device_id: str, profile: str, labels: Mapping[str, str]) -> Facts:
    """Give what a query may ask about a device.

    >>> device_facts("cam-1", "camera", {"site": "hall"})
    {'site': 'hall', 'id': 'cam-1', 'profile': 'camera'}
    """
    return {**labels, "id": device_id, "profile": profile}


def parse_query(text: str) -> LabelQuery:
    """Read a query.

    Raises:
        QueryError: Empty, longer than QUERY_CHARS_MAX, nested too deep or not of the grammar.

    >>> parse_query("profile=camera and site!=lab").is_match({"profile": "camera", "site": "hall"})
    True
    >>> parse_query("id in (cam-1, cam-2)").is_match({"id": "cam-3"})
    False
    """
    if len(text) > QUERY_CHARS_MAX:
        raise QueryError(f"the query has {len(text)} characters; the limit is {QUERY_CHARS_MAX}")
    tokens = _tokens(text)
    if not tokens:
        raise QueryError("the query is empty; write `all` for every device")
    if [t.text for t in tokens] == ["all"] and not tokens[0].is_quoted:
        return LabelQuery(text.strip(), lambda _facts: True)
    reader = _Reader(text, tokens)
    test = reader.either(0)
    reader.end()
    return LabelQuery(text.strip(), test)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    at: int
    is_sign: bool = False
    is_quoted: bool = False


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    end = len(text.rstrip())
    position = 0
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise QueryError(f"cannot read {text[position:].strip()[:20]!r} in {text[:120]!r}")
        kind = match.lastgroup or ""
        found.append(
            _Token(
                match[kind],
                match.start(kind),
                is_sign=kind == "sign",
                is_quoted=kind in ("single", "double"),
            )
        )
        position = match.end()
    return found


class _Reader:
    """Recursive descent over the tokens; each method reads one rule of the grammar."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text, self._tokens, self._next = text, tokens, 0

    def either(self, depth: int) -> _Test:
        parts = [self.both(depth)]
        while self._take("or"):
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else lambda facts: any(p(facts) for p in parts)

    def both(self, depth: int) -> _Test:
        parts = [self.claim(depth)]
        while self._take("and"):
            parts.append(self.claim(depth))
        return parts[0] if len(parts) == 1 else lambda facts: all(p(facts) for p in parts)

    def claim(self, depth: int) -> _Test:
        if depth > NESTING_MAX:
            raise QueryError(f"the query is nested more than {NESTING_MAX} deep")
        if self._take("not"):
            inner = self.claim(depth + 1)
            return lambda facts: not inner(facts)
        if self._take("("):
            inner = self.either(depth + 1)
            self._expect(")")
            return inner
        name = self._word("a label, `id` or `profile`")
        if self._take("="):
            return _is_in(name, frozenset({self._word("a value")}))
        if self._take("!="):
            return _is_not_in(name, frozenset({self._word("a value")}))
        if self._take("not"):
            self._expect("in")
            return _is_not_in(name, self._values())
        if self._take("in"):
            return _is_in(name, self._values())
        raise self._error(f"`=`, `!=` or `in` after {name!r}")

    def end(self) -> None:
        if self._next < len(self._tokens):
            raise self._error("`and`, `or` or the end")

    def _values(self) -> frozenset[str]:
        self._expect("(")
        values = {self._word("a value")}
        while self._take(","):
            values.add(self._word("a value"))
        self._expect(")")
        return frozenset(values)

    def _take(self, text: str) -> bool:
        token = self._peek()
        if token is None or token.is_quoted or token.text != text:
            return False
        self._next += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._error(f"`{text}`")

    def _word(self, expected: str) -> str:
        token = self._peek()
        if token is None or token.is_sign or (token.text in WORDS and not token.is_quoted):
            raise self._error(expected)
        self._next += 1
        return token.text

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _error(self, expected: str) -> QueryError:
        token = self._peek()
        found = f"{token.text!r} at character {token.at + 1}" if token else "the end"
        return QueryError(f"query {self._text[:120]!r}: expected {expected}, found {found}")


def _is_in(name: str, values: frozenset[str]) -> _Test:
    return lambda facts: facts.get(name, "") in values


def _is_not_in(name: str, values: frozenset[str]) -> _Test:
    return lambda facts: facts.get(name, "") not in values
