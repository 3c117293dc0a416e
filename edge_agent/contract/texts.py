"""A free text as it travels: its length, then its code points, in the packed tensor.

A code point is below 2^24, so float32 holds it exactly. Lengths are in code points, as Python
counts characters. A missing text has the length NaN; behind the last code point stand zeros. What
a text may hold is any character; a longer one than the schema allows is refused, never cut.
"""

from typing import Any

from edge_agent.contract.cells import CellError, is_missing, say_allowed
from edge_agent.contract.schema import Feature

SHOWN_CHARS_MAX = 60
TEXTS_INPUT = "texts"
"""What a request to an agent calls its texts; the graph takes them packed."""


def read_text(feature: Feature, value: Any) -> str | None:
    """Give the text of a value, None when it is missing and may be.

    An empty text is a text. A number or boolean is none: who means its digits writes them.

    Raises:
        CellError: Missing, too long, or no text.

    >>> read_text(Feature(name="note", dtype="text", chars_max=3), "fog")
    'fog'
    """
    if isinstance(value, str):
        if len(value) > feature.chars_max:
            raise CellError(
                f"has {len(value)} characters, it takes {say_allowed(feature)}; it begins"
                f" {shorten(value)!r}"
            )
        return value
    if not is_missing(value):
        shown = "a list" if isinstance(value, list) else repr(value)[:SHOWN_CHARS_MAX]
        raise CellError(f"is {shown}, it takes {say_allowed(feature)}")
    if not feature.is_nullable:
        raise CellError(f"is missing, it takes {say_allowed(feature)}")
    return None


def spell(text: str) -> bytes:
    """Give the code points, four bytes each, the lowest first; lone surrogates too.

    >>> spell("A").hex()
    '41000000'
    """
    return text.encode("utf-32-le", "surrogatepass")


def unspell(codes: bytes) -> str:
    """Give the text of code points as ``spell`` writes them."""
    return codes.decode("utf-32-le", "surrogatepass")


def shorten(text: str, chars: int = SHOWN_CHARS_MAX) -> str:
    """Cut a text for a person to read.

    >>> shorten("far too long", 5)
    'far …'
    """
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
