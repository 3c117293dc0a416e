"""Archives of arrays: read as numpy reads them, refused where they are not what numpy writes."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.adapters.array_archive import read_arrays

Arrays = Mapping[str, NDArray[Any]]
ARRAYS: Arrays = {
    "input": np.arange(12, dtype=np.float32).reshape(3, 4),
    "across": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "labels": np.array([3, -1], np.int64),
    "pixels": np.zeros((1, 2, 2, 3), np.uint8),
    "tolerance": np.array(1e-4),
    "none": np.zeros((0, 4), np.float32),
    "größe": np.array([1], ">i2"),
}


def saved(arrays: Arrays, save: Callable[..., None] = np.savez) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def read(payload: bytes, *, arrays_max: int = 8, bytes_max: int = 4_096) -> Arrays:
    return read_arrays(payload, arrays_max=arrays_max, bytes_max=bytes_max)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_is_read_as_it_was_written(save: Callable[..., None]) -> None:
    found = read(saved(ARRAYS, save))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def edited(edit: Callable[[bytearray], None]) -> bytes:
    data = bytearray(saved({"input": ARRAYS["input"]}))
    edit(data)
    return bytes(data)


def entry(data: bytearray) -> int:
    return data.index(b"PK\1\2")


def text_of(header: bytes) -> bytes:
    """Make an archive whose one array has this header."""
    buffer = io.BytesIO()
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "no archive"),
        (b"x" * 100, "does not end"),
        (saved({"input": np.array(["text"])}), "no array of numbers"),
        (saved({"input": np.zeros(2, np.complex64)}), "no array of numbers"),
        (saved({"input": np.zeros(2, np.bool_)}), "no array of numbers"),
        (text_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }\n"), "claims float32"),
        (text_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "no array of"),
        (text_of(b"__import__('os').abort()\n"), "no array of numbers"),
        (edited(lambda data: data.__setitem__(entry(data) + 8, 1)), "as numpy lists"),
        (edited(lambda data: data.__setitem__(entry(data) + 10, 12)), "another method"),
        (edited(lambda data: data.__setitem__(entry(data) + 16, 0)), "listed as"),
        (edited(lambda data: data.__setitem__(entry(data) + 44, 0x7F)), "not where|requires"),
        (edited(lambda data: data.__setitem__(entry(data) - 1, 0)), "listed as"),
    ],
)
def test_what_numpy_would_not_have_written_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises((ValueError, struct.error), match=words):
        read(payload)


def test_bounds_are_of_everything_unpacked() -> None:
    payload = saved({"input": np.zeros(1_000, np.float64)}, np.savez_compressed)
    size = 8_000 + 128
    assert read(payload, bytes_max=size)["input"].size == 1_000
    with pytest.raises(ValueError, match=f"1 arrays of {size} bytes, at most 8 of {size - 1}"):
        read(payload, bytes_max=size - 1)
    with pytest.raises(ValueError, match="7 arrays of"):
        read(saved(ARRAYS), arrays_max=6)
