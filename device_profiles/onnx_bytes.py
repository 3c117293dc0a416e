"""Write small ONNX models byte by byte, for programs that must not need the onnx package.

Field numbers are those of onnx.proto, fixed by protobuf's compatibility rules. Only what the
reference graphs and the look at a runtime's operators need. Pure.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
"""Element types by TensorProto.DataType."""
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_KIND_FLOAT, _KIND_INT, _KIND_STRING = 1, 2, 3
_KIND_FLOATS, _KIND_INTS, _KIND_STRINGS = 6, 7, 8

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A constant: its elements are little-endian bytes."""

    name: str
    element: int
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator; ``domain`` is empty for those of ``ai.onnx``."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] | None = None
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output; None in a shape is an open size, and no shape at all is None."""

    name: str
    element: int
    shape: tuple[int | None, ...] | None


def write_model(
    nodes: Sequence[Node],
    *,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    tensors: Sequence[Tensor] = (),
    ir: int = 8,
    opsets: Mapping[str, int],
) -> bytes:
    """Write a model.

    Args:
        nodes: In the order they run.
        inputs: What is fed.
        outputs: What is answered.
        tensors: Constants.
        ir: File format.
        opsets: Version by domain.
    """
    graph = b"".join(_field(1, _node(node)) for node in nodes) + _field(2, b"g")
    graph += b"".join(_field(5, _tensor(tensor)) for tensor in tensors)
    graph += b"".join(_field(11, _value(value)) for value in inputs)
    graph += b"".join(_field(12, _value(value)) for value in outputs)
    imports = b"".join(
        _field(8, _field(1, domain.encode()) + _field(2, version))
        for domain, version in opsets.items()
    )
    return _field(1, ir) + _field(7, graph) + imports


def _node(node: Node) -> bytes:
    written = b"".join(_field(1, name.encode()) for name in node.inputs)
    written += b"".join(_field(2, name.encode()) for name in node.outputs)
    written += _field(4, node.operator.encode())
    for name, value in (node.attributes or {}).items():
        written += _field(5, _attribute(name, value))
    return written + (_field(7, node.domain.encode()) if node.domain else b"")


def _attribute(name: str, value: Attribute) -> bytes:
    written = _field(1, name.encode())
    if isinstance(value, str):
        return written + _field(4, value.encode()) + _field(20, _KIND_STRING)
    if isinstance(value, int):
        return written + _field(3, value) + _field(20, _KIND_INT)
    if isinstance(value, float):
        return written + _float(2, value) + _field(20, _KIND_FLOAT)
    if value and isinstance(value[0], str):
        items = {item: _field(9, str(item).encode()) for item in set(value)}
        texts = b"".join(items[item] for item in value)
        return written + texts + _field(20, _KIND_STRINGS)
    if value and isinstance(value[0], float):
        packed = struct.pack(f"<{len(value)}f", *value)
        return written + _field(7, packed) + _field(20, _KIND_FLOATS)
    # Trees repeat few numbers thousands of times.
    numbers = [int(item) for item in value]
    encoded = {number: _number(number) for number in set(numbers)}
    packed = b"".join(encoded[number] for number in numbers)
    return written + _field(8, packed) + _field(20, _KIND_INTS)


def _tensor(tensor: Tensor) -> bytes:
    dims = b"".join(_field(1, size) for size in tensor.shape)
    return dims + _field(2, tensor.element) + _field(8, tensor.name.encode()) + _raw(tensor.raw)


def _raw(raw: bytes) -> bytes:
    return _field(9, raw)


def _value(value: Value) -> bytes:
    inner = _field(1, value.element)
    if value.shape is not None:
        sizes = b"".join(_field(1, _size(size)) for size in value.shape)
        inner += _field(2, sizes)
    return _field(1, value.name.encode()) + _field(2, _field(1, inner))


def _size(size: int | None) -> bytes:
    return _field(2, b"N") if size is None else _field(1, size)


def _float(number: int, value: float) -> bytes:
    return _number(number << 3 | _FIXED32) + struct.pack("<f", value)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _number(number << 3 | _VARINT) + _number(value & 0xFFFF_FFFF_FFFF_FFFF)
    return _number(number << 3 | _BYTES) + _number(len(value)) + value


def _number(value: int) -> bytes:
    """Encode as a protobuf varint: seven bits a byte, lowest first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
