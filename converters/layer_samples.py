"""What a layer multiplies and what it makes of it, sampled over rows and places of a map.

Only sums are kept: rows pass through in parts, so memory does not grow with their number. The
places are drawn with a fixed seed, the same for every graph of the same shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from converters.channel_groups import read_attribute

Array = NDArray[Any]
SAMPLES_MAX = 8_192
CHUNK_ROWS = 32
_SEED = 0


@dataclass(slots=True)
class Moments:
    """Sums over samples of inputs x [F] and outputs y [M], float64.

    Attributes:
        count: Samples.
        x: Of inputs [F].
        y: Of outputs [M].
        xx: Of products of two inputs [F, F], or of squares [F] where they were too many.
        xy: Of products of inputs and outputs [F, M].
        yy: Of squares of outputs [M].
    """

    count: int
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def of(cls, inputs: Array, outputs: Array, *, features_max: int) -> "Moments":
        """Sum up some samples; with more features than that, squares only."""
        x, y = inputs.astype(np.float64), outputs.astype(np.float64)
        is_wide = x.shape[1] > features_max
        return cls(
            len(x),
            x.sum(axis=0),
            y.sum(axis=0),
            (x * x).sum(axis=0) if is_wide else x.T @ x,
            np.zeros((0, 0)) if is_wide else x.T @ y,
            (y * y).sum(axis=0),
        )

    def add(self, other: "Moments") -> None:
        """Take in further samples."""
        self.count += other.count
        for name in ("x", "y", "xx", "xy", "yy"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def centre(self) -> None:
        """Make the sums of products those of differences from the mean."""
        xx = np.outer(self.x, self.x) if self.xx.ndim > 1 else self.x * self.x
        self.xx = self.xx - xx / self.count
        if self.xy.size:
            self.xy = self.xy - np.outer(self.x, self.y) / self.count
        self.yy = self.yy - self.y * self.y / self.count


def sample(
    node: NodeProto, kernel: Sequence[int], inputs: Array, outputs: Array, count: int
) -> tuple[Array, Array]:
    """Give inputs [count, F] and outputs [count, M] of a layer at drawn places.

    Args:
        node: ``Conv``, ``Gemm`` or ``MatMul``.
        kernel: Sides of the kernel of a convolution.
        inputs: What it reads, of some rows.
        outputs: What it makes, or should, of the same rows.
        count: Samples at most.
    """
    random = np.random.default_rng(_SEED)
    if node.op_type != "Conv":
        x, y = inputs.reshape(-1, inputs.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
        places = np.sort(random.permutation(len(x))[:count])
        return x[places], y[places]
    shape = (len(outputs), *outputs.shape[2:])
    drawn = np.sort(random.permutation(int(np.prod(shape)))[:count])
    rows, *spots = np.unravel_index(drawn, shape)
    made = np.moveaxis(outputs, 1, -1)[(rows, *spots)]
    return _unfold(node, kernel, inputs, rows, spots, shape[1:]), made


def split(rows: Array) -> Iterator[Array]:
    """Give rows in parts."""
    for start in range(0, len(rows), CHUNK_ROWS):
        yield rows[start : start + CHUNK_ROWS]


def _unfold(
    node: NodeProto,
    kernel: Sequence[int],
    inputs: Array,
    rows: Array,
    spots: Sequence[Array],
    sides: Sequence[int],
) -> Array:
    """Give what a convolution multiplies at some places, [places, channels * kernel]."""
    ones = [1] * len(kernel)
    steps, gaps = (read_attribute(node, name, ones) for name in ("strides", "dilations"))
    reach = [
        (side - 1) * step + (size - 1) * gap + 1
        for side, step, size, gap in zip(sides, steps, kernel, gaps, strict=True)
    ]
    around = _find_pads(node, inputs.shape[2:], reach)
    padded = np.moveaxis(np.pad(inputs, [(0, 0), (0, 0), *around]), 1, -1)
    parts = []
    for offsets in product(*(range(size) for size in kernel)):
        at = [
            spot * step + offset * gap
            for spot, step, offset, gap in zip(spots, steps, offsets, gaps, strict=True)
        ]
        parts.append(padded[(rows, *at)])
    patches: Array = np.stack(parts, axis=-1)
    return patches.reshape(len(rows), -1)


def _find_pads(
    node: NodeProto, sides: Sequence[int], reach: Sequence[int]
) -> list[tuple[int, int]]:
    """Give the padding before and behind each axis; ``reach`` is how far the kernels go."""
    way = read_attribute(node, "auto_pad", b"NOTSET")
    if way == b"NOTSET":
        pads = read_attribute(node, "pads", [0] * 2 * len(sides))
        return list(zip(pads[: len(sides)], pads[len(sides) :], strict=True))
    missing = [max(0, far - side) for far, side in zip(reach, sides, strict=True)]
    if way == b"SAME_LOWER":
        return [(total - total // 2, total // 2) for total in missing]
    return [(total // 2, total - total // 2) for total in missing]
