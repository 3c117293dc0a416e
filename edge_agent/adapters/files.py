"""Every file effect of the agent goes through here; a test reads the source and holds it to that.

Power-cut tests replace nothing but this module's ``os``: every call that changes the disk is one
of ``os``, none of ``pathlib``. A name that exists is a whole file: bytes are written beside it,
synced, renamed over it, and the directory is synced. What need not survive says so.

Left out: SQLite's own files (``outbox.py``) and python-tuf's folder (``tuf_metadata.py``).
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from edge_agent.contract.codes import Code
from edge_agent.errors import StorageError

TEMPORARY_SUFFIX = ".tmp"
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Never through a link: root may run a command on a directory whose owner laid one there.
_MAKE = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_REPLACE = os.O_WRONLY | os.O_TRUNC | _MAKE
_SCRATCH = "/tmp"  # noqa: S108 - what is opened there never has a name


@contextlib.contextmanager
def told_as_storage_error(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file and what was being done."""
    try:
        yield
    except OSError as error:
        code = Code.DISK_FULL if error.errno in _NO_ROOM else Code.DISK_ERROR
        raise StorageError(code, f"{doing} {path}: {error.strerror or error}") from error


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """Make a directory and its parents, each durable in the one above; raises StorageError.

    One that is there is synced as well: whoever made it may have been killed before that.
    """
    with told_as_storage_error(path, "making"):
        _make_below(path, mode)


def _make_below(path: Path, mode: int) -> None:
    if not path.parent.is_dir():
        _make_below(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        if not path.is_dir():
            os.mkdir(path, mode)  # noqa: PTH102 - the seam of the power-cut tests is os
    # A parent that may not be read is somebody else's, and was there before us.
    with contextlib.suppress(PermissionError):
        sync_directory(path.parent)


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file atomically and durably; raises StorageError, the former file then stays."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with told_as_storage_error(path, "writing"):
        handle = os.open(temporary, _REPLACE, mode)
        try:
            write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        move_durable(temporary, path)


def write_pieces(path: Path, pieces: Iterable[bytes], *, mode: int = 0o600) -> None:
    """Replace a file by pieces as they come, atomically and durably.

    Raises:
        StorageError: The disk refused. Whatever else making the pieces raises passes through.
            The former file stays in both cases, and what was written beside it goes.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with told_as_storage_error(path, "writing"):
        handle = os.open(temporary, _REPLACE, mode)
        try:
            for piece in pieces:
                write_all(handle, piece)
            os.fsync(handle)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108 - the seam of the power-cut tests is os
            raise
        finally:
            os.close(handle)
        move_durable(temporary, path)


def move_durable(source: Path, target: Path) -> None:
    """Rename a synced file within one file system, durably; raises StorageError.

    Between directories it has both names until the new one is durable: a power cut may keep either
    end of a rename, and must not keep neither.
    """
    with told_as_storage_error(target, "renaming to"):
        if source.parent != target.parent and _link(source, target):
            sync_directory(target.parent)
            os.unlink(source)  # noqa: PTH108 - the seam of the power-cut tests is os
        else:
            os.replace(source, target)  # noqa: PTH105 - the seam of the power-cut tests is os
            sync_directory(target.parent)


def _link(path: Path, other: Path) -> bool:
    """Give a file another name; False when that is taken or the file system has no such thing."""
    try:
        os.link(path, other)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def write_at(path: Path, pieces: list[tuple[int, bytes]], *, size_bytes: int) -> None:
    """Write pieces at their offsets into a sparse file of the given size and sync it."""
    with told_as_storage_error(path, "writing"):
        handle = os.open(path, os.O_WRONLY | _MAKE, 0o600)
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


def list_directory(path: Path) -> list[Path]:
    """Return what a directory holds; raises StorageError."""
    with told_as_storage_error(path, "listing"):
        return list(path.iterdir())


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises StorageError."""
    with told_as_storage_error(path, "removing"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - the seam of the power-cut tests is os


def remove_durable(path: Path) -> None:
    """Remove a file so that no power cut brings it back; raises StorageError."""
    remove_file(path)
    with told_as_storage_error(path, "removing"):
        sync_directory(path.parent)


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
        if _link(path, temporary):
            os.replace(temporary, former)  # noqa: PTH105 - the seam of the power-cut tests is os
        else:
            write_durable(former, path.read_bytes())


def make_private(path: Path) -> None:
    """Let nobody but its owner read a file that another library writes; makes it, empty, first.

    What refuses is left to that library, which tells it in its own words. Not durable.
    """
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDWR | _MAKE, 0o600)
        try:
            if os.fstat(handle).st_mode & 0o077:
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)


def open_lock_file(path: Path) -> int:
    """Open, or make, a file to be locked; return its handle. Not durable; raises StorageError."""
    with told_as_storage_error(path, "opening"):
        return os.open(path, os.O_RDWR | _MAKE, 0o600)


def note_in_lock_file(handle: int, data: bytes) -> None:
    """Replace what a lock file says; a courtesy to readers, neither atomic nor durable."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    write_all(handle, data)


def open_scratch() -> IO[bytes]:
    """Open a file without a name for a child's output; it is gone when it is closed."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
    try:
        number = os.open(os.environ.get("TMPDIR") or _SCRATCH, flags, 0o600)
    except OSError:  # no such folder, or a file system that cannot
        import tempfile  # loads every compressor there is

        return tempfile.TemporaryFile()
    return os.fdopen(number, "w+b")


def tell_kernel(path: Path, text: str) -> None:
    """Write a setting of this process below ``/proc``; raises OSError."""
    path.write_text(text)
