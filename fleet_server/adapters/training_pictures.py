"""Pictures to train on, from folders and tables of PNG and JPEG files; with Pillow.

Each file is read once: hashed, unfolded as a device does it and put through the front of the graph
that will ship, so what is trained on is what a device sees. Unfolding releases the interpreter's
lock, so some pictures are unfolded side by side; how many depends on how large one may be.
"""

import contextlib
import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.errors import ConversionError, InvalidRequestError, MissingLibraryError
from converters.image_front import PicturePacker
from converters.picture_files import decode_picture, list_pictures, read_picture_bytes
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import FIGURES, ImageInput
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.training import (
    ListedPictures,
    PackedPictures,
    RawTable,
    TableReader,
    WordColumn,
)
from fleet_server.training.spec_pictures import FILE_COLUMN

PICTURES_MAX = 100_000
BYTES_MAX = 68_719_476_736
"""Of all files together."""
VALUES_MAX = 134_217_728
"""Pictures times numbers of one, as the model sees them: 512 MiB."""
_UNFOLDED_PIXELS_MAX = 33_554_432
"""Of the pictures that are unfolded side by side; one takes 30 bytes a pixel on its way."""
_WORKERS_MAX = 4
_TOLD_EVERY = 25

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One picture: its row, figures and hashes, or why it cannot be read."""

    row: NDArray[np.float32] | None = None
    figures: NDArray[np.float32] | None = None
    sha256: bytes = b""
    pixels_sha256: bytes = b""
    size_bytes: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePictureReader:
    """``PictureReader`` of files.

    Attributes:
        tables: Reads a table of files and answers.
    """

    tables: TableReader

    def list(self, path: Path, *, numbers: Sequence[str], words: Sequence[str]) -> ListedPictures:
        """List the pictures; see ``PictureReader``."""
        if not path.exists():
            raise NotFoundError(f"no folder or table {path}; data.pictures is relative to the spec")
        found = (
            _list_folder(path, [*words, *numbers][0])
            if path.is_dir()
            else self._list_table(path, numbers, words)
        )
        if len(found.paths) > PICTURES_MAX:
            raise RefusedError(
                f"{path.name} has {len(found.paths):,} pictures, at most {PICTURES_MAX:,}"
            )
        return found

    def pack(
        self,
        listed: ListedPictures,
        image: ImageInput,
        profile: DeviceProfile,
        tell: Callable[[str], None],
    ) -> PackedPictures:
        """Read every picture; see ``PictureReader``."""
        width = image.height * image.width * image.channels
        count = len(listed.paths)
        if count * width > VALUES_MAX:
            raise RefusedError(
                f"{count:,} pictures of {image.height} x {image.width} x {image.channels} are"
                f" {count * width:,} numbers, at most {VALUES_MAX:,}; make input.size smaller, take"
                ' colours = "grey" or fewer pictures'
            )
        rows = np.empty((count, width), np.float32)
        figures = np.empty((count, len(FIGURES)), np.float32)
        places, faults, hashes, size_bytes = list[int](), list[tuple[int, str]](), bytearray(), 0
        pixel_hashes = bytearray()
        with contextlib.closing(_read_all(listed, image, profile)) as found:
            for place, one in enumerate(found):
                if place % _TOLD_EVERY == 0:
                    tell(f"picture {place + 1:,} of {count:,}")
                size_bytes += one.size_bytes
                if size_bytes > BYTES_MAX:
                    raise RefusedError(
                        f"the pictures have more than {BYTES_MAX:,} bytes together; make them"
                        " smaller"
                    )
                if one.row is None:
                    faults.append((place, one.fault))
                    continue
                rows[len(places)], figures[len(places)] = one.row, one.figures
                places.append(place)
                hashes += one.sha256
                pixel_hashes += one.pixels_sha256
        kept = np.array(places, np.int64)
        digests = np.frombuffer(bytes(hashes), np.uint8).reshape(-1, 32)
        return PackedPictures(
            rows=rows[: len(places)],
            figures=figures[: len(places)],
            places=kept,
            sha256=digests,
            pixels_sha256=np.frombuffer(bytes(pixel_hashes), np.uint8).reshape(-1, 32),
            faults=tuple(faults),
            size_bytes=size_bytes,
            load=_Loader(
                paths=listed.paths,
                names=listed.names,
                sha256={place: bytes(one) for place, one in zip(places, digests, strict=True)},
                pixels_max=image.pixels_max,
            ),
        )

    def _list_table(
        self, path: Path, numbers: Sequence[str], words: Sequence[str]
    ) -> ListedPictures:
        known = self.tables.list_columns(path)
        for name in (FILE_COLUMN, *numbers, *words):
            if known.count(name) != 1:
                raise RefusedError(
                    f"{path.name} has {known.count(name) or 'no'} columns {name!r}, needs one; it"
                    f" has {', '.join(map(repr, known[:8]))}"
                )
        table = self.tables.read(path, numbers=numbers, words=[FILE_COLUMN, *words])
        files = table.words[FILE_COLUMN]
        blank = np.flatnonzero(files.codes < 0)
        if len(blank):
            raise RefusedError(
                f"{path.name}: column {FILE_COLUMN!r} is empty in {len(blank):,} of"
                f" {table.rows:,} rows, first in row {blank[0] + 1}"
            )
        names = tuple(files.words[code].strip() for code in files.codes)
        return ListedPictures(
            names=names,
            paths=tuple(path.parent / name for name in names),
            answers=table,
            skipped=0,
            is_folder=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loader:
    """Reads a picture again, if it still is what was trained on."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    sha256: dict[int, bytes]
    pixels_max: int

    def __call__(self, place: int) -> Picture:
        name = self.names[place]
        try:
            content = read_picture_bytes(self.paths[place])
            if hashlib.sha256(content).digest() != self.sha256[place]:
                raise RefusedError(f"{name} was changed while the model was trained; train again")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the file, which was read before
                return decode_picture(content, name, self.pixels_max)
        except ConversionError as error:
            raise RefusedError(str(error)) from error


def _list_folder(path: Path, column: str) -> ListedPictures:
    try:
        found = list_pictures(path)
    except InvalidRequestError as error:
        raise RefusedError(str(error)) from error
    except OSError as error:
        raise RefusedError(f"cannot read {path}: {error.strerror}") from error
    classes = tuple(dict.fromkeys(found.labels))
    index = {name: place for place, name in enumerate(classes)}
    codes = np.array([index[label] for label in found.labels], np.int64)
    return ListedPictures(
        names=tuple(one.relative_to(path).as_posix() for one in found.paths),
        paths=found.paths,
        answers=RawTable(
            rows=len(codes), numbers={}, words={column: WordColumn(codes=codes, words=classes)}
        ),
        skipped=found.skipped,
        is_folder=True,
    )


def _read_all(
    listed: ListedPictures, image: ImageInput, profile: DeviceProfile
) -> Generator[_Read, None, None]:
    """Read them side by side, and give them in their order."""
    packer = PicturePacker(image, profile, threads=1)
    workers = min(
        _WORKERS_MAX, os.cpu_count() or 1, max(1, _UNFOLDED_PIXELS_MAX // image.pixels_max)
    )
    waiting: deque[Future[_Read]] = deque()
    # Filters of warnings are one for all threads: they are set once around all of them.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")
        try:
            for path, name in zip(listed.paths, listed.names, strict=True):
                waiting.append(pool.submit(_read_one, path, name, packer, image.pixels_max))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read_one(path: Path, name: str, packer: PicturePacker, pixels_max: int) -> _Read:
    size_bytes = 0
    try:
        content = read_picture_bytes(path)
        size_bytes = len(content)
        picture = decode_picture(content, name, pixels_max)
        row, figures = packer.pack(picture)
    except MissingLibraryError as error:
        raise RefusedError(str(error)) from error
    except ConversionError as error:
        return _Read(size_bytes=size_bytes, fault=str(error))
    seen = hashlib.sha256(repr(picture.shape).encode())
    seen.update(picture.tobytes())
    return _Read(
        row=row,
        figures=figures,
        sha256=hashlib.sha256(content).digest(),
        pixels_sha256=seen.digest(),
        size_bytes=size_bytes,
    )
