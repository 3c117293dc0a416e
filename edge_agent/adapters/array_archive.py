"""Read ``.npz`` archives of plain numbers, as numpy writes them, within a bound known beforehand.

Python's ``zipfile`` and ``ast``, which numpy needs for it, take 0.7 MB in a process that reads one
small archive in its life. This reads less: no encryption, no other packing than none and deflate,
no archives above 4 GB or in parts, no objects, texts or structures.

Invariant: nothing larger than the bytes at hand, or the bound, is made because a field says so.
"""

import math
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_END = struct.Struct("<4s4H2IH")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_PLAIN_FLAGS = frozenset({0, 0x800})
"""None, or that names are UTF-8."""
_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": struct.Struct("<H"), b"\x02\x00": struct.Struct("<I")}
_HEADER_BYTES_MAX = 1_024
_HEADER = re.compile(
    rb"\{'descr': '([<>|][iuf][1248])', 'fortran_order': (False|True),"
    rb" 'shape': \(((?:\d{1,19}, )*(?:\d{1,19},?)?)\), \} *\n"
)


class _Member(NamedTuple):
    name: str
    method: int
    crc: int
    packed: memoryview
    size: int


def read_arrays(payload: bytes, *, arrays_max: int, bytes_max: int) -> Mapping[str, NDArray[Any]]:
    """Read every array by its name, without ``.npy``.

    Args:
        payload: The archive.
        arrays_max: Most arrays.
        bytes_max: Most bytes of all, unpacked, headers included.

    Raises:
        ValueError: It is none, is damaged or is larger; says what is wrong. ``struct.error`` and
            ``zlib.error`` of damaged ones pass through.
    """
    members = _list_members(memoryview(payload))
    size = sum(member.size for member in members)
    if len(members) > arrays_max or size > bytes_max:
        raise ValueError(
            f"{len(members)} arrays of {size} bytes, at most {arrays_max} of {bytes_max} are read"
        )
    return {
        member.name.removesuffix(".npy"): _read_array(member.name, _unpack(member))
        for member in members
    }


def _list_members(data: memoryview) -> list[_Member]:
    """Read the directory at the end of the archive."""
    at = len(data) - _END.size
    if at < 0:
        raise ValueError(f"{len(data)} bytes are no archive")
    mark, _, _, _, count, _, start, comment_bytes = _END.unpack_from(data, at)
    if mark != b"PK\5\6" or comment_bytes:
        raise ValueError("it does not end as an archive does")
    members, at = [], start
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, packed, size, *rest = _ENTRY.unpack_from(data, at)
        name_bytes, extra_bytes, note_bytes, _, _, _, local = rest
        name = bytes(data[at + _ENTRY.size :][:name_bytes]).decode()
        if method not in (_STORED, _DEFLATED):
            raise ValueError(f"{name[:80]!r} is packed by another method")
        if mark != b"PK\1\2" or flags not in _PLAIN_FLAGS:
            raise ValueError(f"{name[:80]!r} is not listed as numpy lists arrays")
        at += _ENTRY.size + name_bytes + extra_bytes + note_bytes
        members.append(_Member(name, method, crc, _find(data, local, packed), size))
    return members


def _find(data: memoryview, at: int, packed_bytes: int) -> memoryview:
    """Return the packed bytes of a member, which follow its own header."""
    mark, *_, name_bytes, extra_bytes = _LOCAL.unpack_from(data, at)
    begin = at + _LOCAL.size + name_bytes + extra_bytes
    if mark != b"PK\3\4" or begin + packed_bytes > len(data):
        raise ValueError("an array is not where it is listed")
    return data[begin : begin + packed_bytes]


def _unpack(member: _Member) -> bytes:
    if member.method == _DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(member.packed, member.size + 1)
    else:
        content = bytes(member.packed[: member.size + 1])
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise ValueError(f"{member.name[:80]!r} is not the {member.size} bytes it is listed as")
    return content


def _read_array(name: str, content: bytes) -> NDArray[Any]:
    length = _LENGTHS.get(content[6:8])
    if content[:6] != _MAGIC or length is None:
        raise ValueError(f"{name[:80]!r} is no array")
    begin = 8 + length.size
    (header_bytes,) = length.unpack_from(content, 8)
    header = content[begin : begin + min(header_bytes, _HEADER_BYTES_MAX)]
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError(f"{name[:80]!r} is no array of numbers: {header[:80]!r}")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(n) for n in found[3].decode().replace(",", " ").split())
    begin += header_bytes
    if math.prod(shape) * dtype.itemsize != len(content) - begin:
        raise ValueError(
            f"{name[:80]!r} claims {dtype} {shape}, {math.prod(shape) * dtype.itemsize} bytes,"
            f" and has {len(content) - begin}"
        )
    numbers = np.frombuffer(content, dtype, offset=begin).copy()
    return numbers.reshape(shape, order="F" if found[2] == b"True" else "C")
