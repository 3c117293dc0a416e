"""Write long lists of numbers and words into an ONNX attribute as protobuf bytes.

Appending them one by one takes longer than everything else about a forest; bytes in protobuf's
packed form are read at memory speed. What the attribute holds afterwards is the same.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto

Array = NDArray[Any]
_FLOATS, _INTS, _STRINGS = 7, 8, 9
_LENGTH_DELIMITED = 2


def write_floats(attribute: AttributeProto, values: Array) -> None:
    """Make it a list of these float32 numbers."""
    attribute.type = AttributeProto.FLOATS
    attribute.ClearField("floats")
    attribute.MergeFromString(_field(_FLOATS, values.astype("<f4").tobytes()))


def write_ints(attribute: AttributeProto, values: Array) -> None:
    """Make it a list of these whole numbers, 0 or above."""
    attribute.type = AttributeProto.INTS
    attribute.ClearField("ints")
    attribute.MergeFromString(_field(_INTS, pack_varints(values)))


def write_choices(attribute: AttributeProto, choices: Array, if_true: bytes, other: bytes) -> None:
    """Make it a list of two words of letters, two or longer, chosen by booleans."""
    attribute.type = AttributeProto.STRINGS
    attribute.ClearField("strings")
    marks = choices.astype("?").tobytes()
    chosen = marks.replace(b"\0", _field(_STRINGS, other)).replace(b"\1", _field(_STRINGS, if_true))
    attribute.MergeFromString(chosen)


def pack_varints(values: Array) -> bytes:
    """Give whole numbers as protobuf reads them, each as long as the largest needs.

    >>> pack_varints(np.array([1, 127, 300])).hex()
    '8100ff00ac02'
    """
    numbers = values.astype(np.int64)
    highest = int(numbers.max(initial=0))
    length = max(1, -(-highest.bit_length() // 7))
    packed = np.empty((len(numbers), length), np.uint8)
    for place in range(length):
        packed[:, place] = (numbers >> 7 * place) & 0x7F
    packed[:, :-1] |= 0x80
    return packed.tobytes()


def _field(number: int, content: bytes) -> bytes:
    tag = bytes([number << 3 | _LENGTH_DELIMITED])
    return tag + pack_varints(np.array([len(content)])) + content
