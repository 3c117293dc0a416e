"""Walk protobuf bytes field by field without making anything of them: bounded work, no copies.

Only what a check needs: numbers, kinds and places of fields. Long runs of repeated numbers and
short strings are skipped by regular expressions, at the speed of C, since a forest of trees is
one node with a million of them. Groups, which no current writer makes, are refused.

Invariant: at most ``fields_left`` fields are looked at and ``run_bytes_left`` bytes are skipped
in runs, whatever the bytes say.
"""

import re
import struct
from collections.abc import Iterator
from enum import IntEnum

from edge_agent.contract.errors import MalformedError

FIELDS_MAX = 2_000_000
RUN_BYTES_MAX = 268_435_456
_VARINT_BYTES_MAX = 10
_SHORT_STRING_BYTES = 32
_COUNTED_BYTES = 1_048_576
_CONTINUED = bytes(range(128, 256))


class Wire(IntEnum):
    """Kinds of field, the low three bits of a tag."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


Field = tuple[int, int, int, int]
"""Number, wire kind, then the value and 0 of a varint, or start and end of the bytes of others."""


class ProtobufWalk:
    """A walk over one message and the messages inside it, all on one budget.

    Args:
        content: The outermost message.
        what: Its name in errors.
        fields_max: Fields looked at, all levels together.
        run_bytes_max: Bytes skipped in runs.
    """

    def __init__(
        self,
        content: bytes,
        *,
        what: str,
        fields_max: int = FIELDS_MAX,
        run_bytes_max: int = RUN_BYTES_MAX,
    ) -> None:
        self.content = content
        self.what = what
        self._fields_left, self._fields_max = fields_max, fields_max
        self._run_bytes_left, self._run_bytes_max = run_bytes_max, run_bytes_max

    def fields(
        self, start: int, end: int, *, runs: "re.Pattern[bytes] | None" = None
    ) -> Iterator[Field]:
        """Give the fields of the message between two places.

        Args:
            start: Where it begins.
            end: Where it ends.
            runs: Matches any stretch of repeated fields that need not be looked at.

        Raises:
            MalformedError: Not protobuf, or more than the budget.
        """
        content, at = self.content, start
        while at < end:
            if runs is not None:
                at = self._skip_run(runs, at, end)
                if at == end:
                    return
            self._fields_left -= 1
            if self._fields_left < 0:
                raise self._wrong(f"more than {self._fields_max:,} fields", at)
            tag = content[at]
            if tag < 0x80:
                at += 1
            else:
                tag, at = self.varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind == Wire.VARINT:
                value, at = self.varint(at, end)
                yield number, kind, value, 0
                continue
            begin, at = self._span(kind, at, end)
            if number == 0:
                raise self._wrong("a field with number 0", begin)
            yield number, kind, begin, at

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Read an unsigned integer of up to 64 bits; give it and the place behind it."""
        content, value = self.content, 0
        for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
            if at >= end:
                break
            byte = content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
        raise self._wrong("an integer that does not end", at)

    def count_varints(self, start: int, end: int) -> int:
        """Count the integers of a packed field."""
        content, count = self.content, 0
        for at in range(start, end, _COUNTED_BYTES):
            count += len(content[at : min(end, at + _COUNTED_BYTES)].translate(None, _CONTINUED))
        return count

    def varints(self, start: int, end: int) -> list[int]:
        """Read the integers of a short packed field, signed."""
        values: list[int] = []
        while start < end:
            value, start = self.varint(start, end)
            values.append(signed(value))
        return values

    def text(self, start: int, end: int) -> str:
        """Give a name for a sentence: at most 80 characters, printable."""
        return ascii(self.content[start : min(end, start + 80)].decode(errors="replace"))[1:-1]

    def _skip_run(self, runs: "re.Pattern[bytes]", at: int, end: int) -> int:
        match = runs.match(self.content, at, end)
        if match is None or match.end() == at:
            return at
        self._run_bytes_left -= match.end() - at
        if self._run_bytes_left < 0:
            raise self._wrong(f"more than {self._run_bytes_max:,} bytes of attribute values", at)
        return match.end()

    def _span(self, kind: int, at: int, end: int) -> tuple[int, int]:
        """Give start and end of the bytes of a field."""
        if kind == Wire.BYTES:
            size, at = self.varint(at, end)
        elif kind == Wire.FIXED32:
            size = 4
        elif kind == Wire.FIXED64:
            size = 8
        else:
            raise self._wrong(f"a field of wire kind {kind}", at)
        if size > end - at:
            raise self._wrong(f"a field of {size} bytes where {end - at} are left", at)
        return at, at + size

    def _wrong(self, found: str, at: int) -> MalformedError:
        return MalformedError(f"{self.what} is not a sound protobuf message: {found}, byte {at}")


def run_of(*, floats: int, integers: int, strings: int) -> "re.Pattern[bytes]":
    """Match a stretch of unpacked repeated fields, given the three fields' numbers below 16."""
    short = b"|".join(
        b"\\x%02x[\\x00-\\xff]{%d}" % (size, size) for size in range(_SHORT_STRING_BYTES)
    )
    return re.compile(
        b"(?:\\x%02x[\\x00-\\xff]{4}" % (floats << 3 | Wire.FIXED32)
        + b"|\\x%02x[\\x80-\\xff]{0,9}+[\\x00-\\x7f]" % (integers << 3)
        + b"|\\x%02x(?:%s))*+" % (strings << 3 | Wire.BYTES, short)
    )


def signed(value: int) -> int:
    """Read 64 bits as a signed integer.

    >>> signed(2**64 - 1)
    -1
    """
    return value - 2**64 if value >= 2**63 else value


def unpack_floats(content: bytes, start: int, end: int) -> list[float]:
    """Read a short packed field of little-endian float32."""
    return [value for (value,) in struct.iter_unpack("<f", content[start:end])]
