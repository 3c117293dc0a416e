"""The server's own signing keys: snapshot, timestamp, director.

A running process follows a rotation without a restart: a key is opened again when its file changed.
A successor is staged beside the key and takes its place once the metadata names it.
"""

from pathlib import Path

from securesystemslib.signer import CryptoSigner

from fleet_server.adapters.key_files import (
    drop_staged,
    install_staged,
    load_key,
    stage_key,
    staged_path,
)

FileIdentity = tuple[int, int, int]


class OnlineKeys:
    """The keys in ``server/keys``, by role."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: dict[str, tuple[FileIdentity, CryptoSigner]] = {}

    def path(self, role: str) -> Path:
        """Where the key of a role lies."""
        return self._directory / f"{role}.pem"

    def signer(self, role: str) -> CryptoSigner:
        """Open a key, again when its file changed; raises NotFoundError or RefusedError."""
        path = self.path(role)
        if not path.exists():
            return load_key(path)
        found = path.stat()
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        opened = self._opened.get(role)
        if opened is None or opened[0] != identity:
            opened = self._opened[role] = (identity, load_key(path))
        return opened[1]

    def keyids(self, role: str) -> frozenset[str]:
        """Give the ids of a role's key and of its staged successor."""
        paths = (self.path(role), staged_path(self.path(role)))
        return frozenset(load_key(path).public_key.keyid for path in paths if path.exists())

    def stage(self, role: str) -> CryptoSigner:
        """Make the successor of a key beside it."""
        return stage_key(self.path(role))

    def staged_keyid(self, role: str) -> str:
        """Give the id of the staged successor; empty for none."""
        path = staged_path(self.path(role))
        return load_key(path).public_key.keyid if path.exists() else ""

    def install(self, role: str) -> None:
        """Put the staged successor in its place; the former key is destroyed, nobody needs it."""
        install_staged(self.path(role), is_kept=False)

    def drop(self, role: str) -> None:
        """Remove a successor that nothing names."""
        drop_staged(self.path(role))
