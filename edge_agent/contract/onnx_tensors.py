"""Constants of an ONNX file: each holds exactly the numbers its shape says, in the file itself.

A shape of a million million without data would be memory that nobody sent. Values of short
constants are kept by name, for they may be shapes.
"""

import math
import struct
from dataclasses import dataclass, field

from edge_agent.contract.errors import ModelRefusedError
from edge_agent.contract.protobuf_walk import ProtobufWalk, Wire, signed

RANK_MAX = 32
KEPT_NUMBERS_MAX = 32
_STRING = 8
_BITS = {
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
}
"""Bits of one element by TensorProto.DataType."""
_FIELD_OF_TYPE = {1: 4, 14: 4, 7: 7, 8: 6, 11: 10, 15: 10, 12: 11, 13: 11}
"""Typed data field by type; int32_data (5) serves all others."""
_FORMATS = {1: "<f", 11: "<d", 7: "<q", 6: "<i"}
"""Types whose short constants are read."""
_FLOAT_DATA, _INT32_DATA, _DOUBLE_DATA = 4, 5, 10


@dataclass(slots=True)
class _Found:
    """One constant as it is written."""

    dims: list[int] = field(default_factory=list)
    kind: int = 0
    name: bytes = b""
    raw: tuple[int, int] | None = None
    typed: dict[int, int] = field(default_factory=dict)
    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    singles: set[int] = field(default_factory=set)


class TensorReader:
    """Reads the constants of one file and adds them up.

    Attributes:
        count: Constants read.
        elements: Numbers in them.
        numbers: Values of the short ones by name.
    """

    def __init__(self, walk: ProtobufWalk, *, elements_max: int) -> None:
        self._walk, self._elements_max = walk, elements_max
        self.count = self.elements = 0
        self.numbers: dict[bytes, tuple[float, ...]] = {}

    def read(self, start: int, end: int, *, name: bytes | None) -> None:
        """Check the constant between two places.

        Args:
            start: Where it begins.
            end: Where it ends.
            name: What it is called when that is not written in it: the output of its node.

        Raises:
            ModelRefusedError: Data elsewhere, or not as much as the shape says.
        """
        found = self._find(start, end)
        elements = self._count_elements(found)
        self._check_data(found, elements)
        if elements <= KEPT_NUMBERS_MAX:
            self._keep_short(found, name if name is not None else found.name)

    def read_sparse(self, start: int, end: int) -> None:
        """Check a sparse constant, which runtimes unfold: its whole shape counts."""
        dims: list[int] = []
        for number, kind, begin, stop in self._walk.fields(start, end):
            if number in (1, 2) and kind == Wire.BYTES:
                self.read(begin, stop, name=None)
            elif number == 3:
                self._append_dims(dims, kind, begin, stop)
        self._count_elements(_Found(dims=dims, name=b"a sparse constant"))

    def append_numbers(
        self, numbers: list[float], kind: int, start: int, end: int, *, is_float: bool
    ) -> None:
        """Read numbers of an attribute, packed or not, as long as they are few."""
        if len(numbers) > KEPT_NUMBERS_MAX or end - start > 8 * KEPT_NUMBERS_MAX:
            return
        if is_float:
            content = self._walk.content[start:end]
            if kind in (Wire.FIXED32, Wire.BYTES) and len(content) % 4 == 0:
                numbers.extend(value for (value,) in struct.iter_unpack("<f", content))
        elif kind == Wire.VARINT:
            numbers.append(float(signed(start)))
        elif kind == Wire.BYTES:
            numbers.extend(map(float, self._walk.varints(start, end)))

    def keep(self, name: bytes, numbers: list[float]) -> None:
        """Remember the values of a constant; of two of one name the larger counts."""
        former = self.numbers.get(name)
        if former is None or math.prod(map(abs, numbers)) > math.prod(map(abs, former)):
            self.numbers[name] = tuple(numbers)

    def _find(self, start: int, end: int) -> _Found:
        found, walk = _Found(), self._walk
        for number, kind, begin, stop in walk.fields(start, end):
            if number in (2, 8, 9, 14):
                self._refuse_twice(found, number)
            if number == 1:
                self._append_dims(found.dims, kind, begin, stop)
            elif number == 2:
                found.kind = begin if kind == Wire.VARINT else 0
            elif number == 8 and kind == Wire.BYTES:
                found.name = walk.content[begin:stop]
            elif number == 9 and kind == Wire.BYTES:
                found.raw = (begin, stop)
            elif number in (4, 5, 6, 7, 10, 11):
                self._count_typed(found, number, kind, begin, stop)
            elif number in (3, 13) or (number == 14 and (kind != Wire.VARINT or begin != 0)):
                raise ModelRefusedError(
                    self._who(found), "lies in another file or in parts: save it as one file"
                )
        return found

    def _append_dims(self, dims: list[int], kind: int, start: int, end: int) -> None:
        if kind == Wire.VARINT:
            dims.append(signed(start))
        elif kind == Wire.BYTES and end - start <= 10 * RANK_MAX:
            dims.extend(self._walk.varints(start, end))
        else:
            raise ModelRefusedError("a constant", "has a shape that is not a list of sizes")
        if len(dims) > RANK_MAX:
            raise ModelRefusedError("a constant", f"has more than {RANK_MAX} dimensions")

    def _count_typed(self, found: _Found, number: int, kind: int, start: int, end: int) -> None:
        """Count the numbers of a typed data field, packed or one by one."""
        if kind != Wire.BYTES or number == 6:
            count = 1
        elif number in (_FLOAT_DATA, _DOUBLE_DATA):
            count, odd = divmod(end - start, 4 if number == _FLOAT_DATA else 8)
            if odd:
                raise ModelRefusedError(self._who(found), "ends inside a number")
        else:
            count = self._walk.count_varints(start, end)
        found.typed[number] = found.typed.get(number, 0) + count
        if found.typed[number] <= KEPT_NUMBERS_MAX:
            found.spans.append((number, kind, start, end))

    def _count_elements(self, found: _Found) -> int:
        if any(size < 0 for size in found.dims):
            raise ModelRefusedError(self._who(found), f"has a negative size in {found.dims}")
        elements = math.prod(found.dims)
        self.count += 1
        self.elements += elements
        if self.elements > self._elements_max:
            raise ModelRefusedError(
                self._who(found),
                f"of {elements:,} numbers brings the constants above {self._elements_max:,}",
            )
        return elements

    def _check_data(self, found: _Found, elements: int) -> None:
        bits = _BITS.get(found.kind)
        if bits is None and found.kind != _STRING:
            raise ModelRefusedError(self._who(found), f"has the unknown type {found.kind}")
        if found.raw is not None:
            if bits is None or found.typed:
                raise ModelRefusedError(self._who(found), "has its data written in two ways")
            wanted, size = -(-elements * bits // 8), found.raw[1] - found.raw[0]
            if size != wanted:
                raise ModelRefusedError(
                    self._who(found), f"has {size} bytes where its shape needs {wanted}"
                )
            return
        wanted = elements
        if found.kind in (14, 15):
            wanted = 2 * elements
        elif bits is not None and bits < 8:
            wanted = -(-elements * bits // 8)
        number = _FIELD_OF_TYPE.get(found.kind, _INT32_DATA)
        size = found.typed.pop(number, 0)
        if size != wanted or found.typed:
            raise ModelRefusedError(
                self._who(found), f"has {size} numbers where its shape needs {wanted}"
            )

    def _keep_short(self, found: _Found, name: bytes) -> None:
        form = _FORMATS.get(found.kind)
        if form is None:
            return
        numbers: list[float] = []
        if found.raw is not None:
            content = self._walk.content[found.raw[0] : found.raw[1]]
            numbers.extend(float(value) for (value,) in struct.iter_unpack(form, content))
        for number, kind, start, end in found.spans:
            if number == _DOUBLE_DATA:
                content = self._walk.content[start:end]
                numbers.extend(value for (value,) in struct.iter_unpack("<d", content))
            else:
                self.append_numbers(numbers, kind, start, end, is_float=number == _FLOAT_DATA)
        if numbers:
            self.keep(name, numbers)

    def _refuse_twice(self, found: _Found, number: int) -> None:
        if number in found.singles:
            raise ModelRefusedError(self._who(found), f"has field {number} written twice")
        found.singles.add(number)

    def _who(self, found: _Found) -> str:
        name = found.name[:80].decode(errors="replace")
        return f"constant {name!a}" if name else "a constant"
