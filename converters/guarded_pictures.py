"""Run graphs that take pictures in a child process, as ``guarded.py`` does those of rows.

The pictures travel as paths: the child unfolds them one at a time, within its limits.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.guarded import CHILD, GuardLimits, read_package, run_child
from converters.guarded_files import ANSWERS, GRAPH, JOB, read_answers, write_built
from converters.image_package import give_image, take_pictures
from converters.picture_files import PictureFiles
from converters.request import BuiltPackage
from converters.runtime import GraphRunner
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import ImageInput
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]
PICTURE_CHILD = (*CHILD[:-1], "converters.picture_child")
FRONT, ANSWER = "front", "answer"


def take_pictures_guarded(
    built: BuiltPackage,
    image: ImageInput,
    paths: Sequence[Path],
    profile: DeviceProfile,
    limits: GuardLimits | None = None,
) -> BuiltPackage:
    """Give the package that answers pictures; see ``take_pictures``.

    Raises:
        ConversionError: As ``take_pictures``; also when the child crashes, hangs or asks for too
            much memory.
    """
    guard = limits or GuardLimits()
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
        home = Path(name)
        write_built(home, built)
        _write_job(home, FRONT, image, paths, profile, guard, built.schema)
        run_child(home, guard, child=PICTURE_CHILD)
        return read_package(home, give_image(built.schema, image))


def answer_pictures_guarded(
    content: bytes,
    schema: ModelSchema,
    paths: Sequence[Path],
    profile: DeviceProfile,
    limits: GuardLimits | None = None,
) -> dict[str, Array]:
    """Have the graph of a package answer pictures, outputs by name.

    Raises:
        ConversionError: The graph is refused, or crashes, hangs or asks for too much memory.
    """
    if schema.image is None:
        raise InvalidRequestError(f"{schema.model} takes rows, not pictures")
    guard = limits or GuardLimits()
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
        home = Path(name)
        (home / GRAPH).write_bytes(content)
        _write_job(home, ANSWER, schema.image, paths, profile, guard, schema)
        run_child(home, guard, child=PICTURE_CHILD)
        return read_answers(home / ANSWERS, schema, len(paths))


def work(home: Path, job: dict[str, Any]) -> None:
    """Do a job in the child."""
    profile = DeviceProfile.from_table(job["profile"], source=JOB)
    image = ImageInput.from_json(job["image"])
    pictures = PictureFiles([Path(path) for path in job["paths"]], image.pixels_max)
    if job["task"] == FRONT:
        built = read_package(home, ModelSchema.decode(job["schema"].encode()))
        write_built(home, take_pictures(built, image, pictures, profile))
        return
    runner = GraphRunner((home / GRAPH).read_bytes(), profile)
    found = [runner.run_pictures(picture[None]) for picture in pictures]
    answers = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    with (home / ANSWERS).open("wb") as file:
        np.savez(file, allow_pickle=False, **answers)


def _write_job(
    home: Path,
    task: str,
    image: ImageInput,
    paths: Sequence[Path],
    profile: DeviceProfile,
    guard: GuardLimits,
    schema: ModelSchema,
) -> None:
    job = {
        "task": task,
        "image": image.to_json(),
        "paths": [str(path.absolute()) for path in paths],
        "profile": profile.to_table(),
        "schema": schema.encode().decode(),
        # The graph was seen to answer rows already: one alarm for all of it.
        "guard": asdict(replace(guard, first_answer_s=guard.total_s)),
    }
    (home / JOB).write_text(json.dumps(job))
