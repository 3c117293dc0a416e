"""Which pictures a schema can take: one field that is a grid of pixels with one range.

A schema of plain numbers is never read as a picture, however many columns it has: four sensors are
not a picture of 2 by 2. Left out: pictures with an alpha channel, several pictures a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.contract.image import IMAGE_CHANNELS, IMAGE_INPUT, ImageInput
from edge_agent.contract.schema import Feature
from edge_agent.errors import InputError

CHANNELS = (1, 3)
_SUPPORTED = (
    "pictures go to models with one field of shape [height, width], [height, width, 1 or 3],"
    " [1 or 3, height, width] or [side * side]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLayout:
    """How a picture becomes the numbers of one row.

    Attributes:
        field: The field that takes them.
        height: Pixels.
        width: Pixels.
        channels: 1 for grey, 3 for red, green, blue.
        is_channels_first: Whether each colour is a grid of its own.
        low: What black becomes.
        high: What full brightness becomes.
        is_whole: Whether the numbers are rounded.
        pixels_max: Where the graph takes the picture as it is, RGB of any size: its largest number
            of pixels, and nothing of the above is done to it; else 0.
    """

    field: str
    height: int
    width: int
    channels: int
    is_channels_first: bool
    low: float
    high: float
    is_whole: bool
    pixels_max: int = 0


def find_layout(
    features: Sequence[Feature] | ImageInput, pixel_range: tuple[float, float] | None = None
) -> PixelLayout:
    """Read the layout from a schema.

    Args:
        features: Of the schema, or its image.
        pixel_range: Numbers for black and for full brightness; None takes the field's own range.

    Raises:
        InputError: The schema takes no pictures, or does not tell its range; says what would do.

    >>> layout = find_layout([Feature(name="pixels", shape=(8, 8), low=0, high=16)])
    >>> (layout.height, layout.width, layout.channels, layout.high)
    (8, 8, 1, 16)
    """
    if isinstance(features, ImageInput):
        return PixelLayout(
            field=IMAGE_INPUT,
            height=features.height,
            width=features.width,
            channels=IMAGE_CHANNELS,
            is_channels_first=False,
            low=0,
            high=255,
            is_whole=True,
            pixels_max=features.pixels_max,
        )
    if len(features) != 1 or not features[0].shape:
        raise InputError(
            f"{_SUPPORTED}; this one takes {len(features)} fields"
            f" ({', '.join(f.name for f in features[:5])}): give rows as CSV or Parquet"
        )
    feature = features[0]
    height, width, channels, is_first = _find_shape(feature)
    low, high = pixel_range or (feature.low, feature.high)
    if low is None or high is None:
        raise InputError(
            f"field {feature.name} declares no range from low to high, so black and white have no"
            " number; say --pixel-range 0 255, or what the model was trained on"
        )
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise InputError(f"the range of pixels must go from low to high, got {low:g} to {high:g}")
    return PixelLayout(
        field=feature.name,
        height=height,
        width=width,
        channels=channels,
        is_channels_first=is_first,
        low=low,
        high=high,
        is_whole=feature.dtype == "int64",
    )


def _find_shape(feature: Feature) -> tuple[int, int, int, bool]:
    shape = feature.shape
    match shape:
        case (count,) if math.isqrt(count) ** 2 == count:
            return math.isqrt(count), math.isqrt(count), 1, False
        case (height, width):
            return height, width, 1, False
        case (height, width, channels) if channels in CHANNELS:
            return height, width, channels, False
        case (channels, height, width) if channels in CHANNELS:
            return height, width, channels, True
    raise InputError(
        f"{_SUPPORTED}; field {feature.name} has shape {list(shape)}: give rows as CSV or Parquet"
    )
