"""Whole packages on disk by sha256. A name that exists is a whole file; reading hashes it again."""

import hashlib
from pathlib import Path

from edge_agent.adapters.files import (
    TEMPORARY_SUFFIX,
    list_directory,
    make_directory,
    read_file,
    remove_file,
    write_durable,
)
from edge_agent.contract.codes import Code
from edge_agent.contract.package import PACKAGE_BYTES_MAX
from edge_agent.errors import StorageError


class DirectoryBlobStore:
    """BlobStore in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_directory(directory)

    def path(self, sha256: str) -> Path:
        """Return where the blob lies, for a child process that hashes it itself."""
        return self._directory / sha256

    def has(self, sha256: str) -> bool:
        """Tell whether a blob is there (its bytes are checked when read)."""
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> bytes:
        """Return the bytes, hashed just now.

        Raises:
            StorageError: ``BLOB_HASH`` when absent or not what the name says (it is removed
                then), ``DISK_ERROR`` when the disk cannot read it.
        """
        path = self.path(sha256)
        # A pipe would be waited for, a device read, without end.
        if not path.is_file() or path.stat().st_size > PACKAGE_BYTES_MAX:
            remove_file(path)
        data = read_file(path)
        if data is None:
            raise StorageError(Code.BLOB_HASH, f"package {sha256[:12]} is not on this device")
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            remove_file(path)
            raise StorageError(
                Code.BLOB_HASH, f"package {sha256[:12]} hashes to {found[:12]} on disk; removed it"
            )
        return data

    def add(self, data: bytes) -> str:
        """Store bytes durably and return their sha256; raises StorageError."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            write_durable(self.path(sha256), data)
        return sha256

    def collect(self, keep: frozenset[str]) -> int:
        """Remove every blob not in ``keep``, and half-written ones; return how many went."""
        gone = [
            path
            for path in list_directory(self._directory)
            if path.name not in keep or path.name.endswith(TEMPORARY_SUFFIX)
        ]
        for path in gone:
            remove_file(path)
        return len(gone)
