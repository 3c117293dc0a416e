"""Encoded packages on disk: a small file a pair, and the bytes by their sha256.

All of it can be made again: losing the folder costs time, nothing else. The folder is bounded; the
pairs that were made longest ago go first. Bytes are hashed before they are offered for the first
time in a life (``check``, in blocks, by whoever has the time), so that what a disk has damaged is
made again and not sent. Nothing reads, hashes or writes a blob while others wait for the lock.
"""

import hashlib
import json
import logging
from pathlib import Path
from threading import Lock
from typing import Any

from edge_agent.contract.errors import ContractError
from edge_agent.contract.transfer import Encoding, PackageOffer
from fleet_server.adapters.object_store import ObjectStore
from fleet_server.durable_files import write_durable
from fleet_server.errors import FleetError, NotFoundError
from fleet_server.ports.encodings import Pair, StoredEncoding

BYTES_MAX = 1_073_741_824
PAIRS_MAX = 20_000
HASH_BLOCK_BYTES = 1_048_576
NO_BASE = "none"
_LOG = logging.getLogger(__name__)


class DirectoryEncodingStore:
    """The ``EncodingStore`` in a folder of the workspace.

    Args:
        directory: Made when something is first put.
        bytes_max: Of all encoded bytes together.
        is_reader: Somebody else, the gateway, keeps the folder: change nothing.
    """

    def __init__(
        self, directory: Path, *, bytes_max: int = BYTES_MAX, is_reader: bool = False
    ) -> None:
        self._pairs, self._blobs = directory / "pairs", ObjectStore(directory / "blobs")
        self._bytes_max, self._is_reader = bytes_max, is_reader
        self._lock = Lock()
        self._owners: dict[str, str] = {}
        self._checked: set[str] = set()
        self._known = {encoding.pair: encoding for encoding in self._load()}
        for encoding in self._known.values():
            self._note_owner(encoding)

    def find(self, pair: Pair) -> StoredEncoding | None:
        """Return what was found out about a pair, None when nobody has tried or checked it."""
        with self._lock:
            encoding = self._known.get(pair)
            return encoding if encoding is not None and self._is_checked(encoding) else None

    def check(self, pair: Pair) -> StoredEncoding | None:
        """Return what was found out about a pair, its bytes hashed; None when it is to be made."""
        with self._lock:
            encoding = self._known.get(pair)
            if encoding is None or self._is_checked(encoding):
                return encoding
        is_whole = self._is_whole(encoding.offer.sha256)
        with self._lock:
            if self._known.get(pair) is not encoding:
                return None  # it went meanwhile
            if is_whole:
                self._checked.add(encoding.offer.sha256)
                return encoding
            self._remove(encoding)
            return None

    def list_of(self, target: str) -> list[StoredEncoding]:
        """Return what is known of a package."""
        with self._lock:
            return [e for pair, e in self._known.items() if pair.target == target]

    def put(self, encoding: StoredEncoding, data: bytes) -> None:
        """Keep an encoding and its bytes durably; raises FleetError when the disk refuses."""
        try:
            if encoding.offer.encoding is not Encoding.IDENTITY:
                self._blobs.put(data)
            write_durable(self._path(encoding.pair), _dump(encoding))
        except OSError as error:
            raise FleetError(f"encoding of {encoding.pair.target[:12]}: {error}") from error
        with self._lock:
            self._known[encoding.pair] = encoding
            self._checked.add(encoding.offer.sha256)
            self._note_owner(encoding)
            self._make_room()

    def owner_of(self, sha256: str) -> str | None:
        """Return the package that an encoded blob belongs to; None for what is no such blob."""
        return self._owners.get(sha256)

    def size_bytes(self, sha256: str) -> int:
        """Return the size of an encoded blob; raises NotFoundError."""
        return self._blobs.size_bytes(sha256)

    def read_range(self, sha256: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; raises NotFoundError."""
        return self._blobs.read_range(sha256, offset, length)

    @property
    def total_bytes(self) -> int:
        """Encoded bytes kept."""
        with self._lock:
            return sum(encoding.offer.size_bytes for encoding in self._known.values())

    def _load(self) -> list[StoredEncoding]:
        found = []
        paths = sorted(self._pairs.glob("*/*.json")) if self._pairs.is_dir() else []
        for path in sorted(paths, key=_age):
            try:
                found.append(_read(path))
            except (OSError, ValueError, KeyError, TypeError, ContractError) as error:
                if not self._is_reader:
                    _LOG.warning("%s is made again: %s", path, error)
                    path.unlink(missing_ok=True)
        return found

    def _is_checked(self, encoding: StoredEncoding) -> bool:
        return not encoding.offer.sha256 or encoding.offer.sha256 in self._checked

    def _is_whole(self, sha256: str) -> bool:
        digest = hashlib.sha256()
        try:
            with self._blobs.path(sha256).open("rb") as file:
                while block := file.read(HASH_BLOCK_BYTES):
                    digest.update(block)
        except OSError:
            return False
        return digest.hexdigest() == sha256

    def _note_owner(self, encoding: StoredEncoding) -> None:
        if encoding.offer.sha256:
            self._owners[encoding.offer.sha256] = encoding.pair.target

    def _make_room(self) -> None:
        total = sum(encoding.offer.size_bytes for encoding in self._known.values())
        newest = next(reversed(self._known), None)
        for pair, encoding in list(self._known.items()):
            if (total <= self._bytes_max and len(self._known) <= PAIRS_MAX) or pair == newest:
                return
            total -= encoding.offer.size_bytes
            self._remove(encoding)

    def _remove(self, encoding: StoredEncoding) -> None:
        self._known.pop(encoding.pair, None)
        self._owners.pop(encoding.offer.sha256, None)
        self._checked.discard(encoding.offer.sha256)
        self._path(encoding.pair).unlink(missing_ok=True)
        if encoding.offer.sha256:
            self._blobs.path(encoding.offer.sha256).unlink(missing_ok=True)

    def _path(self, pair: Pair) -> Path:
        return self._pairs / pair.target / f"{pair.base or NO_BASE}.json"


class PackagesAndEncodings:
    """The ``PackageSource`` that serves packages and what travels in their place."""

    def __init__(self, packages: ObjectStore, encodings: DirectoryEncodingStore) -> None:
        self._packages, self._encodings = packages, encodings

    def size_bytes(self, sha256: str) -> int:
        """Return a blob's size; raises NotFoundError."""
        return self._of(sha256).size_bytes(sha256)

    def read_range(self, sha256: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; raises NotFoundError."""
        return self._of(sha256).read_range(sha256, offset, length)

    def _of(self, sha256: str) -> ObjectStore | DirectoryEncodingStore:
        return self._packages if self._encodings.owner_of(sha256) is None else self._encodings


def _age(path: Path) -> int:
    """Give a file's time; one that went in the meantime is the oldest."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _dump(encoding: StoredEncoding) -> bytes:
    said = {
        "target": encoding.pair.target,
        "base": encoding.pair.base,
        "way": encoding.way,
        "package_bytes": encoding.package_bytes,
        "made_s": round(encoding.made_s, 3),
        "offer": json.loads(encoding.offer.encode()),
    }
    return json.dumps(said, indent=1).encode()


def _read(path: Path) -> StoredEncoding:
    said: dict[str, Any] = json.loads(path.read_bytes())
    pair = Pair(str(said["target"]), str(said["base"]))
    if path.parent.name != pair.target or path.stem != (pair.base or NO_BASE):
        raise NotFoundError(f"{path} speaks of {pair.target[:12]}")
    return StoredEncoding(
        pair=pair,
        offer=PackageOffer.decode(json.dumps(said["offer"]).encode()),
        way=str(said["way"]),
        package_bytes=int(said["package_bytes"]),
        made_s=float(said["made_s"]),
    )
