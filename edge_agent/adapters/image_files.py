"""Picture files into rows of a model, through Pillow where it is installed.

A picture is turned as its camera says, made grey or RGB, resized to the model's grid without
keeping its proportions, and its brightness 0 to 255 is spread over the model's range. Left out:
cropping, normalising by channel, films; several frames of a file are its first.
"""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.pixel_layout import PixelLayout
from edge_agent.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
FILE_BYTES_MAX = 67_108_864
PIXELS_MAX = 50_000_000
"""A file of few bytes may unfold to more pixels than the device has memory for."""
_FORMATS = ("PNG", "JPEG")


def load_pillow() -> Any:
    """Return Pillow's module Image; raises InputError with what to do when it is not there."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise InputError(
            "pictures are read with Pillow, which is not installed here: pip install pillow"
        ) from error


def read_picture(path: Path, layout: PixelLayout) -> NDArray[Any]:
    """Read one picture as the numbers of one row, float32 [height * width * channels].

    Raises:
        InputError: Pillow is missing, or the file is no picture, damaged or too large.
    """
    image_module = load_pillow()
    transposed = importlib.import_module("PIL.ImageOps").exif_transpose
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise InputError(f"{path} has {size} bytes, the limit is {FILE_BYTES_MAX}")
        with image_module.open(path, formats=_FORMATS) as image:
            limit = min(PIXELS_MAX, layout.pixels_max or PIXELS_MAX)
            if image.width * image.height > limit:
                raise InputError(
                    f"{path} has {image.width} x {image.height} pixels, the limit is {limit}"
                )
            return fit_picture(_to_eight_bits(transposed(image)), layout)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise InputError(f"{path} is no PNG or JPEG picture that can be read: {error}") from error


def fit_picture(image: Any, layout: PixelLayout) -> NDArray[Any]:
    """Bring a picture of Pillow into the layout, float32 [height * width * channels].

    Where the graph takes it as it is: uint8 [height, width, 3].
    """
    if layout.pixels_max:
        return np.asarray(image.convert("RGB"), np.uint8)
    plain = image.convert("L" if layout.channels == 1 else "RGB")
    sized = plain.resize((layout.width, layout.height), load_pillow().Resampling.BILINEAR)
    return spread(np.asarray(sized, np.uint8), layout)


def decode_pixels(content: bytes, what: str, pixels_max: int) -> NDArray[np.uint8]:
    """Read a PNG or JPEG as uint8 RGB [height, width, 3], turned as the camera noted.

    Args:
        content: The file's bytes.
        what: Names it in errors.
        pixels_max: Larger pictures are refused before they are unfolded.

    Raises:
        InputError: Pillow is missing, or it is no picture, damaged or too large.
    """
    image_module = load_pillow()
    transposed = importlib.import_module("PIL.ImageOps").exif_transpose
    limit = min(PIXELS_MAX, pixels_max)
    try:
        with image_module.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > limit:
                raise InputError(
                    f"{what} has {image.width} x {image.height} pixels, the limit is {limit}"
                )
            return np.asarray(_to_eight_bits(transposed(image)).convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise InputError(f"{what} is no PNG or JPEG picture that can be read: {error}") from error


def spread(pixels: NDArray[np.uint8], layout: PixelLayout) -> NDArray[np.float32]:
    """Spread 0 to 255 over the layout's range, row-major; ``pixels`` is [height, width(, 3)]."""
    grid = pixels.reshape(layout.height, layout.width, layout.channels)
    if layout.is_channels_first:
        grid = grid.transpose(2, 0, 1)
    numbers = layout.low + grid.ravel().astype(np.float64) * ((layout.high - layout.low) / 255)
    if layout.is_whole:
        numbers = np.rint(numbers)
    return np.clip(numbers, layout.low, layout.high).astype(np.float32)


def _to_eight_bits(image: Any) -> Any:
    """Keep the brightness of 16-bit grey pictures, which Pillow would cut off at 255."""
    if not image.mode.startswith("I;16"):
        return image
    numbers = np.asarray(image, np.uint16) >> 8
    return load_pillow().fromarray(numbers.astype(np.uint8))
