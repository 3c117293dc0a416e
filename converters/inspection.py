"""Compare the answers of two model files on rows or pictures, for ``edge-convert parity``."""

from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import InvalidRequestError
from converters.file_requests import FileSource, open_source
from converters.from_file import ForeignModel
from converters.guarded_pictures import answer_pictures_guarded
from converters.image_front import pack_pictures
from converters.parity import Parity, compare_outputs
from converters.picture_files import PictureFiles, PictureList
from converters.picture_source import PictureWishes, open_picture_source
from converters.shown_rows import ShownRows
from converters.source_files import is_package, load_package
from converters.tables import Table
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import ImageInput
from edge_agent.contract.package import MODEL, SCHEMA
from edge_agent.contract.schema import ModelSchema, Task


def compare_files(
    source_path: Path,
    shipped_path: Path,
    table: Table,
    *,
    target: str | None,
    profile: DeviceProfile,
    tolerance: float,
) -> Parity:
    """Compare the answers of two model files on the rows of a table.

    Raises:
        ConversionError: A file cannot be read or run.
    """
    schema = None
    if is_package(shipped_path):
        schema = ModelSchema.decode(load_package(shipped_path)[SCHEMA])
        _refuse_pictures(shipped_path, schema)
    if is_package(source_path):
        _refuse_pictures(source_path, ModelSchema.decode(load_package(source_path)[SCHEMA]))
    source = open_source(
        source_path, table, target=target, name="source", schema=schema, profile=profile
    )
    shipped = open_source(
        shipped_path, table, target=target, name="shipped", schema=source.schema, profile=profile
    )
    rows = table.read_packed(source.schema.features).astype(np.float32)
    return compare_outputs(
        source.schema.task,
        _answer(source, rows),
        _answer(shipped, rows),
        tolerance,
        rows=(shown := ShownRows(source.schema, rows)),
        columns=shown.columns,
        targets=source.schema.targets,
        labels=source.schema.labels,
    )


def compare_on_pictures(
    source_path: Path,
    shipped_path: Path,
    pictures: PictureList,
    *,
    profile: DeviceProfile,
    tolerance: float,
) -> Parity:
    """Compare a model, or a package of pictures, with a package of pictures on real ones.

    A model answers the pixels that the package's own front makes of each picture.

    Raises:
        ConversionError: A file cannot be read or run, or the package takes rows.
    """
    shipped, schema, image = _load_picture_package(shipped_path)
    if is_package(source_path):
        content, own, _ = _load_picture_package(source_path)
        if (own.task, own.classes) != (schema.task, schema.classes):
            raise InvalidRequestError(
                f"{source_path.name} and {shipped_path.name} have other classes"
            )
        expected = answer_pictures_guarded(content, own, pictures.paths, profile)
    else:
        wishes = PictureWishes(
            size=(image.height, image.width),
            is_channels_first=image.is_channels_first,
            colours=image.colours,
            resize=image.resize,
            mean=image.mean,
            deviation=image.deviation,
            scale=image.scale,
            pixels_max=image.pixels_max,
            classes=schema.classes,
        )
        opened = open_picture_source(
            *(source_path, wishes, schema.classes),
            is_value=schema.task is Task.REGRESSION,
            name="source",
            profile=profile,
        )
        files = PictureFiles(pictures.paths, image.pixels_max)
        expected = _answer(opened.source, pack_pictures(files, image, profile)[0])
    got = answer_pictures_guarded(shipped, schema, pictures.paths, profile)
    return compare_outputs(schema.task, expected, got, tolerance)


def _load_picture_package(path: Path) -> tuple[bytes, ModelSchema, ImageInput]:
    if not is_package(path):
        raise InvalidRequestError(f"{path.name} is no package; only packages take pictures")
    members = load_package(path)
    schema = ModelSchema.decode(members[SCHEMA])
    if schema.image is None:
        raise InvalidRequestError(f"{path.name} takes rows, not pictures: give --rows")
    return members[MODEL], schema, schema.image


def _refuse_pictures(path: Path, schema: ModelSchema) -> None:
    if schema.image is not None:
        raise InvalidRequestError(f"{path.name} takes pictures, not rows: give --pictures")


def _answer(source: FileSource, rows: Any) -> Any:
    if isinstance(source.model, ForeignModel):
        return source.model.answer(rows)
    from converters.sources import make_source

    return make_source(source.model, source.schema).answer(rows)
