"""Packages restored from what travelled in their place, within stated memory and signed size.

The pieces of an encoding lie in the folder of parts under the package's name, so that they are kept
and dropped with it. Order of effects: every piece of the encoding is durable; the package is
written beside its place, synced, and takes its name only when its sha256 is the signed one. After a
power cut it is restored again from the pieces. That an encoding was no good is written down, so
that nothing tries it again; the note goes with the package. That the disk had no room for it is
not: at the next try it may.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.chunk_store import PART, SPARE_BYTES
from edge_agent.adapters.disk_room import find_free_bytes
from edge_agent.adapters.files import (
    list_directory,
    read_file,
    remove_file,
    told_as_storage_error,
    write_durable,
    write_pieces,
)
from edge_agent.contract.encoding import (
    Decompressor,
    largest_window_log,
    restore,
)
from edge_agent.contract.errors import ContractError
from edge_agent.contract.transfer import PackageOffer
from edge_agent.core.offer_plan import part_key
from edge_agent.errors import NoRoomError, RestoreError, words_of

BASE_BYTES_MIN = 8
"""Shorter ones zstd does not take."""
BLOCK_BYTES = 512
"""Of which a file system says how many a file takes."""
_REFUSED = ".refused"
_REASON_BYTES_MAX = 500


class DirectoryRestorer:
    """PackageRestorer beside a DirectoryChunkStore and a DirectoryBlobStore.

    Args:
        directory: Of the parts.
        blobs: Where packages are.
        memory_bytes: What restoring may need; 0 to have packages as they are.
    """

    def __init__(self, directory: Path, blobs: DirectoryBlobStore, *, memory_bytes: int) -> None:
        self._directory, self._blobs = directory, blobs
        self.memory_bytes = memory_bytes

    def sizes(self, held: Sequence[str]) -> Mapping[str, int]:
        """Return the sizes of those packages that are on this device, in the order given."""
        return {
            sha256: self._blobs.path(sha256).stat().st_size
            for sha256 in held
            if self._blobs.has(sha256)
        }

    def refusal(self, sha256: str) -> str:
        """Return why this package is to be fetched as it is; empty when it need not be."""
        return (read_file(self._directory / (sha256 + _REFUSED)) or b"").decode(errors="replace")

    def prepare(self, sha256: str, offer: PackageOffer, size_bytes: int) -> None:
        """Forget pieces of other encodings, then look for room; raises NoRoomError."""
        mine = part_key(sha256, offer)
        self._forget(sha256, but=mine + ".")
        part = self._directory / (mine + PART)
        with told_as_storage_error(self._directory, "measuring"):
            free = find_free_bytes(self._directory)
            here = part.stat().st_blocks * BLOCK_BYTES if part.exists() else 0
        need = max(0, offer.size_bytes - here) + size_bytes + SPARE_BYTES
        if free < need:
            raise NoRoomError(f"{free} bytes free, encoding and package need {need}")

    def forget(self, sha256: str) -> None:
        """Forget pieces of all encodings of a package; raises StorageError."""
        self._forget(sha256)

    def restore(self, sha256: str, offer: PackageOffer, size_bytes: int) -> None:
        """Put the package, hashed, into the blob store; raises RestoreError, StorageError."""
        if not self._blobs.has(sha256):
            write_pieces(self._blobs.path(sha256), self._checked(sha256, offer, size_bytes))
        self._forget(sha256)

    def refuse(self, sha256: str, reason: str) -> None:
        """Remember durably that the package is to be fetched as it is; raises StorageError."""
        said = reason.encode()[:_REASON_BYTES_MAX]
        write_durable(self._directory / (sha256 + _REFUSED), said)
        self._forget(sha256)

    def _checked(self, sha256: str, offer: PackageOffer, size_bytes: int) -> Iterator[bytes]:
        """Give the pieces of the package; the last only when the whole is what was signed."""
        digest, last = hashlib.sha256(), b""
        try:
            for piece in self._pieces(sha256, offer, size_bytes):
                yield last
                digest.update(piece)
                last = piece
        except (ContractError, EOFError, MemoryError) as error:
            raise RestoreError(words_of(error)) from error
        if digest.hexdigest() != sha256:
            raise RestoreError(f"what was restored hashes to {digest.hexdigest()[:12]}")
        yield last

    def _pieces(self, sha256: str, offer: PackageOffer, size_bytes: int) -> Iterator[bytes]:
        encoded = self._directory / (part_key(sha256, offer) + PART)
        base = self._open_base(offer.base) if offer.base else None
        with ExitStack() as stack:
            if base is not None:
                stack.callback(base.close)
            window_log = largest_window_log(
                memory_bytes=self.memory_bytes, base_bytes=len(base) if base is not None else 0
            )
            if window_log is None:
                raise RestoreError(f"{self.memory_bytes} bytes of memory hold no base and window")
            with told_as_storage_error(encoded, "restoring from"):
                source = stack.enter_context(encoded.open("rb"))
                yield from restore(
                    source,
                    size_bytes=size_bytes,
                    base=base,
                    base_sha256=offer.base,
                    open_frame=lambda: _Frame(base, window_log),
                )

    def _open_base(self, sha256: str) -> "_Base":
        path = self._blobs.path(sha256)
        try:
            size = path.stat().st_size if path.is_file() else 0
            if not BASE_BYTES_MIN <= size <= self.memory_bytes:
                raise RestoreError(f"base {sha256[:12]} of {size} bytes cannot be used")
            return _Base(path, sha256)
        except OSError as error:
            raise RestoreError(f"base {sha256[:12]} cannot be read: {error}") from error

    def _forget(self, sha256: str, *, but: str = "-") -> None:
        """Remove pieces of encodings of a package, but those whose name begins so."""
        for path in list_directory(self._directory):
            is_encoded = path.name.startswith(sha256 + ".") and path.name.count(".") > 1
            if is_encoded and not path.name.startswith(but):
                remove_file(path)


class _Base:
    """A package on this device: hashed, held once in memory by zstd, read from disk by place.

    It is not mapped: a page that the disk cannot read would end the process.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        from backports.zstd import ZstdDict

        self._file = path.open("rb")
        data = self._file.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            self._file.close()
            raise RestoreError(f"base {sha256[:12]} is damaged on disk")
        self.dictionary = ZstdDict(data, is_raw=True)

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.dictionary)

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(len(self))
        self._file.seek(start)
        return self._file.read(max(0, stop - start))


class _Frame:
    """A zstd frame; its library is loaded only where something is to be restored."""

    def __init__(self, base: _Base | None, window_log: int) -> None:
        from backports import zstd

        self._error = zstd.ZstdError
        self._inner: Decompressor = zstd.ZstdDecompressor(
            zstd_dict=base.dictionary.as_prefix if base is not None else None,
            options={zstd.DecompressionParameter.window_log_max: window_log},
        )

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except self._error as error:
            raise RestoreError(f"zstd: {error}") from error
