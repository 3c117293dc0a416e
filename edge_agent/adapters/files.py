"""Every file effect of the agent that must survive a power cut goes through here.

Power-cut tests replace nothing but this module's system calls. A name that exists is a whole
file: bytes are written beside it, synced, renamed over it, and the directory is synced.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.codes import Code
from edge_agent.errors import StorageError

TEMPORARY_SUFFIX = ".tmp"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def told_as_storage_error(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file and what was being done."""
    try:
        yield
    except OSError as error:
        code = Code.DISK_FULL if error.errno in _NO_ROOM else Code.DISK_ERROR
        raise StorageError(code, f"{doing} {path}: {error.strerror or error}") from error


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """Make a directory and its parents; raises StorageError."""
    if path.is_dir():
        return
    with told_as_storage_error(path, "making"):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        sync_directory(path.parent)


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file atomically and durably; raises StorageError, the former file then stays."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with told_as_storage_error(path, "writing"):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        move_durable(temporary, path)


def move_durable(source: Path, target: Path) -> None:
    """Rename a synced file within one file system and sync the directory it comes to."""
    with told_as_storage_error(target, "renaming to"):
        os.replace(source, target)  # noqa: PTH105 - the seam of the power-cut tests is os
        sync_directory(target.parent)


def write_at(path: Path, pieces: list[tuple[int, bytes]], *, size_bytes: int) -> None:
    """Write pieces at their offsets into a sparse file of the given size and sync it."""
    with told_as_storage_error(path, "writing"):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size_bytes)
            for offset, data in pieces:
                os.lseek(handle, offset, os.SEEK_SET)
                write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write every byte; the system may take fewer at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def read_file(path: Path) -> bytes | None:
    """Return a file's bytes, None when it does not exist; raises StorageError."""
    with told_as_storage_error(path, "reading"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises StorageError."""
    with told_as_storage_error(path, "removing"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - the seam of the power-cut tests is os


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def keep_former(path: Path, former: Path) -> None:
    """Let ``former`` name what ``path`` names now, so that replacing ``path`` loses nothing."""
    if not path.exists():
        return
    temporary = former.with_name(former.name + TEMPORARY_SUFFIX)
    with told_as_storage_error(former, "keeping"):
        remove_file(temporary)
        os.link(path, temporary)
        os.replace(temporary, former)  # noqa: PTH105 - the seam of the power-cut tests is os
