"""Strategies of bytes that are almost right: what a fuzzer of a decoder tries."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

NASTY_BYTES = (
    b"\x00",
    b"\xff",
    b"\x80" * 10,
    b"\xff\xff\xff\xff\x7f",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"[" * 200,
    b'{"a":' * 100,
    b"1" * 400,
    b"-",
    b"1e999",
    b"NaN",
    b"\r\n",
    b" " * 64,
    b" " * 3_000 + b"\x01",
)
NASTY_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**32,
        2**53,
        2**63,
        2**64,
        10**30,
        10**400,
        -(2**63) - 1,
    ),
    *(
        0.5,
        -1e308,
        1e308,
        float("inf"),
        "",
        "\x00",
        "../../x",
        "a" * 600,
        "\ud800",
        "٣" * 16,
        "0x1",
        "+1",
        " ",
    ),
    *([], {}, [[]], [[[[[[[[]]]]]]]], [None], {"": ""}, {"v": 1}, ["x"] * 40, [1] * 40),
)


@st.composite
def mutated_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a seed with one to four edits: cut, doubled, overwritten, spiced."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        size = len(data)
        start = draw(st.integers(0, size))
        end = min(size, start + draw(st.integers(0, 16)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            data = data[:start] + data[end:]
        elif kind == 1:
            data = data[:end] + data[start:]
        elif kind == 2:
            data = data[:start] + draw(st.sampled_from(NASTY_BYTES)) + data[end:]
        elif kind == 3:
            data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
        else:
            data = data[:start]
    return data


PLACES_MAX = 30


def spoiled_everywhere(seed: bytes) -> Iterator[bytes]:
    """Give a message with each of its values in turn replaced by each nasty one."""
    whole = json.loads(seed)
    places = list(_places(whole, ()))
    for path in places[:: -(-len(places) // PLACES_MAX)]:
        for nasty in NASTY_VALUES:
            yield dump_loosely(_replaced(whole, path, nasty))


def dump_loosely(value: Any) -> bytes:
    """Write JSON with numbers that are too large to read."""
    return json.dumps(value).replace("Infinity", "1e999").encode()


def _places(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner, (*path, name))
    if isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _places(inner, (*path, place))


def _replaced(value: Any, path: tuple[str | int, ...], nasty: Any) -> Any:
    if not path:
        return nasty
    copy = value.copy()
    copy[path[0]] = _replaced(value[path[0]], path[1:], nasty)
    return copy


@st.composite
def mutated_json(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a seed with one to three values replaced, removed or added anywhere inside."""
    value = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        value = _spoil(draw, value)
    return dump_loosely(value)


def _spoil(draw: st.DrawFn, value: Any) -> Any:
    nasty = draw(st.sampled_from(NASTY_VALUES))
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(sorted(value)))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            return {other: inner for other, inner in value.items() if other != name}
        if kind == 1:
            return {**value, draw(st.sampled_from(["v", "x" * 300, "\ud800", ""])): nasty}
        if kind < 5:
            return {**value, name: nasty}
        return {**value, name: _spoil(draw, value[name])}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], _spoil(draw, value[place]), *value[place + 1 :]]
    return nasty
