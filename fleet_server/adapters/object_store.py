"""Content-addressed files: packages by their sha256 under ``objects/ab/cd/``."""

import hashlib
import re
from pathlib import Path

from fleet_server.durable_files import write_durable
from fleet_server.errors import FleetError, NotFoundError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class ObjectStore:
    """A directory of immutable blobs; writing one that exists changes nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, sha256: str) -> Path:
        """Return where a blob is or would be; raises FleetError for what is no sha256."""
        if not _SHA256.match(sha256):
            raise FleetError(f"object {sha256[:80]!r} is not a sha256 of 64 hex digits")
        return self._directory / sha256[:2] / sha256[2:4] / sha256

    def put(self, data: bytes) -> str:
        """Store a blob durably and return its sha256, 64 hex digits."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if not path.is_file() or path.stat().st_size != len(data):
            write_durable(path, data)
        return sha256

    def has(self, sha256: str) -> bool:
        """Tell whether the blob is here."""
        return self.path(sha256).is_file()

    def size_bytes(self, sha256: str) -> int:
        """Return the blob's size; raises NotFoundError."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError as error:
            raise NotFoundError(f"object {sha256} is not in the object store") from error

    def read(self, sha256: str) -> bytes:
        """Return the whole blob, its hash checked.

        Raises:
            NotFoundError: Not here.
            FleetError: The bytes on disk no longer have this hash.
        """
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"object {sha256} is not in the object store") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FleetError(f"object {sha256} is damaged on disk; restore it from a backup")
        return data

    def read_range(self, sha256: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``, unchecked: receivers check each chunk."""
        try:
            with self.path(sha256).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError as error:
            raise NotFoundError(f"object {sha256} is not in the object store") from error
