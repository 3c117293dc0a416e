"""The picture a model takes: uint8 RGB pixels of any size in one tensor, all else in the graph.

The graph's input ``image`` is uint8 [pictures, height, width, 3], red first; the pictures of one
request have one size. Resizing, colour order, scale, means and deviations are operators of the
graph, so what stands here beside the limits is for people and for who builds the graph. The graph
answers ``figures`` too, float32 [pictures, 4]: what telemetry watches of a picture.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields

IMAGE_INPUT = "image"
IMAGE_CHANNELS = 3
FIGURES_OUTPUT = "figures"
FIGURES = ("brightness", "contrast", "saturation", "sharpness")
"""Of the picture as the model sees it, before means and deviations; each 0 to 1."""
SIDE_MAX = 4_096
PIXELS_MAX = 67_108_864
"""Largest bound a schema may set on height times width of a picture."""


class ColourOrder(StrEnum):
    """Channels the model sees, in their order."""

    GREY = "grey"
    """0.299 red + 0.587 green + 0.114 blue."""
    RGB = "rgb"
    BGR = "bgr"


class ResizeMode(StrEnum):
    """How the graph makes a picture the model's size; docs/conversion.md says what equals what."""

    BILINEAR = "bilinear"
    """Half-pixel centres, no smoothing before it is made smaller."""
    BILINEAR_SMOOTH = "bilinear_smooth"
    """The same, smoothed before it is made smaller (antialias)."""
    NEAREST = "nearest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """How pictures come in and what the graph makes of them.

    Attributes:
        height: Rows of pixels the model sees.
        width: Columns of pixels the model sees.
        colours: Channels the model sees.
        is_channels_first: Whether each channel is a grid of its own to the model.
        resize: How another size becomes height x width.
        pixels_max: Most pixels (height times width) of a picture given.
        mean: Of each channel, subtracted after the scale, in the order of ``colours``.
        deviation: Of each channel, divided by after that.
        scale: What 0 to 255 is multiplied with first.
    """

    height: int
    width: int
    colours: ColourOrder = ColourOrder.RGB
    is_channels_first: bool = True
    resize: ResizeMode = ResizeMode.BILINEAR_SMOOTH
    pixels_max: int = 16_777_216
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if not (2 <= self.height <= SIDE_MAX and 2 <= self.width <= SIDE_MAX):
            raise MalformedError(
                f"image: {self.height} x {self.width}, each side must be 2 to {SIDE_MAX}"
            )
        if not self.height * self.width <= self.pixels_max <= PIXELS_MAX:
            raise MalformedError(
                f"image: pixels_max {self.pixels_max} must be {self.height * self.width} to"
                f" {PIXELS_MAX}"
            )
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if values and len(values) != self.channels:
                raise MalformedError(
                    f"image: {len(values)} numbers of {name} for {self.channels} channels"
                )
        numbers = (*self.mean, *self.deviation, self.scale)
        if (
            not all(map(math.isfinite, numbers))
            or self.scale <= 0
            or min((1, *self.deviation)) <= 0
        ):
            raise MalformedError(
                "image: mean, deviation and scale are finite, the last two above 0"
            )

    @property
    def channels(self) -> int:
        """Numbers of one pixel, as the model sees it."""
        return 1 if self.colours is ColourOrder.GREY else 3

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "height": self.height,
            "width": self.width,
            "colours": str(self.colours),
            "channels_first": self.is_channels_first,
            "resize": str(self.resize),
            "pixels_max": self.pixels_max,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, value: Any) -> "ImageInput":
        """Read the JSON form; raises ContractError."""
        fields = Fields(value, what="schema.json image")
        try:
            colours = ColourOrder(fields.text("colours", chars_max=16))
            resize = ResizeMode(fields.text("resize", chars_max=32))
        except ValueError as error:
            raise MalformedError(f"schema.json image: {error}") from error
        return cls(
            height=fields.integer("height", high=SIDE_MAX),
            width=fields.integer("width", high=SIDE_MAX),
            colours=colours,
            is_channels_first=fields.flag("channels_first", default=True),
            resize=resize,
            pixels_max=fields.integer("pixels_max", high=PIXELS_MAX),
            mean=fields.items("mean", _number, (), items_max=3),
            deviation=fields.items("deviation", _number, (), items_max=3),
            scale=fields.number("scale", 1 / 255),
        )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError(f"schema.json image: {str(value)[:40]!r} is not a number")
    return float(value)
