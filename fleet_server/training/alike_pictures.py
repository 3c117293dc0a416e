"""Count held-out pictures that look like one that was trained on: a burst, a scene nobody left.

Such pictures make a model look better than it is. Two are alike when their small grey views agree
but for brightness and contrast. A fixed camera whose picture hardly changes gives many; whether
that matters, only its owner knows: it is told, nothing is refused.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.image import ImageInput
from fleet_server.training.dataset import Side

CORRELATION_MIN = 0.995
"""Of 900 different handwritten digits none comes so near another; frames of a burst do."""
VIEW_SIDE = 16
LOOKED_AT_MAX = 2_000
"""Held-out pictures that are looked at, evenly picked; each is compared with all trained on."""
_PART = 8_192

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """How many are alike, and the two that are most.

    Attributes:
        looked_at: Held-out pictures compared.
        alike: Of them, like one that was trained on.
        pair: Names of the nearest two, held-out one first; empty when there is none.
    """

    looked_at: int
    alike: int
    pair: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form that the version keeps."""
        return {"looked_at": self.looked_at, "alike": self.alike, "pair": list(self.pair)}

    @property
    def note(self) -> str:
        """Say it in a sentence; empty when there is nothing to say."""
        if not self.alike:
            return ""
        return (
            f"{self.alike:,} of {self.looked_at:,} held-out pictures look like one that was trained"
            f" on ({self.pair[0]} like {self.pair[1]}): if they are of one burst or scene, keep"
            " them together with data.group, or the figures are too good"
        )


def find_alike(train: Side, test: Side, image: ImageInput) -> Alike:
    """Compare the two sides; both are of pictures."""
    if train.pictures is None or test.pictures is None:
        raise ValueError("the sides are of a table")
    picked = np.unique(np.linspace(0, len(test) - 1, LOOKED_AT_MAX).astype(np.int64))
    held = _view(test.features[picked], image)
    nearest = np.full(len(picked), -1.0, np.float32)
    twin = np.zeros(len(picked), np.int64)
    for start in range(0, len(train), _PART):
        likeness = held @ _view(train.features[start : start + _PART], image).T
        best = likeness.argmax(axis=1)
        value = likeness[np.arange(len(picked)), best]
        twin = np.where(value > nearest, best + start, twin)
        nearest = np.maximum(nearest, value)
    alike = int(np.sum(nearest >= CORRELATION_MIN))
    worst = int(nearest.argmax())
    pair = (test.pictures.names[picked[worst]], train.pictures.names[twin[worst]])
    return Alike(looked_at=len(picked), alike=alike, pair=pair if alike else ())


def _view(rows: Floats, image: ImageInput) -> Floats:
    """Give small grey views [rows, pixels] of mean 0 and length 1; a flat one is 0."""
    grey = rows.reshape(-1, image.channels, image.height, image.width).mean(axis=1)
    for axis, side in ((1, image.height), (2, image.width)):
        cells = min(side, VIEW_SIDE)
        edges = (np.arange(cells) * side) // cells
        sizes = np.diff(np.append(edges, side)).astype(np.float32)
        grey = np.add.reduceat(grey, edges, axis=axis)
        grey /= sizes[:, None] if axis == 1 else sizes
    flat = grey.reshape(len(grey), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6))
