"""The temporary files of one run of ``edge-convert``, in one folder that goes with it.

Whatever a run and its child processes put into temporary folders lies in this one: it is removed at
the end, also on Ctrl-C, SIGTERM and SIGHUP. A run that is killed outright cannot; the next one
removes what it left. A folder is somebody's while its lock is held, and the kernel lets go of a
lock with its process, so no running build ever loses its files.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from converters.errors import ConversionError

PREFIX = "edge-convert-"
LOCK = "owner.lock"
STALE_MAX = 1_000
"""Folders looked at in one run."""
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Give a folder for every temporary file of this process and its children.

    Raises:
        ConversionError: There is no room for one.
        KeyboardInterrupt: The run was told to end.
    """
    parent = Path(tempfile.gettempdir())
    remove_stale(parent)
    try:
        home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = _take_lock(home)
    except OSError as error:
        raise ConversionError(
            f"no temporary folder in {parent}: {error.strerror or error}; free some room there or"
            " name another place with TMPDIR"
        ) from error
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir, os.environ["TMPDIR"] = str(home), str(home)
    try:
        with _told_to_end():
            yield home
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ConversionError(
            f"the disk of {parent} is full; free some room there or name another place with TMPDIR"
        ) from error
    finally:
        tempfile.tempdir = before[0]
        if before[1] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(home, ignore_errors=True)
        os.close(lock)


def remove_stale(parent: Path) -> list[Path]:
    """Remove the folders of runs of this user that are no more; gives what was removed."""
    removed = []
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(PREFIX)]
        for home in found[:STALE_MAX]:
            with contextlib.suppress(OSError):
                if _is_abandoned(home):
                    shutil.rmtree(home, ignore_errors=True)
                    removed.append(home)
    return removed


def _is_abandoned(home: Path) -> bool:
    """Tell whether a folder is this user's and nobody holds its lock; raises OSError."""
    about = home.lstat()
    if home.is_symlink() or about.st_uid != os.geteuid():
        return False
    handle = os.open(home / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _take_lock(home: Path) -> int:
    """Hold the lock of a new folder: it gets its name when it is held already."""
    part = home / f"{LOCK}.part"
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    part.rename(home / LOCK)
    return handle


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Take the first signal to end as Ctrl-C is taken, so that everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {
        one: signal.signal(one, end) for one in _SIGNALS if signal.getsignal(one) is signal.SIG_DFL
    }
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
