"""Turn pictures into a build: what ``edge-convert`` does with ``--pictures``.

The model is built and judged on packed pixels, which the front of the graph to come makes of the
pictures; then the front goes into the graph. Without other held-out pictures every figure comes
from 30 % of them, drawn with a fixed seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.build import build_package
from converters.errors import InvalidRequestError
from converters.file_requests import split_rows
from converters.front_timing import add_front
from converters.guarded_pictures import take_pictures_guarded
from converters.image_front import check_picture, pack_pictures
from converters.image_package import Pictures, measure_golden, pick_golden
from converters.picture_files import PictureFiles, PictureList, list_pictures
from converters.picture_source import PictureSource, PictureWishes, open_picture_source
from converters.request import BuildRequest, BuiltPackage, MeasurementPlan, ProfileLimits
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import IMAGE_CHANNELS, ImageInput
from edge_agent.contract.package import GOLDEN_ROWS_MAX
from edge_agent.contract.schema import Task

Array = NDArray[Any]
PACKED_BYTES_MAX = 536_870_912
"""Of the packed pixels of all pictures: more of them are drawn from, and that is said."""
_FLOAT_BYTES = 4
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureJob:
    """What is built of pictures.

    Attributes:
        request: Of packed pixels; its package limit has room for golden rows of pixels.
        image: What goes before it.
        held: Held-out files, for golden pictures and the reference.
        profile: With the package limit that holds.
        notes: What was left out or done to the model, one sentence each.
    """

    request: BuildRequest
    image: ImageInput
    held: tuple[Path, ...]
    profile: DeviceProfile
    notes: tuple[str, ...]


def read_picture_job(
    path: Path,
    pictures: Path,
    holdout: Path | None,
    wishes: PictureWishes,
    *,
    name: str,
    profile: DeviceProfile,
    find_metric: Callable[[Task], Any],
    limits: ProfileLimits | None = None,
    **settings: Any,
) -> PictureJob:
    """Read a network and pictures.

    Args:
        path: The model file.
        pictures: Folder or table of pictures and their classes.
        holdout: Held-out ones; None draws 30 % of the others.
        wishes: What the user says of them.
        name: Model name.
        profile: What it is built for.
        find_metric: Gives the metric of a task.
        limits: What must hold.
        settings: Further attributes of the request.

    Raises:
        InvalidRequestError: Network, pictures and wishes do not fit together.
    """
    context: Mapping[str, Any] = settings.pop("evidence_context", {})
    listed = list_pictures(pictures)
    opened = open_picture_source(
        *(path, wishes, listed.labels),
        is_value=listed.is_table,
        name=name,
        profile=profile,
    )
    notes = list(opened.notes)
    if listed.skipped:
        notes.append(f"{listed.skipped} files of {listed.name} are no .png, .jpg or .jpeg")
    width = opened.source.schema.width
    if holdout is None:
        listed = _draw(listed, PACKED_BYTES_MAX, width, notes)
        kept, held = (
            listed.take(places.tolist()) for places in split_rows(len(listed.paths), listed.name)
        )
    else:
        kept = _draw(listed, PACKED_BYTES_MAX * 2 // 3, width, notes)
        held = _draw(list_pictures(holdout), PACKED_BYTES_MAX // 3, width, notes)
    targets = _read_targets(opened, held)
    _read_targets(opened, kept)
    rows = [
        pack_pictures(PictureFiles(part.paths, wishes.pixels_max), opened.image, profile)[0]
        for part in (kept, held)
    ]
    pictures_held = PictureFiles(held.paths, wishes.pixels_max)
    plan = settings.pop("plan", MeasurementPlan())
    asked = limits or ProfileLimits()
    package_bytes_max = min(
        profile.package_bytes_max, asked.package_bytes_max or profile.package_bytes_max
    )
    room = find_room(opened.image, pictures_held, width)
    inner = replace(profile, package_bytes_max=max(1, package_bytes_max + room))
    request = BuildRequest(
        estimator=opened.source.model,
        schema=opened.source.schema,
        profile=inner,
        calibration=rows[0],
        holdout=rows[1],
        holdout_targets=targets,
        limits=replace(asked, package_bytes_max=None),
        metric=find_metric(opened.source.schema.task),
        evidence_context={**context, "picture_notes": notes},
        plan=add_front(plan, pictures_held, opened.image, profile),
        **settings,
    )
    return PictureJob(
        request=request,
        image=opened.image,
        held=held.paths,
        profile=replace(profile, package_bytes_max=package_bytes_max),
        notes=tuple(notes),
    )


def build_picture_package(job: PictureJob) -> BuiltPackage:
    """Build on packed pixels, then let it take pictures.

    Raises:
        ConversionError: As ``build_package`` and ``take_pictures``.
    """
    built = build_package(job.request)
    return take_pictures_guarded(built, job.image, job.held, job.profile)


def _draw(listed: PictureList, bytes_max: int, width: int, notes: list[str]) -> PictureList:
    """Draw as many as have room in memory, with a fixed seed."""
    count, most = len(listed.paths), bytes_max // (_FLOAT_BYTES * width)
    if count <= most:
        return listed
    if most < 2:
        raise InvalidRequestError(
            f"a picture becomes {width} numbers; {bytes_max} bytes have room for {most}"
        )
    notes.append(
        f"{most} of the {count} pictures of {listed.name} are used, drawn with a fixed seed: packed"
        f" for the network they may take {bytes_max} bytes"
    )
    places = np.random.default_rng(_SEED).permutation(count)[:most]
    return listed.take(np.sort(places).tolist())


def _read_targets(opened: PictureSource, listed: PictureList) -> Array:
    """Give the true answers as the source says them."""
    schema, name = opened.source.schema, listed.name
    if schema.task is Task.REGRESSION:
        return np.array([_read_number(label, name) for label in listed.labels])
    known = dict(zip(schema.classes, opened.source.labels, strict=True))
    strange = sorted(set(listed.labels) - set(known))
    if strange:
        raise InvalidRequestError(
            f"{name} has the class {strange[0][:40]!r}, which is none of the model's:"
            f" {', '.join(list(known)[:10])}"
        )
    return np.array([known[label] for label in listed.labels])


def _read_number(label: str, name: str) -> float:
    try:
        return float(label)
    except ValueError as error:
        raise InvalidRequestError(
            f"{name}: the model answers a number, and the label {label[:40]!r} is none"
        ) from error


def find_room(image: ImageInput, pictures: Pictures, width: int) -> int:
    """Tell by how many bytes golden rows of pixels are more than golden pictures.

    Args:
        image: What the graph does to a picture.
        pictures: Held-out ones.
        width: Numbers of a row of pixels.
    """
    golden = [check_picture(pictures[place], image) for place in pick_golden(len(pictures))]
    height, breadth = measure_golden(golden)
    taken = len(golden) * height * breadth * IMAGE_CHANNELS
    return min(GOLDEN_ROWS_MAX, len(pictures)) * width * _FLOAT_BYTES - taken
