"""A picture of any size becomes the model's pixels in the graph, as Pillow and torch make them."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from converters.errors import InvalidRequestError
from converters.image_front import make_front, pack_pictures
from converters.normalise import normalise
from converters.runtime import GraphRunner
from device_profiles.catalog import load_profile
from edge_agent.contract.image import FIGURES, ColourOrder, ImageInput, ResizeMode

Array = NDArray[Any]
PROFILE = load_profile("camera")
SIZES = ((97, 131), (20, 24), (64, 64), (32, 300), (2, 3))


def draw_picture(height: int, width: int, seed: int = 0) -> Array:
    """Waves, a ramp, a checkerboard and noise."""
    noise = np.random.default_rng(seed).normal(0, 15, (height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    board = 255 * ((x // 7 + y // 5) % 2)
    planes = np.stack([128 + 100 * np.sin(x / 5 + y / 9), 255 * x / width, board], -1)
    return np.clip(planes + noise, 0, 255).astype(np.uint8)


def _pixels(picture: Array, **how: Any) -> Array:
    image = ImageInput(height=32, width=28, scale=1, **how)
    return pack_pictures([picture], image, PROFILE)[0].reshape(image.channels, 32, 28)


def _pillow(picture: Array, how: Any) -> Array:
    sized = Image.fromarray(picture).resize((28, 32), how)
    return np.asarray(sized, np.float32).transpose(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
def test_smooth_bilinear_is_pillows_but_for_its_rounding(size: tuple[int, int]) -> None:
    picture = draw_picture(*size)
    want = _pillow(picture, Image.Resampling.BILINEAR)
    # Pillow rounds to whole numbers twice, after each of its two passes.
    assert np.abs(_pixels(picture) - want).max() <= 1.01


@pytest.mark.parametrize("size", SIZES)
def test_nearest_is_pillows_but_on_the_edge_between_two_pixels(size: tuple[int, int]) -> None:
    picture = draw_picture(*size)
    want = _pillow(picture, Image.Resampling.NEAREST)
    got = _pixels(picture, resize=ResizeMode.NEAREST)
    steps = [(np.arange(n) + 0.5) * side / n for n, side in zip((32, 28), size, strict=True)]
    is_edge = [np.isclose(step, np.round(step)) for step in steps]
    is_clear = ~(is_edge[0][:, None] | is_edge[1][None, :])
    np.testing.assert_array_equal(got[:, is_clear], want[:, is_clear])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_smooth", [True, False])
def test_bilinear_is_torchs_with_and_without_antialias(
    size: tuple[int, int], is_smooth: bool
) -> None:
    torch = pytest.importorskip("torch")
    picture = draw_picture(*size)
    planes = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32))
    want = torch.nn.functional.interpolate(
        planes, (32, 28), mode="bilinear", align_corners=False, antialias=is_smooth
    )
    mode = ResizeMode.BILINEAR_SMOOTH if is_smooth else ResizeMode.BILINEAR
    np.testing.assert_allclose(_pixels(picture, resize=mode), want[0].numpy(), atol=2e-3)


def test_colours_means_and_layout_are_the_models() -> None:
    picture = draw_picture(32, 28)
    red, green, blue = picture.transpose(2, 0, 1).astype(np.float64)
    np.testing.assert_allclose(_pixels(picture, colours=ColourOrder.BGR)[0], blue, atol=1e-4)
    grey = _pixels(picture, colours=ColourOrder.GREY)
    np.testing.assert_allclose(grey[0], 0.299 * red + 0.587 * green + 0.114 * blue, atol=1e-3)
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    image = ImageInput(height=32, width=28, mean=mean, deviation=deviation, is_channels_first=False)
    packed, _ = pack_pictures([picture], image, PROFILE)
    want = (picture / 255 - np.array(mean)) / np.array(deviation)
    np.testing.assert_allclose(packed.reshape(32, 28, 3), want, atol=1e-5)


def test_figures_tell_light_contrast_colour_and_sharpness() -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    red = black.copy()
    red[..., 0] = 255
    stripes = black.copy()
    stripes[:, ::2] = 255
    image = ImageInput(height=40, width=40)
    _, figures = pack_pictures([black, red, stripes], image, PROFILE)
    named = [dict(zip(FIGURES, row.tolist(), strict=True)) for row in figures]
    assert named[0] == dict.fromkeys(FIGURES, 0.0)
    assert named[1] == pytest.approx(
        {"brightness": 0.299, "contrast": 0, "saturation": 1, "sharpness": 0}, abs=1e-3
    )
    assert named[2] == pytest.approx(
        {"brightness": 0.5, "contrast": 0.5, "saturation": 0, "sharpness": 0.5}, abs=1e-3
    )


def test_pictures_of_one_size_are_answered_together() -> None:
    pictures = [draw_picture(50, 60, seed) for seed in range(3)]
    image = ImageInput(height=16, width=16)
    runner = GraphRunner(normalise(make_front(image), PROFILE), PROFILE)
    together = runner.run_pictures(np.stack(pictures))["pixels"]
    np.testing.assert_allclose(together, pack_pictures(pictures, image, PROFILE)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "a picture is uint8"),
        (np.zeros((4, 4), np.uint8), "a picture is uint8"),
        (np.zeros((4, 4, 4), np.uint8), "a picture is uint8"),
        (np.zeros((0, 4, 3), np.uint8), "0 x 4 pixels, the limit is 400"),
        (np.zeros((21, 20, 3), np.uint8), "21 x 20 pixels, the limit is 400"),
    ],
)
def test_what_is_no_such_picture_is_refused(picture: Array, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        pack_pictures([picture], ImageInput(height=20, width=20, pixels_max=400), PROFILE)
