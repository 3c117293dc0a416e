"""Write a file whole or not at all.

The content goes to a hidden file of its own beside the target, to the disk, and takes the name at
last: whoever reads the name reads all of it, whenever the writer was killed. A killed writer may
leave its hidden file, which nothing reads; a full disk leaves none.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from converters.errors import ConversionError


def check_place(path: Path, others: Iterable[Path | None] = ()) -> None:
    """Tell before the work whether a file can be written: folders missing above it are made later.

    Args:
        path: To write.
        others: What the same command reads, or writes as well.

    Raises:
        ConversionError: It is no regular file, or one of the others, or lies where nothing can be
            written.
    """
    above = next(one for one in path.absolute().parents if one.exists())
    if path.is_dir():
        reason = "it is a folder"
    elif path.exists() and not path.is_file():
        reason = "it is a pipe or a device"
    elif not above.is_dir():
        reason = f"{above} is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        reason = f"no right to write to {above}"
    elif any(other is not None and _is_same(path, other) for other in others):
        reason = "this command reads or writes that file as something else"
    else:
        return
    raise ConversionError(f"{path} cannot be written: {reason}; name another place")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file.

    Raises:
        ConversionError: The disk is full or refuses; what had the name before still has it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise ConversionError(
            f"{path} was not written: {error.strerror or error}; {len(content):,} bytes are needed"
            " there, free them or name another place"
        ) from error


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (
        one.exists() and other.exists() and one.samefile(other)
    )


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
