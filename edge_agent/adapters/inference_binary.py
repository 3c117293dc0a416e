"""Tensors as raw bytes: the binary extension of the Open Inference Protocol.

A request of this kind begins with its JSON, whose length a header tells; what the JSON declares
with ``binary_data_size`` follows in the order of the inputs. An answer is built alike. Numbers are
little-endian, row-major, without padding; an element of BYTES is its length in four bytes, then
itself. Left out: BYTES as input, because a model's input is numbers.
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


def read_raw(raw: memoryview, datatype: str, count: int) -> NDArray[Any]:
    """Read ``count`` numbers; the array may lie unaligned in the body, so copy it.

    Raises:
        InputError: Another number of bytes, or a BOOL that is neither 0 nor 1.
    """
    dtype = _DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"inputs[0] has {len(raw)} bytes, {count} numbers of {datatype}"
            f" need {count * dtype.itemsize}"
        )
    array: NDArray[Any] = np.frombuffer(raw, dtype)
    if datatype == "BOOL" and (array.view(np.uint8) > 1).any():
        raise InputError("inputs[0] holds a BOOL that is neither 0 nor 1")
    if datatype == _BF16:  # the upper half of a float32
        return (array.astype("<u4") << np.uint32(16)).view("<f4")
    return array.astype("<f4") if datatype == "FP16" else array


def raw_numbers(array: NDArray[Any]) -> bytes:
    """Give an output's numbers in the wire's byte order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def raw_texts(texts: Sequence[bytes]) -> bytes:
    """Give the elements of a BYTES tensor.

    >>> raw_texts([b"fog"]).hex(" ")
    '03 00 00 00 66 6f 67'
    """
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
