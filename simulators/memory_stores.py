"""What a simulated device keeps where a real one has a disk: in memory, packages shared.

A thousand devices that run the same package hold its bytes once, yet each fetches every chunk
over the network: which chunks and packages *this* device has is its own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.contract.codes import Code
from edge_agent.contract.transfer import count_chunks
from edge_agent.errors import StorageError
from edge_agent.ports import PartialBlob


class SharedBytes:
    """Packages and chunks by sha256, once for all devices of the process."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lists: dict[str, bytes] = {}

    def put_together(self, sha256: str, size_bytes: int) -> None:
        """Join the chunks of a package and check the whole.

        Raises:
            StorageError: ``BLOB_SIZE`` or ``BLOB_HASH``.
        """
        if sha256 in self.blobs:
            return
        parts = self.parts.get(sha256, {})
        blob = b"".join(parts[index] for index in sorted(parts))
        if len(blob) != size_bytes:
            raise StorageError(Code.BLOB_SIZE, f"{len(blob)} bytes, signed are {size_bytes}")
        if hashlib.sha256(blob).hexdigest() != sha256:
            self.parts.pop(sha256, None)
            raise StorageError(Code.BLOB_HASH, f"the chunks are not package {sha256[:12]}")
        self.blobs[sha256] = blob
        self.parts.pop(sha256, None)


class MemoryBlobStore:
    """BlobStore of one simulated device."""

    def __init__(self, shared: SharedBytes) -> None:
        self._shared = shared
        self.own: set[str] = set()

    def has(self, sha256: str) -> bool:
        """Tell whether this device has fetched a package."""
        return sha256 in self.own

    def read(self, sha256: str) -> bytes:
        """Return the bytes, hashed when they were put together; raises StorageError."""
        if sha256 not in self.own:
            raise StorageError(Code.BLOB_HASH, f"package {sha256[:12]} is not on this device")
        return self._shared.blobs[sha256]

    def path(self, sha256: str) -> Path:
        """Refuse: a simulated device has no files; raises StorageError."""
        raise StorageError(Code.DISK_ERROR, f"package {sha256[:12]} is in memory, not in a file")

    def collect(self, keep: frozenset[str]) -> int:
        """Forget every package not in ``keep``; return how many went."""
        before = len(self.own)
        self.own &= keep
        return before - len(self.own)


class MemoryChunkStore:
    """ChunkStore of one simulated device."""

    def __init__(self, shared: SharedBytes, blobs: MemoryBlobStore) -> None:
        self._shared, self._blobs = shared, blobs
        self._bitmaps: dict[str, int] = {}
        self._listed: set[str] = set()

    def open(self, sha256: str, size_bytes: int) -> PartialBlob:
        """Begin or resume; raises StorageError for an empty package."""
        if size_bytes < 1:
            raise StorageError(Code.BLOB_SIZE, f"a package of {size_bytes} bytes")
        hashes = self._shared.lists.get(sha256) if sha256 in self._listed else None
        return PartialBlob(hashes=hashes, bitmap=self._bitmaps.get(sha256, 0) if hashes else 0)

    def save_hashes(self, sha256: str, hashes: bytes) -> None:
        """Keep the checked list of chunk hashes."""
        self._shared.lists[sha256] = hashes
        self._listed.add(sha256)

    def save_chunks(self, sha256: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Keep checked chunks."""
        if sha256 not in self._shared.blobs:
            self._shared.parts.setdefault(sha256, {}).update(pieces)
        for index, _ in pieces:
            self._bitmaps[sha256] = self._bitmaps.get(sha256, 0) | 1 << index

    def finish(self, sha256: str, size_bytes: int) -> None:
        """Check the whole and count it as fetched.

        Raises:
            StorageError: ``BLOB_SIZE`` or ``BLOB_HASH``.
        """
        if self._blobs.has(sha256):
            return
        have = self._bitmaps.pop(sha256, 0)
        if have.bit_count() != count_chunks(size_bytes):
            raise StorageError(Code.BLOB_SIZE, f"{have.bit_count()} chunks of {sha256[:12]}")
        self._shared.put_together(sha256, size_bytes)
        self._blobs.own.add(sha256)

    def drop(self, keep: frozenset[str]) -> None:
        """Forget every part whose sha256 is not in ``keep``."""
        self._bitmaps = {sha256: b for sha256, b in self._bitmaps.items() if sha256 in keep}


class MemoryStateStore:
    """StateStore of one simulated device; the state is gone with the process."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self.commits = 0

    def load(self) -> dict[str, Any] | None:
        """Return the last committed state."""
        return self._state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state."""
        self._state = dict(state)
        self.commits += 1
