"""Write scikit-learn's bundled handwritten digits as pictures of many sizes, a folder a digit.

    python examples/cameras/export_pictures.py examples/cameras/pictures
    python examples/cameras/export_pictures.py darker --brightness 0.6 --start 600 --count 400

Each digit of 8 x 8 pixels is blown up to a coloured picture of 24 to 96 pixels a side, as cameras
of several kinds would give it. Pictures are shuffled by ``--seed`` first, so ``--start`` and
``--count`` cut parts that never overlap. ``--brightness`` is the light of the lamp, ``--kind jpeg``
writes JPEG.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from numpy.typing import NDArray

INK_MAX = 16.0
SIDES = (24, 96)
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


def draw_digit(pixels: "NDArray[Any]", place: int, brightness: float) -> "NDArray[np.uint8]":
    """Blow 8 x 8 pixels up to an RGB picture; its size and tint hang on ``place`` alone."""
    draw = np.random.default_rng(place)
    height, width = (int(side) for side in draw.integers(*SIDES, 2))
    grey = Image.fromarray((pixels.reshape(8, 8) * (255.0 / INK_MAX)).astype(np.uint8))
    sized = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    tint = draw.uniform(0.85, 1.0, 3) * brightness
    return np.clip(sized[..., None] * tint, 0, 255).astype(np.uint8)


def write_pictures(
    folder: Path,
    *,
    seed: int = 0,
    start: int = 0,
    count: int | None = None,
    brightness: float = 1.0,
    kind: str = "png",
) -> int:
    """Write the pictures and return how many.

    Args:
        folder: A sub-folder for each digit is made in it.
        seed: Order before any are cut.
        start: First picture taken.
        count: Pictures taken; None for all that follow.
        brightness: Factor of all colours.
        kind: ``png`` or ``jpeg``.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    order = order[start : None if count is None else start + count]
    for place in order:
        of_class = folder / str(labels[place])
        of_class.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(draw_digit(images[place], int(place), brightness))
        picture.save(of_class / f"{place:04}{SUFFIXES[kind]}", kind.upper())
    return len(order)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the digits as pictures.")
    parser.add_argument("folder", type=Path, help="folder to write, made where it is not there")
    parser.add_argument("--seed", type=int, default=0, help="order of the pictures (default 0)")
    parser.add_argument("--start", type=int, default=0, help="first picture taken (default 0)")
    parser.add_argument("--count", type=int, help="pictures taken (default all that follow)")
    parser.add_argument("--brightness", type=float, default=1.0, help="light, 1 is as it was")
    parser.add_argument("--kind", choices=sorted(SUFFIXES), default="png", help="default png")
    options = parser.parse_args(arguments)
    count = write_pictures(
        options.folder,
        seed=options.seed,
        start=options.start,
        count=options.count,
        brightness=options.brightness,
        kind=options.kind,
    )
    print(f"{options.folder}: {count} pictures", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
