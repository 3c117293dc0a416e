"""Pictures of a training that are read again when they are looked at: never all in memory."""

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
KEPT_BYTES_MAX = 268_435_456
"""Of unfolded pictures that a set keeps: each profile looks at the held-out ones several times."""


class PictureSet(Sequence[Picture]):
    """Named pictures in the order of the rows made of them.

    Args:
        names: Of each, for people.
        load: Gives the picture of a place among ``places``, uint8 RGB [height, width, 3].
        places: int64, what ``load`` is asked for.
        groups: Index of each picture's group; pictures of one group are never parted.
        figures: float32 [pictures, 4], what telemetry watches of each.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[int], Picture],
        places: NDArray[np.int64],
        groups: NDArray[np.int64],
        figures: NDArray[np.float32],
    ) -> None:
        self.names, self.groups, self.figures = tuple(names), groups, figures
        self._load, self._places = load, places
        self._kept: dict[int, Picture] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Picture: ...

    @overload
    def __getitem__(self, place: slice) -> "PictureSet": ...

    def __getitem__(self, place: int | slice) -> "Picture | PictureSet":
        """Read one; raises what the loader raises."""
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        place = range(len(self))[place]
        if place in self._kept:
            return self._kept[place]
        picture = self._load(int(self._places[place]))
        if self._kept_bytes + picture.nbytes <= KEPT_BYTES_MAX:
            self._kept[place] = picture
            self._kept_bytes += picture.nbytes
        return picture

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "PictureSet":
        """Give some of them, by a mask or by places."""
        names = np.array(self.names, object)[chosen].tolist()
        return PictureSet(
            names, self._load, self._places[chosen], self.groups[chosen], self.figures[chosen]
        )
