"""One agent a directory: a lock the kernel lets go of when the process ends, however it ends."""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from edge_agent.adapters.files import (
    make_directory,
    note_in_lock_file,
    open_lock_file,
    read_file,
)
from edge_agent.errors import LockedError

FILE = "agent.lock"
FILE_BYTES_MAX = 4_096


class DirectoryLock:
    """The lock, held from ``acquire`` until ``release`` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / FILE
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: Another process holds it.
            StorageError: The directory or the file cannot be made.
        """
        make_directory(self._directory)
        handle = open_lock_file(self._path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            holder = read_holder(self._directory) or {}
            raise LockedError(self._directory, str(holder.get("pid", ""))) from error
        self._handle = handle
        self.describe({})

    def describe(self, facts: dict[str, Any]) -> None:
        """Write who holds the lock, for people and for ``edge-agent status``."""
        if self._handle is not None:
            data = json.dumps({"pid": os.getpid(), **facts}).encode()
            with contextlib.suppress(OSError):  # a full disk: the lock itself holds
                note_in_lock_file(self._handle, data)

    def release(self) -> None:
        """Let go of the lock; without effect when it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def is_locked(directory: Path) -> bool:
    """Tell whether an agent runs on the directory."""
    try:
        handle = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def read_holder(directory: Path) -> dict[str, Any] | None:
    """Return what the last holder wrote about itself, None when that is nothing."""
    data = read_file(directory / FILE)
    if not data or len(data) > FILE_BYTES_MAX:
        return None
    try:
        facts = json.loads(data)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None
