"""Tensors as raw bytes: the binary extension of the Open Inference Protocol.

A request of this kind begins with its JSON, whose length a header tells; what the JSON declares
with ``binary_data_size`` follows in the order of the inputs. An answer is built alike. Numbers are
little-endian, row-major, without padding; an element of BYTES is its length in four bytes, then
itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import InputError

BINARY_HEADER = "Inference-Header-Content-Length"
BINARY_HEADER_KEY = BINARY_HEADER.lower().encode()
BINARY_EXTENSION = "binary_tensor_data"
_LENGTH_DIGITS_MAX = 12
_LENGTH_BYTES = 4
_BF16 = "BF16"
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "BOOL": np.dtype("<u1"),
    _BF16: np.dtype("<u2"),
}


def split_body(body: bytes, header: bytes | None) -> tuple[bytes, memoryview | None]:
    """Cut a body into its JSON and the raw tensors behind it; None without the header.

    Raises:
        InputError: The header is no length, or longer than the body.
    """
    if header is None:
        return body, None
    if not header.isdigit() or len(header) > _LENGTH_DIGITS_MAX:
        raise InputError(f"header {BINARY_HEADER} is {header[:40]!r}, it must be a length in bytes")
    size = int(header)
    if size > len(body):
        raise InputError(f"header {BINARY_HEADER} is {size}, the body has {len(body)} bytes")
    return body[:size], memoryview(body)[size:]


def read_raw(raw: memoryview, datatype: str, count: int, what: str = "inputs[0]") -> NDArray[Any]:
    """Read ``count`` numbers; the array may lie unaligned in the body, so copy it.

    Raises:
        InputError: Another number of bytes, or a BOOL that is neither 0 nor 1.
    """
    dtype = _DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"{what} has {len(raw)} bytes, {count} numbers of {datatype}"
            f" need {count * dtype.itemsize}"
        )
    array: NDArray[Any] = np.frombuffer(raw, dtype)
    if datatype == "BOOL" and (array.view(np.uint8) > 1).any():
        raise InputError(f"{what} holds a BOOL that is neither 0 nor 1")
    if datatype == _BF16:  # the upper half of a float32
        return (array.astype("<u4") << np.uint32(16)).view("<f4")
    return array.astype("<f4") if datatype == "FP16" else array


def raw_numbers(array: NDArray[Any]) -> bytes:
    """Give an output's numbers in the wire's byte order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def read_raw_texts(raw: memoryview, count: int, what: str) -> list[str]:
    """Read ``count`` elements of a BYTES tensor as UTF-8.

    Raises:
        InputError: Another number of elements, or one that is no UTF-8.
    """
    texts, place = list[str](), 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + _LENGTH_BYTES], "little")
        place += _LENGTH_BYTES
        if len(texts) == count or place + size > len(raw):
            raise InputError(
                f"{what} is no tensor of {count} BYTES: element {len(texts)} of {size} bytes is one"
                " too many or does not fit"
            )
        try:
            texts.append(str(raw[place : place + size], "utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{what}: element {len(texts)} is not UTF-8: {error}") from error
        place += size
    if len(texts) != count:
        raise InputError(f"{what} holds {len(texts)} elements, its shape needs {count}")
    return texts


def raw_texts(texts: Sequence[bytes]) -> bytes:
    """Give the elements of a BYTES tensor.

    >>> raw_texts([b"fog"]).hex(" ")
    '03 00 00 00 66 6f 67'
    """
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
