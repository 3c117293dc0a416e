"""Packages on their way in: a sparse part file, its list of chunk hashes and a bitmap.

Order of effects per window: chunk bytes, synced; then the bitmap, replaced atomically. So the
bitmap never claims what a power cut can take, and a kill repeats at most the window that was
not saved. On resume each claimed chunk is hashed again: a claim the disk did not keep is dropped.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.disk_room import find_free_bytes
from edge_agent.adapters.files import (
    list_directory,
    make_directory,
    move_durable,
    read_file,
    remove_file,
    told_as_storage_error,
    write_at,
    write_durable,
)
from edge_agent.contract.codes import Code
from edge_agent.contract.package import PACKAGE_BYTES_MAX
from edge_agent.contract.transfer import CHUNK_BYTES, HASH_BYTES, count_chunks
from edge_agent.core.transfer_plan import is_chunk
from edge_agent.errors import StorageError
from edge_agent.ports import PartialBlob

SPARE_BYTES = 16_777_216
"""Left free beside a package: state, outbox and logs must still fit."""
PART, _LIST, _BITMAP = ".part", ".hashes", ".bitmap"


class DirectoryChunkStore:
    """ChunkStore in one directory on the same file system as the blob store."""

    def __init__(self, directory: Path, blobs: DirectoryBlobStore) -> None:
        self._directory = directory
        self._blobs = blobs
        self._sizes: dict[str, int] = {}
        self._bitmaps: dict[str, int] = {}
        make_directory(directory)

    def open(self, sha256: str, size_bytes: int) -> PartialBlob:
        """Begin or resume.

        Raises:
            StorageError: ``BLOB_SIZE`` out of bounds, ``DISK_FULL`` when it does not fit,
                ``DISK_ERROR`` otherwise.
        """
        if not 1 <= size_bytes <= PACKAGE_BYTES_MAX:
            raise StorageError(
                Code.BLOB_SIZE, f"a package of {size_bytes} bytes, 1 to {PACKAGE_BYTES_MAX} are"
            )
        self._sizes[sha256] = size_bytes
        hashes = self._read_list(sha256, size_bytes)
        bitmap = self._read_bitmap(sha256, hashes, size_bytes) if hashes else 0
        self._bitmaps[sha256] = bitmap
        self._check_room(size_bytes - bitmap.bit_count() * CHUNK_BYTES)
        return PartialBlob(hashes=hashes, bitmap=bitmap)

    def save_hashes(self, sha256: str, hashes: bytes) -> None:
        """Keep the checked list of chunk hashes durably; raises StorageError."""
        write_durable(self._file(sha256, _LIST), hashes)

    def save_chunks(self, sha256: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Keep checked chunks durably; they count only once this returns; raises StorageError."""
        size_bytes, bitmap = self._sizes[sha256], self._bitmaps[sha256]
        placed = [(index * CHUNK_BYTES, data) for index, data in pieces]
        write_at(self._file(sha256, PART), placed, size_bytes=size_bytes)
        for index, _ in pieces:
            bitmap |= 1 << index
        length = -(-count_chunks(size_bytes) // 8)
        write_durable(self._file(sha256, _BITMAP), bitmap.to_bytes(length, "little"))
        self._bitmaps[sha256] = bitmap

    def finish(self, sha256: str, size_bytes: int) -> None:
        """Hash the whole and move it into the blob store.

        Raises:
            StorageError: ``BLOB_HASH`` or ``BLOB_SIZE``, the parts are dropped; ``DISK_ERROR``.
        """
        if not self._blobs.has(sha256):
            part = self._file(sha256, PART)
            with told_as_storage_error(part, "hashing"):
                size, found = _hash_file(part)
            if size != size_bytes or found != sha256:
                self._forget(sha256)
                code = Code.BLOB_SIZE if size != size_bytes else Code.BLOB_HASH
                raise StorageError(
                    code,
                    f"package of {size} bytes hashes to {found[:12]},"
                    f" signed are {size_bytes} bytes and {sha256[:12]}",
                )
            move_durable(part, self._blobs.path(sha256))
        self._forget(sha256)

    def drop(self, keep: frozenset[str]) -> None:
        """Forget every part whose sha256 is not in ``keep``, or that is whole already.

        Raises:
            StorageError: The disk refused; what is left is found again.
        """
        for path in list_directory(self._directory):
            sha256 = path.name.partition(".")[0]
            if sha256 not in keep or self._blobs.has(sha256):
                remove_file(path)

    def _forget(self, sha256: str) -> None:
        for suffix in (_BITMAP, _LIST, PART):
            remove_file(self._file(sha256, suffix))
        self._sizes.pop(sha256, None)
        self._bitmaps.pop(sha256, None)

    def _file(self, sha256: str, suffix: str) -> Path:
        return self._directory / (sha256 + suffix)

    def _read_list(self, sha256: str, size_bytes: int) -> bytes | None:
        hashes = read_file(self._file(sha256, _LIST))
        whole = hashes is not None and len(hashes) == count_chunks(size_bytes) * HASH_BYTES
        return hashes if whole else None

    def _read_bitmap(self, sha256: str, hashes: bytes, size_bytes: int) -> int:
        claimed = int.from_bytes(read_file(self._file(sha256, _BITMAP)) or b"", "little")
        part = self._file(sha256, PART)
        kept = 0
        with told_as_storage_error(part, "reading"):
            if not claimed or not part.exists():
                return 0
            with part.open("rb") as file:
                for index in range(count_chunks(size_bytes)):
                    if claimed >> index & 1:
                        file.seek(index * CHUNK_BYTES)
                        body = file.read(CHUNK_BYTES)
                        kept |= is_chunk(hashes, index, body, size_bytes=size_bytes) << index
        return kept

    def _check_room(self, missing_bytes: int) -> None:
        with told_as_storage_error(self._directory, "measuring"):
            free = find_free_bytes(self._directory)
        need = max(0, missing_bytes) + SPARE_BYTES
        if free < need:
            raise StorageError(
                Code.DISK_FULL,
                f"{self._directory}: {free} bytes free, the package needs {need} with a reserve",
            )


def _hash_file(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1_048_576):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
