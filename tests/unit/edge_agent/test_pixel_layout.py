"""Which schemas take pictures, and how a picture becomes numbers."""

import numpy as np
import pytest

from edge_agent.adapters.image_files import spread
from edge_agent.contract.schema import Feature
from edge_agent.core.pixel_layout import find_layout
from edge_agent.errors import InputError


def field(*shape: int, dtype: str = "float32") -> Feature:
    return Feature(name="p", shape=shape, low=-1, high=1, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64,), (8, 8, 1, False)),
        ((4, 6), (4, 6, 1, False)),
        ((4, 6, 1), (4, 6, 1, False)),
        ((4, 6, 3), (4, 6, 3, False)),
        ((3, 4, 6), (4, 6, 3, True)),
        ((1, 4, 6), (4, 6, 1, True)),
    ],
)
def test_a_grid_of_pixels_is_a_picture(
    shape: tuple[int, ...], expected: tuple[int, int, int, bool]
) -> None:
    layout = find_layout([field(*shape)])
    found = (layout.height, layout.width, layout.channels, layout.is_channels_first)
    assert found == expected


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([Feature(name=f"f{n}", low=0, high=1) for n in range(4)], "this one takes 4 fields"),
        ([Feature(name="f", low=0, high=1)], "this one takes 1 fields"),
        ([field(8, 8), Feature(name="hour")], "2 fields"),
        ([field(63)], r"shape \[63\]"),
        ([field(4, 6, 4)], r"shape \[4, 6, 4\]"),
        ([field(1, 1, 4, 4)], "CSV or Parquet"),
        ([Feature(name="p", shape=(8, 8))], "declares no range.*--pixel-range"),
        ([Feature(name="p", shape=(8, 8), high=16)], "declares no range"),
    ],
)
def test_other_schemas_take_no_pictures_and_say_why(features: list[Feature], words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_layout(features)


def test_a_given_range_comes_before_the_schemas_and_must_rise() -> None:
    assert find_layout([field(8, 8)], (0, 255)).high == 255
    for wrong in ((1, 1), (2, 1), (0, float("inf"))):
        with pytest.raises(InputError, match="from low to high"):
            find_layout([field(8, 8)], wrong)


def test_black_and_white_become_the_ends_of_the_range() -> None:
    grid = np.array([[0, 255], [51, 204]], np.uint8)
    numbers = spread(grid, find_layout([field(2, 2)]))
    np.testing.assert_allclose(numbers, [-1, 1, -0.6, 0.6], atol=1e-6)
    assert spread(grid, find_layout([field(2, 2, dtype="int64")])).tolist() == [-1, 1, -1, 1]


def test_colours_lie_beside_each_other_or_each_in_its_grid() -> None:
    colours = np.array([[[0, 51, 255], [255, 0, 51]]], np.uint8)
    last = spread(colours, find_layout([field(1, 2, 3)], (0, 255)))
    first = spread(colours, find_layout([field(3, 1, 2)], (0, 255)))
    assert last.tolist() == [0, 51, 255, 255, 0, 51]
    assert first.tolist() == [0, 255, 51, 0, 255, 51]
