"""Read what a spec says of pictures: ``data.pictures`` in place of a table, and ``[input]``.

``[input]`` says what the model sees of a picture. The graph that ships does exactly that, and the
same graph makes the numbers the model is trained on.
"""

from typing import Any

from edge_agent.contract.errors import ContractError
from edge_agent.contract.image import PIXELS_MAX, SIDE_MAX, ColourOrder, ImageInput, ResizeMode
from edge_agent.contract.schema import WIDTH_MAX, Feature
from fleet_server.training.spec import PictureSection
from fleet_server.training.spec_problems import Section, is_number, show

PIXELS_NAME = "pixels"
FILE_COLUMN, LABEL_COLUMN = "file", "label"
"""Of a table of pictures; another name of the second is said by ``data.target``."""
SHARE_MAX = 0.5
"""Most pictures that may be unreadable: of more, what is trained on is not what was given."""


def read_pictures(root: Section, data: Section) -> PictureSection | None:
    """Read both; None where the spec is of a table."""
    if "pictures" not in data:
        if "input" in root:
            root.add("input", "says what the model sees of a picture; it needs data.pictures")
        for key in ("group", "unreadable_max"):
            if key in data:
                data.add(key, "works with data.pictures alone")
        return None
    for key in ("source", "features"):
        if key in data:
            data.add(key, "does not go with pictures; what the model sees is said in [input]")
    if "family" in root:
        root.add("family", "does not go with pictures; write a spec for each model")
    unreadable = data.number(
        "unreadable_max", low=0, high=SHARE_MAX, unit=" (a share of the pictures)"
    )
    return PictureSection(
        image=_read_image(root),
        group=data.text("group", chars_max=200),
        unreadable_share_max=unreadable or 0.0,
    )


def describe_pixels(image: ImageInput) -> Feature:
    """Give the one feature that a model of pictures reads: a channel after the other."""
    return Feature(name=PIXELS_NAME, shape=(image.channels, image.height, image.width))


def _read_image(root: Section) -> ImageInput:
    section = root.section("input", kind="input")
    plain = ImageInput(height=2, width=2)
    size = section.items("size", items_max=2)
    is_size = len(size) == 2 and all(
        isinstance(n, int) and not isinstance(n, bool) and 2 <= n <= SIDE_MAX for n in size
    )
    if not is_size:
        given = f", got {show(section.values['size'])}" if "size" in section else ""
        section.add("size", f"must be [height, width], each 2 to {SIDE_MAX}{given}")
        return plain
    scale = section.number("scale")
    try:
        image = ImageInput(
            height=size[0],
            width=size[1],
            colours=ColourOrder(_choose(section, "colours", ColourOrder.RGB)),
            resize=ResizeMode(_choose(section, "resize", ResizeMode.BILINEAR_SMOOTH)),
            mean=_read_numbers(section, "mean"),
            deviation=_read_numbers(section, "deviation"),
            scale=plain.scale if scale is None else scale,
            pixels_max=section.integer("pixels_max", plain.pixels_max, low=4, high=PIXELS_MAX),
        )
    except ContractError as error:
        section.problems.add(section.path, str(error).removeprefix("image: "))
        return plain
    numbers = image.height * image.width * image.channels
    if numbers > WIDTH_MAX:
        section.add("size", f"makes {numbers} numbers of a picture, at most {WIDTH_MAX}")
        return plain
    return image


def _choose(section: Section, key: str, default: ColourOrder | ResizeMode) -> str:
    words = [str(word) for word in type(default)]
    word = section.values.get(key, str(default))
    if word not in words:
        section.add(key, f"{show(word)} is not one of {words}")
        return str(default)
    return str(word)


def _read_numbers(section: Section, key: str) -> tuple[float, ...]:
    values: list[Any] = section.items(key, items_max=3)
    if not all(is_number(value) for value in values):
        section.add(key, f"must be numbers, one a channel, got {show(values)}")
        return ()
    return tuple(float(value) for value in values)
