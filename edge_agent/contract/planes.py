"""Arrays of a binary message, by bytes: all first bytes of the items, all second ones, and so on.

Neighbouring bytes are then alike, which is what makes them compress. Items are little-endian.
"""

import sys
from array import array
from collections.abc import Sequence

from edge_agent.contract.errors import MalformedError


class PlaneReader:
    """Takes a body apart from front to back."""

    def __init__(self, body: bytes, *, what: str) -> None:
        """Begin at the front.

        Args:
            body: All of it.
            what: What it is, for errors.
        """
        self._body, self._at, self._what = body, 0, what

    def take(self, count: int) -> bytes:
        """Take bytes; raises MalformedError when there are fewer."""
        end = self._at + count
        if end > len(self._body):
            raise MalformedError(f"{self._what} end too early")
        found, self._at = self._body[self._at : end], end
        return found

    def numbers(self, kind: str, count: int) -> list[float]:
        """Take items of a type code of ``array``."""
        size = array(kind).itemsize
        found: array[float] = array(kind, gather(self.take(count * size), size))
        if sys.byteorder == "big":
            found.byteswap()
        return found.tolist()

    def integers(self, kind: str, count: int) -> list[int]:
        """Take items that are whole numbers."""
        return [int(n) for n in self.numbers(kind, count)]

    def end(self) -> None:
        """Refuse what is left; raises MalformedError."""
        if self._at != len(self._body):
            raise MalformedError(
                f"{self._what} have {len(self._body) - self._at} bytes behind their end"
            )


def pack_numbers(kind: str, items: Sequence[float]) -> bytes:
    """Write numbers as items of a type code of ``array``, then spread them."""
    packed = array(kind, items)
    if sys.byteorder == "big":
        packed.byteswap()
    return spread(packed.tobytes(), packed.itemsize)


def spread(items: bytes, size: int) -> bytes:
    """Put all first bytes of the items first, then all second ones, and so on."""
    return b"".join(items[k::size] for k in range(size)) if size > 1 else items


def gather(planes: bytes, size: int) -> bytes:
    """Undo ``spread``."""
    if size == 1:
        return planes
    count = len(planes) // size
    items = bytearray(len(planes))
    for k in range(size):
        items[k::size] = planes[k * count : (k + 1) * count]
    return bytes(items)
