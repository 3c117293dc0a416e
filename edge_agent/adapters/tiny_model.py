"""The smallest ONNX models, written byte by byte: one node from ``x`` to ``y``.

They let a device find out which formats and operator sets its runtime loads without the onnx
package. Field numbers are those of onnx.proto, fixed by protobuf's compatibility rules.
"""

_VARINT, _BYTES = 0, 2
_FLOAT = 1


def tiny_model(*, ir: int, opset: int, opset_ml: int = 0) -> bytes:
    """Write a model of one element; with ``opset_ml`` its node is of domain ``ai.onnx.ml``."""
    node = _field(1, b"x") + _field(2, b"y")
    imports = _field(8, _field(1, b"") + _field(2, opset))
    if opset_ml:
        node += _field(4, b"Normalizer") + _field(7, b"ai.onnx.ml")
        imports += _field(8, _field(1, b"ai.onnx.ml") + _field(2, opset_ml))
    else:
        node += _field(4, b"Identity")
    graph = _field(1, node) + _field(2, b"g") + _field(11, _value(b"x")) + _field(12, _value(b"y"))
    return _field(1, ir) + _field(7, graph) + imports


def _value(name: bytes) -> bytes:
    shape = _field(1, _field(1, 1))
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _number(number << 3 | _VARINT) + _number(value)
    return _number(number << 3 | _BYTES) + _number(len(value)) + value


def _number(value: int) -> bytes:
    """Encode as a protobuf varint: seven bits a byte, lowest first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
