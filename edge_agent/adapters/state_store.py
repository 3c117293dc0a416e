"""The agent's commit point: one checksummed file, replaced atomically, its former kept beside it.

A rename is atomic, so a power cut leaves the old or the new state. Should the disk damage the
file later, the checksum tells, and the state before it is used: the server's next assignment
brings the device forward again.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.adapters.files import (
    keep_former,
    make_directory,
    move_durable,
    read_file,
    write_durable,
)
from edge_agent.contract.fields import dump_object

FILE = "state.json"
FORMER = "state.former.json"
DAMAGED = "state.damaged.json"
_LOG = logging.getLogger(__name__)


class FileStateStore:
    """StateStore in a directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._former = directory / FORMER
        self._damaged = directory / DAMAGED
        make_directory(directory)

    def load(self) -> dict[str, Any] | None:
        """Return the last committed state that is whole, None when there is none.

        Raises:
            StorageError: A file is there and cannot be read.
        """
        state = _open_envelope(read_file(self._path))
        if state is not None:
            return state
        if self._path.exists():
            _LOG.error("%s is damaged; it is kept as %s", self._path, self._damaged.name)
            move_durable(self._path, self._damaged)
        former = _open_envelope(read_file(self._former))
        if former is not None:
            _LOG.warning("going on from the state before the last, %s", self._former)
        return former

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state durably and atomically.

        Raises:
            StorageError: The disk refused; the former state stays.
        """
        body = dump_object(state)
        keep_former(self._path, self._former)
        write_durable(self._path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _open_envelope(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    state = json.loads(body)
    return state if isinstance(state, dict) else None
