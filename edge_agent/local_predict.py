"""Lets the running agent answer the rows of a file; this process loads no model.

CSV, Parquet, a PNG or JPEG picture, or a folder of pictures. What the model takes is asked of the
agent. One request carries ROWS_PER_REQUEST rows at most, so a long file does not hold up other
applications. Invariant: rows are answered in the order of the file, pictures in that of their
names.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.image_files import SUFFIXES, load_pillow, read_picture
from edge_agent.adapters.row_files import PARQUET_SUFFIXES, read_csv, read_parquet
from edge_agent.client import Client, connect
from edge_agent.client_wire import Answer
from edge_agent.contract.errors import ContractError
from edge_agent.contract.image import ImageInput
from edge_agent.contract.schema import Feature
from edge_agent.core.pixel_layout import PixelLayout, find_layout
from edge_agent.errors import InputError, ServingError
from edge_agent.statistics.packed_texts import TextPlaces, unpack_texts

ROWS_PER_REQUEST = 256
REQUEST_BYTES_MAX = 4_194_304
PICTURES_MAX = 100_000
_ROW = re.compile(r"row (\d+): ")
PixelRange = tuple[float, float]


def predict_file(
    directory: Path, slot: str | None, path: str, pixel_range: PixelRange | None = None
) -> Iterator[dict[str, Any]]:
    """Yield one answer a row.

    Args:
        directory: The agent's.
        slot: Slot or model; None for the only one.
        path: File, or a folder of pictures.
        pixel_range: Numbers for black and full brightness; None takes the schema's.

    Yields:
        ``row`` from 1, ``file`` for a picture, each output by name (several targets or labels
        each by theirs), ``class`` and ``prediction_id``; of a picture of a folder that cannot be
        read ``error`` instead.

    Raises:
        ServingError: No agent runs, or it refuses a row.
        InputError: The file cannot be read, or does not fit the model.
    """
    source = Path(path)
    with connect(directory) as client:
        name, features = find_fields(client, slot)
        if source.is_dir() or source.suffix.lower() in SUFFIXES:
            yield from _predict_pictures(client, name, source, find_layout(features, pixel_range))
            return
        if isinstance(features, ImageInput):
            raise InputError(f"{name} takes pictures ({', '.join(sorted(SUFFIXES))}), not {path}")
        width = sum(feature.width for feature in features)
        places = TextPlaces(features)
        read = read_parquet if source.suffix.lower() in PARQUET_SUFFIXES else read_csv
        told = client.describe(name)
        first, targets = 1, tuple(told.get("targets", ()))
        labels = {one["name"]: tuple(one["classes"]) for one in told.get("labels", ())}
        for rows in read(source, features, _batch_rows(width)):
            try:
                given = (
                    _ask_texts(client, name, rows, places)
                    if places.texts
                    else client.predict(rows, name)
                )
            except InputError as error:
                raise _told_by_file(error, path, first) from error
            yield from _list_answers(replace(given, targets=targets, labels=labels), first)
            first += len(rows)


def _told_by_file(error: InputError, path: str, first: int) -> InputError:
    """Give the row its number in the file: the agent counts those of one request, from 0."""
    match = _ROW.match(str(error))
    if match is None:
        return error
    return InputError(f"{path} row {first + int(match[1])}: {str(error)[match.end() :]}")


def _ask_texts(client: Client, slot: str, rows: NDArray[np.float64], places: TextPlaces) -> Answer:
    """Ask with texts as texts: how they are packed is the agent's own business."""
    columns = [unpack_texts(rows[:, cells]) for _, cells in places.texts]
    texts = list(zip(*columns, strict=True))
    features = rows[:, places.numbers] if len(places.numbers) else None
    return client.predict_texts(texts, features, slot)


def find_fields(client: Client, slot: str | None) -> tuple[str, list[Feature] | ImageInput]:
    """Ask for the slot that answers and the fields or picture it takes; raises ServingError."""
    told = client.describe(slot)
    try:
        if told.get("image"):
            return str(told["slot"]), ImageInput.from_json(told["image"])
        return str(told["slot"]), [
            Feature(
                name=field["name"],
                dtype=field["dtype"],
                shape=tuple(field["shape"]),
                low=field["low"],
                high=field["high"],
                unit=field.get("unit", ""),
                categories=tuple(field.get("categories", ())),
                is_nullable=field.get("missing", False),
                is_open=field.get("unknown", False),
                chars_max=field.get("chars_max", 0),
            )
            for field in told["fields"]
        ]
    except (KeyError, TypeError, ContractError) as error:
        raise ServingError(f"the agent does not tell its fields; update it: {error!r}") from error


def predict_picture(
    client: Client, slot: str, path: Path, layout: PixelLayout, number: int
) -> dict[str, Any]:
    """Answer one picture; what cannot be read of it becomes an answer with ``error``."""
    try:
        row = read_picture(path, layout)
    except InputError as error:
        return {"row": number, "file": str(path), "error": str(error)}
    return {"file": str(path)} | predict_row(client, slot, row, number)


def predict_row(client: Client, slot: str, row: NDArray[Any], number: int) -> dict[str, Any]:
    """Answer one row of numbers, or one picture, with its number."""
    rows = row[None] if row.ndim > 1 else row.reshape(1, -1)
    return next(_list_answers(client.predict(rows, slot), number))


def _predict_pictures(
    client: Client, slot: str, source: Path, layout: PixelLayout
) -> Iterator[dict[str, Any]]:
    load_pillow()
    if not source.is_dir():
        row = read_picture(source, layout)
        yield {"file": str(source)} | predict_row(client, slot, row, 1)
        return
    if layout.pixels_max:  # of any size, so one by one
        for number, path in enumerate(_list_pictures(source), 1):
            yield predict_picture(client, slot, path, layout, number)
        return
    batch_rows = _batch_rows(layout.height * layout.width * layout.channels)
    numbered = iter(enumerate(_list_pictures(source), 1))
    while batch := list(islice(numbered, batch_rows)):
        yield from _predict_batch(client, slot, batch, layout)


def _predict_batch(
    client: Client, slot: str, batch: list[tuple[int, Path]], layout: PixelLayout
) -> Iterator[dict[str, Any]]:
    read = []
    faults: dict[int, str] = {}
    for number, path in batch:
        try:
            read.append(read_picture(path, layout))
        except InputError as error:
            faults[number] = str(error)
    answers = _list_answers(client.predict(np.stack(read), slot), 1) if read else iter(())
    for number, path in batch:
        known = {"error": faults[number]} if number in faults else next(answers)
        yield known | {"row": number, "file": str(path)}


def _list_pictures(folder: Path) -> list[Path]:
    try:
        found = list(islice(_pictures(folder.iterdir()), PICTURES_MAX + 1))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    if len(found) > PICTURES_MAX:
        raise InputError(f"{folder} holds more than {PICTURES_MAX} pictures; split it")
    return sorted(found)


def _pictures(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _batch_rows(width: int) -> int:
    return max(1, min(ROWS_PER_REQUEST, REQUEST_BYTES_MAX // (8 * width)))


def _list_answers(answer: Answer, first: int) -> Iterator[dict[str, Any]]:
    for n, prediction_id in enumerate(answer.prediction_ids):
        yield {"row": first + n} | answer.row(n) | {"prediction_id": prediction_id}
