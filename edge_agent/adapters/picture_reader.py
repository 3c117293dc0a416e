"""Requests with pictures: a UINT8 tensor, or the bytes of a JPEG or PNG file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.image_files import PIXELS_MAX, decode_pixels
from edge_agent.adapters.inference_binary import read_raw
from edge_agent.adapters.inference_json import ModelCodec, is_raw_tensor
from edge_agent.adapters.request_json import read_numbers
from edge_agent.adapters.served_pictures import PICTURES_PER_REQUEST_MAX
from edge_agent.contract.image import IMAGE_CHANNELS, IMAGE_INPUT, ImageInput
from edge_agent.errors import InputError

FILE_TYPES = frozenset({b"image/jpeg", b"image/png"})


class PictureCodec(ModelCodec):
    """A ``ModelCodec`` of tensors ``image`` UINT8 [pictures, height, width, 3]."""

    input_name = IMAGE_INPUT

    def _decode_features(self, tensor: Mapping[str, Any], raw: memoryview | None) -> NDArray[Any]:
        if tensor.get("name") != IMAGE_INPUT:
            raise InputError(
                f"inputs[0].name must be {IMAGE_INPUT!r}, got {tensor.get('name')!r:.80}"
            )
        if tensor.get("datatype") != "UINT8":
            raise InputError(
                f"inputs[0].datatype must be UINT8 (0 to 255, red first), got"
                f" {tensor.get('datatype')!r:.80}"
            )
        shape = _check_shape(tensor.get("shape"))
        count = int(np.prod(shape, dtype=np.int64))
        if is_raw_tensor(tensor, raw):
            array = read_raw(raw or memoryview(b""), "UINT8", count)
        else:
            array = read_numbers(tensor.get("data"), "u")
        if array.size != count:
            raise InputError(
                f"inputs[0].data has {array.size} numbers, shape {shape} needs {count}"
            )
        if array.size and array.max() > np.iinfo(np.uint8).max:
            raise InputError(f"inputs[0].data has {array.max()}, a UINT8 goes to 255")
        return array.astype(np.uint8).reshape(shape)


def read_file_body(body: bytes, image: ImageInput) -> NDArray[np.uint8]:
    """Read the body of a request as one JPEG or PNG; [1, height, width, 3]. Raises InputError."""
    return decode_pixels(body, "the body", image.pixels_max)[None]


def _check_shape(shape: Any) -> list[int]:
    is_shape = (
        isinstance(shape, list)
        and len(shape) == 4
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape)
        and shape[0] <= PICTURES_PER_REQUEST_MAX
        and shape[3] == IMAGE_CHANNELS
    )
    if not is_shape:
        raise InputError(
            f"inputs[0].shape must be [1 to {PICTURES_PER_REQUEST_MAX} pictures, height, width,"
            f" {IMAGE_CHANNELS}], got {shape!r:.80}"
        )
    pixels = shape[1] * shape[2]
    if pixels > PIXELS_MAX:
        raise InputError(
            f"inputs[0].shape: a picture of {pixels} pixels, the limit is {PIXELS_MAX}"
        )
    return [int(n) for n in shape]
