"""One value as people and files write it, into the number that travels for it.

A category is written as its text (a whole number or a boolean stands for its text), a boolean as
true or false, a missing value as null or nothing. Both who packs training rows and who packs a
request read them here, so the same cell has the same number everywhere.
"""

import math
from typing import Any

from edge_agent.contract.schema import UNKNOWN_CODE, Dtype, Feature

KNOWN_SHOWN_MAX = 10
VALUE_CHARS_SHOWN_MAX = 60
MISSING = math.nan
_FLAGS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


class CellError(ValueError):
    """A value that does not fit its feature; says the value and what is allowed."""


class CellReader:
    """Reads the values of one feature."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self._codes = {text: float(code) for code, text in enumerate(feature.categories)}

    def read(self, value: Any) -> float:
        """Give the number for a value: text, number, boolean or None.

        Raises:
            CellError: Missing, unknown or of another kind, and the feature does not allow it.

        >>> hue = Feature(name="hue", dtype="category", categories=("red", "3"), is_open=True)
        >>> [CellReader(hue).read(value) for value in ("red", 3, "blue")]
        [0.0, 1.0, -1.0]
        """
        if is_missing(value):
            if not self._feature.is_nullable:
                raise CellError(f"is missing, it takes {say_allowed(self._feature)}")
            return MISSING
        if self._feature.dtype == Dtype.CATEGORY:
            return self._read_category(value)
        if self._feature.dtype == Dtype.BOOL:
            number = _FLAGS.get(_text(value).lower(), -1.0)
            if number < 0:
                raise self._wrong(value)
            return number
        return self._read_number(value)

    def _read_category(self, value: Any) -> float:
        text = _text(value)
        code = self._codes.get(text)
        if code is None and isinstance(value, bool):
            code = self._codes.get(text.lower())
        if code is not None:
            return code
        if isinstance(value, list | dict):
            raise self._wrong(value)
        if not self._feature.is_open:
            import difflib  # for this sentence only

            near = difflib.get_close_matches(text[:128], self._feature.categories[:1_000], 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise CellError(
                f"is {text[:VALUE_CHARS_SHOWN_MAX]!r}, it takes {say_allowed(self._feature)}{meant}"
            )
        return float(UNKNOWN_CODE)

    def _read_number(self, value: Any) -> float:
        if isinstance(value, bool):
            raise self._wrong(value)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise self._wrong(value) from None
        if not math.isfinite(number):
            raise self._wrong(value)
        if self._feature.dtype == Dtype.INT64 and number != math.floor(number):
            raise self._wrong(value)
        return number

    def _wrong(self, value: Any) -> CellError:
        shown = "a list" if isinstance(value, list) else repr(value)[:VALUE_CHARS_SHOWN_MAX]
        return CellError(f"is {shown}, it takes {say_allowed(self._feature)}")


def say_allowed(feature: Feature) -> str:
    """Say what a feature takes.

    >>> say_allowed(Feature(name="heat", low=-40, high=125, unit="degC"))
    'a number from -40 to 125 degC'
    >>> say_allowed(Feature(name="door", dtype="int64", shape=(2, 3), low=0))
    'a list of 6 whole numbers (shape 2 x 3) from 0'
    >>> say_allowed(Feature(name="hue", dtype="category", categories=("red", "blue")))
    "one of 'red', 'blue'"
    """
    known = feature.categories
    missing = ", or null" if feature.is_nullable else ""
    if feature.dtype == Dtype.BOOL:
        return f"true or false{missing}"
    if feature.dtype == Dtype.CATEGORY:
        shown = ", ".join(repr(text[:VALUE_CHARS_SHOWN_MAX]) for text in known[:KNOWN_SHOWN_MAX])
        more = len(known) - KNOWN_SHOWN_MAX
        rest = f" and {more} more" if more > 0 else ""
        any_text = ", or any other text" if feature.is_open else ""
        return f"one of {shown}{rest}{any_text}{missing}"
    if feature.is_text:
        return f"text of at most {feature.chars_max} characters{missing}"
    kind = "whole number" if feature.dtype == Dtype.INT64 else "number"
    what = f"a {kind}"
    if feature.shape:
        shape = " x ".join(map(str, feature.shape))
        what = f"a list of {feature.width} {kind}s (shape {shape})"
    low = "" if feature.low is None else f" from {feature.low:g}"
    high = "" if feature.high is None else f"{' to' if low else ' up to'} {feature.high:g}"
    unit = f" {feature.unit}" if feature.unit else ""
    return f"{what}{low}{high}{unit}{missing}"


def is_missing(value: Any) -> bool:
    """Tell what stands for a missing value: None, NaN, nothing but blanks."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else str(value)
