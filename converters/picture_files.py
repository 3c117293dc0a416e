"""Find and read the pictures of a build: PNG and JPEG files, named by class or in a table.

A folder has one sub-folder a class; a table has the columns ``file`` and ``label``. Files are
unfolded one at a time and as devices do it: turned as the camera noted, 16 bits cut to 8, RGB.
"""

import io
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidRequestError, MissingLibraryError, say_reason
from converters.tables import read_table

Picture = NDArray[np.uint8]
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
FILES_MAX = 200_000
FILE_BYTES_MAX = 67_108_864
FILE_COLUMN, LABEL_COLUMN = "file", "label"
_FORMATS = ("PNG", "JPEG")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureList:
    """Files and what each shows.

    Attributes:
        name: Of the folder or table, for errors.
        paths: In a fixed order.
        labels: As the folder or cell is named, one a path; empty where nobody said.
        is_table: Whether they were listed in a table.
        skipped: Files beside them that are no pictures by their name.
    """

    name: str
    paths: tuple[Path, ...]
    labels: tuple[str, ...] = ()
    is_table: bool = False
    skipped: int = 0

    def take(self, places: Sequence[int]) -> "PictureList":
        """Give some of them, in the order of the places."""
        return PictureList(
            name=self.name,
            paths=tuple(self.paths[place] for place in places),
            labels=tuple(self.labels[place] for place in places) if self.labels else (),
            is_table=self.is_table,
        )


class PictureFiles(Sequence[Picture]):
    """Pictures that are read when they are looked at: never all in memory.

    Args:
        paths: The files.
        pixels_max: Most height times width of one.
    """

    def __init__(self, paths: Sequence[Path], pixels_max: int) -> None:
        self.paths, self.pixels_max = tuple(paths), pixels_max

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> Picture: ...

    @overload
    def __getitem__(self, place: slice) -> "PictureFiles": ...

    def __getitem__(self, place: int | slice) -> "Picture | PictureFiles":
        """Read one; raises as ``read_picture``."""
        if isinstance(place, slice):
            return PictureFiles(self.paths[place], self.pixels_max)
        return read_picture(self.paths[place], self.pixels_max)


def list_pictures(path: Path, *, needs_labels: bool = True) -> PictureList:
    """List the pictures of a folder or of a ``.csv`` or ``.parquet`` table.

    Args:
        path: The folder or table; files of a table are looked for beside it.
        needs_labels: Whether pictures without a class are refused.

    Raises:
        InvalidRequestError: None found, too many, or one without a class.
    """
    found = _list_folder(path, needs_labels=needs_labels) if path.is_dir() else _list_table(path)
    if not found.paths:
        raise InvalidRequestError(f"{path} has no {', '.join(sorted(SUFFIXES))} files")
    return found


def read_picture(path: Path, pixels_max: int) -> Picture:
    """Read a PNG or JPEG file as uint8 RGB [height, width, 3].

    Raises:
        InvalidRequestError: No such picture, damaged or too large; names the path.
        MissingLibraryError: Pillow is not installed.
    """
    content = read_picture_bytes(path)
    with warnings.catch_warnings():
        # It warns of many pixels when it opens a file; they are counted here.
        warnings.simplefilter("ignore")
        return decode_picture(content, str(path), pixels_max)


def read_picture_bytes(path: Path) -> bytes:
    """Read a file whole; raises InvalidRequestError when it is none or too large."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe never comes, a device never ends
            raise InvalidRequestError(f"{path} is no regular file")
        if found.st_size > FILE_BYTES_MAX:
            raise InvalidRequestError(
                f"{path} has {found.st_size} bytes, the limit is {FILE_BYTES_MAX}"
            )
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror}") from error


def decode_picture(content: bytes, what: str, pixels_max: int) -> Picture:
    """Unfold a PNG or JPEG; may warn, and may be asked by several threads.

    Args:
        content: The file's bytes.
        what: Names it in errors.
        pixels_max: Larger pictures are refused before they are unfolded.

    Raises:
        InvalidRequestError: No picture, damaged or too large.
        MissingLibraryError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingLibraryError("pillow", f"{what}: reading pictures") from error
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_pixels(image, what, pixels_max)
            return _unfold(ImageOps.exif_transpose(image))
    except InvalidRequestError:
        raise
    except Exception as error:  # decoders of damaged files raise a dozen kinds
        raise InvalidRequestError(
            f"{what} is no PNG or JPEG picture that can be read: {say_reason(error)}"
        ) from error


def _check_pixels(image: Any, what: str, pixels_max: int) -> None:
    if image.width * image.height > pixels_max:
        raise InvalidRequestError(
            f"{what} has {image.width} x {image.height} pixels, the limit is {pixels_max}; make it"
            " smaller or raise it (--pixels-max, or pixels_max of a spec)"
        )


def _unfold(image: Any) -> Picture:
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Pillow would cut its brightness off at 255.
        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"), np.uint8)


def _list_folder(folder: Path, *, needs_labels: bool) -> PictureList:
    paths: list[Path] = []
    labels: list[str] = []
    skipped = 0
    inside = _list_visible(folder)
    loose = [path for path in inside if path.is_file() and path.suffix.lower() in SUFFIXES]
    if needs_labels and loose:
        raise InvalidRequestError(
            f"{loose[0]} lies in no class: {folder} needs one sub-folder a class, or give a CSV of"
            f" {FILE_COLUMN},{LABEL_COLUMN}"
        )
    paths += loose
    for part in (path for path in inside if path.is_dir()):
        before = len(paths)
        for path in _list_visible(part):
            if path.is_dir():
                raise InvalidRequestError(f"{path} is a folder inside a class; move its files up")
            if path.suffix.lower() not in SUFFIXES:
                skipped += 1
                continue
            paths.append(path)
            labels.append(part.name)
        if len(paths) == before:
            raise InvalidRequestError(f"{part} has no {', '.join(sorted(SUFFIXES))} files")
        _check_count(folder.name, len(paths))
    return PictureList(
        name=folder.name,
        paths=tuple(paths),
        labels=() if loose else tuple(labels),
        skipped=skipped,
    )


def _list_visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _list_table(path: Path) -> PictureList:
    table = read_table(path)
    for name in (FILE_COLUMN, LABEL_COLUMN):
        if name not in table.columns:
            raise InvalidRequestError(
                f"{path.name} has no column {name!r}; pictures are listed as"
                f" {FILE_COLUMN},{LABEL_COLUMN}"
            )
    _check_count(path.name, table.rows)
    paths = []
    for line, cell in enumerate(table.columns[FILE_COLUMN], table.first_line):
        one = path.parent / str(cell).strip()
        if not one.is_file():
            raise InvalidRequestError(f"{path.name} line {line}: there is no file {one}")
        paths.append(one)
    return PictureList(
        name=path.name,
        paths=tuple(paths),
        labels=tuple(str(cell).strip() for cell in table.columns[LABEL_COLUMN]),
        is_table=True,
    )


def _check_count(name: str, count: int) -> None:
    if count > FILES_MAX:
        raise InvalidRequestError(f"{name} has more than {FILES_MAX} pictures")
