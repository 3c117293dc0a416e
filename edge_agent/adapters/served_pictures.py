"""One package of pictures answering in one slot: uint8 RGB of any size in, answers out.

Telemetry gets the four figures the graph answers of each picture, never its pixels. Left out:
batches over requests (sizes differ) and comparison with a candidate in shadow, which sees rows.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.served_model import Prediction, ServedModel
from edge_agent.contract.image import FIGURES_OUTPUT, IMAGE_CHANNELS, IMAGE_INPUT, ImageInput
from edge_agent.errors import InferenceError, InputError, words_of

PICTURES_PER_REQUEST_MAX = 64


class ServedPictures(ServedModel):
    """A ``ServedModel`` whose tensor is uint8 [pictures, height, width, 3]."""

    def predict(self, features: NDArray[Any]) -> Prediction:
        """Answer pictures of one size.

        Raises:
            InputError: The tensor is not of that type or shape, or too large.
            InferenceError: The runtime failed.
        """
        self.check_ranges(features)
        names = [*self.output_names, FIGURES_OUTPUT]
        began = time.perf_counter()
        try:
            *values, figures = self._session_run(names, {IMAGE_INPUT: features}, None)
        except Exception as error:
            self.recorder.record_error((time.perf_counter() - began) * 1e3)
            raise InferenceError(
                f"{self.target} failed on {len(features)} pictures: {words_of(error)}"
            ) from error
        self.latency_ms_last = latency_ms = (time.perf_counter() - began) * 1e3
        number = next(self._numbers)
        self.recorder.record(figures, values, latency_ms, number)
        return Prediction(values, self, number)

    def predict_many(self, parts: Sequence[NDArray[Any]]) -> list[Prediction]:
        """Answer several requests, one after the other."""
        return [self.predict(part) for part in parts]

    def check_ranges(self, features: NDArray[Any]) -> None:
        """Refuse what is no tensor of pictures; raises InputError."""
        image = self.schema.image
        assert image is not None  # noqa: S101 - a package without one is a ServedModel
        fault = find_picture_fault(features, image)
        if fault:
            self.recorder.record_rejected(len(features) if features.ndim else 0)
            raise InputError(fault)


def find_picture_fault(pictures: NDArray[Any], image: ImageInput) -> str:
    """Say why an array is no tensor of pictures; "" when it is one."""
    shape = pictures.shape
    if pictures.dtype != np.uint8 or len(shape) != 4 or shape[3] != IMAGE_CHANNELS:
        return (
            f"{IMAGE_INPUT} must be UINT8 [pictures, height, width, {IMAGE_CHANNELS}], got"
            f" {pictures.dtype} {list(shape)}"
        )
    if not 1 <= shape[0] <= PICTURES_PER_REQUEST_MAX:
        return f"{shape[0]} pictures, a request takes 1 to {PICTURES_PER_REQUEST_MAX}"
    if not 1 <= shape[1] * shape[2] <= image.pixels_max:
        return f"a picture has {shape[1]} x {shape[2]} pixels, the limit is {image.pixels_max}"
    return ""
