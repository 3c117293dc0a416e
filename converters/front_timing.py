"""How long the way from a picture to the network's numbers takes, measured alone.

A ladder of pictures is built and timed on packed numbers, which every rung takes alike. What a
device waits for is front and network, so the front's time is added to each: a rung that is faster
by little beside a slow front is not called faster.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.image_front import check_picture, make_front
from converters.request import MeasurementPlan
from converters.runtime import GraphRunner
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import ImageInput

PICTURES_TIMED = 8
RUNS = 15
SECONDS_MAX = 3.0


def add_front(
    plan: MeasurementPlan,
    pictures: Sequence[NDArray[Any]],
    image: ImageInput,
    profile: DeviceProfile,
) -> MeasurementPlan:
    """Give the plan with the time of the front on some of the pictures, evenly picked.

    Args:
        plan: How the network is measured.
        pictures: Real ones, uint8 [height, width, 3] of any sizes.
        image: What the front does to them.
        profile: Runs it with its threads.

    Raises:
        InvalidRequestError: One that is no picture or too large.
    """
    runner = GraphRunner(make_front(image).SerializeToString(), profile)
    places = np.unique(np.linspace(0, len(pictures) - 1, PICTURES_TIMED).astype(np.int64))
    chosen = [check_picture(pictures[int(place)], image)[None] for place in places]
    for picture in chosen:
        runner.run_pictures(picture)
    times: list[float] = []
    began = time.perf_counter()
    for _ in range(RUNS):
        for picture in chosen:
            start = time.perf_counter()
            runner.run_pictures(picture)
            times.append((time.perf_counter() - start) * 1e3)
        if time.perf_counter() - began > SECONDS_MAX:
            break
    p50, p95 = np.percentile(times, [50, 95])
    return replace(plan, front_ms_p50=float(p50), front_ms_p95=float(p95))
