"""Read typed, bounded fields out of decoded JSON, remembering what was not read.

Unknown fields are kept (``rest``) so that a message survives a round trip through older code.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from edge_agent.contract.errors import MalformedError, TooLargeError, UnsupportedVersionError

T = TypeVar("T")
DEPTH_MAX = 32
"""Objects and lists inside each other: what takes a message apart must not run out of stack."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(payload: bytes, *, what: str, limit_bytes: int) -> dict[str, Any]:
    """Decode a JSON object of bounded size.

    Raises:
        TooLargeError: More bytes than the limit.
        MalformedError: Not UTF-8 JSON, or not an object; nested deeper than DEPTH_MAX, or with a
            number or text that cannot be stored or written back: beyond 64 bits, infinite, half
            a character.
    """
    if len(payload) > limit_bytes:
        raise TooLargeError(what, len(payload), limit_bytes)
    try:
        text = payload.decode()
        value = _DECODER.decode(text)
        _check_storable(text, value)
    except UnicodeError as error:
        raise MalformedError(f"{what} is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def dump_object(value: Mapping[str, Any]) -> bytes:
    """Encode compactly; the same value always gives the same bytes."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the numbers that are stored")
    return number


def _read_integer(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{text[:40]} has more than 64 bits")
    return number


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_read_float, parse_int=_read_integer
)


def _check_storable(text: str, value: Any) -> None:
    """Refuse what parses but cannot be written: deep nesting, halves of characters."""
    if text.count("[") + text.count("{") > DEPTH_MAX and _is_deep(value):
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # an error names the half character


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


class Fields:
    """One JSON object being read, field by field."""

    def __init__(self, value: Any, *, what: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what} must be an object, got {type(value).__name__}")
        self._left: dict[str, Any] = dict(value)
        self.what = what

    def version(self, known: int, *, newest: int | None = None) -> int:
        """Take field ``v``, from ``known`` to ``newest``; a larger one is of a newer contract."""
        version = self._left.pop("v", None)
        last = known if newest is None else newest
        if not isinstance(version, int) or not known <= version <= last:
            raise UnsupportedVersionError(self.what, version, last)
        return version

    def text(self, name: str, default: str | None = None, *, chars_max: int = 512) -> str:
        """Take a string of at most ``chars_max`` characters."""
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > chars_max:
            raise self._wrong(name, f"a string of at most {chars_max} characters", value)
        return value

    def integer(
        self, name: str, default: int | None = None, *, low: int = 0, high: int = 2**63 - 1
    ) -> int:
        """Take an integer from ``low`` to ``high``, both included."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, f"an integer from {low} to {high}", value)
        return value

    def number(
        self, name: str, default: float | None = None, *, low: float = -1e308, high: float = 1e308
    ) -> float:
        """Take a finite number from ``low`` to ``high``, both included."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number", value)
        if not low <= value <= high:
            raise self._wrong(name, f"a number from {low} to {high}", value)
        return float(value)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Take a boolean."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def mapping(
        self, name: str, default: Mapping[str, Any] | None = None, *, items_max: int = 256
    ) -> dict[str, Any]:
        """Take an object of at most ``items_max`` members."""
        value = self._take(name, default)
        if not isinstance(value, dict) or len(value) > items_max:
            raise self._wrong(name, f"an object of at most {items_max} members", value)
        return value

    def items(
        self,
        name: str,
        read: Callable[[Any], T],
        default: tuple[T, ...] | None = None,
        *,
        items_max: int = 4096,
    ) -> tuple[T, ...]:
        """Take a list of at most ``items_max`` items, each read by ``read``."""
        if default is not None and name not in self._left:
            return default
        value = self._take(name, None)
        if not isinstance(value, list) or len(value) > items_max:
            raise self._wrong(name, f"a list of at most {items_max} items", value)
        return tuple(read(item) for item in value)

    def optional(self, name: str) -> Any:
        """Take a field as it is, None when absent."""
        return self._left.pop(name, None)

    def rest(self) -> dict[str, Any]:
        """Return the fields nobody asked for."""
        return dict(self._left)

    def _take(self, name: str, default: Any) -> Any:
        value = self._left.pop(name, default)
        if value is None:
            raise MalformedError(f"{self.what}: field {name!r} is missing")
        return value

    def _wrong(self, name: str, wanted: str, value: Any) -> MalformedError:
        return MalformedError(f"{self.what}: {name} must be {wanted}, got {str(value)[:80]!r}")
