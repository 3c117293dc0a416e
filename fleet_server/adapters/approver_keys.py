"""Keys that belong to people: the root key and the approver's, in the operator's own folder.

A key is an Ed25519 PKCS#8 PEM file, mode 0600, encrypted when a passphrase was given. The server
never needs this folder to run; only ``init``, ``model approve`` and ``keys`` open it. Beside the
keys lies ``root.json``, the operator's own copy of what devices pin, and ``signed.json``, the
newest version this operator signed and saw stored: so a server that was broken into can neither
hand out a root of its own nor have an older state signed again.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from fleet_server.adapters.target_layout import COMPACT, edit_targets, expiry, verify_files
from fleet_server.durable_files import write_durable
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.trust import SignedTarget

UNLOCK_VARIABLE = "EDGEFLEET_PASSPHRASE"
KEY_BYTES_MAX = 65_536
ROOT_KEY, APPROVER_KEY, ROOT_COPY, SIGNED = "root.pem", "approver.pem", "root.json", "signed.json"
ROOT_DAYS = 730

Ask = Callable[[str], str]
"""Asks a person for the passphrase of the named file."""


def create_key(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """Make a key, or load the one that is there; an existing key is never replaced."""
    if path.exists():
        return load_key(path, lambda _: (passphrase or b"").decode())
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durable(path, pem, mode=0o600)
    return CryptoSigner(key)


def load_key(path: Path, ask: Ask | None = None) -> CryptoSigner:
    """Load a key; the passphrase comes from the environment, else from ``ask``.

    Raises:
        NotFoundError: No such file.
        RefusedError: Unreadable, not a key, or the passphrase is missing or wrong.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(KEY_BYTES_MAX)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no key {path}; run this where the operator's folder is, or name it with"
            " EDGEFLEET_OPERATOR"
        ) from error
    except OSError as error:
        raise RefusedError(f"cannot read key {path}: {error.strerror}") from error
    passphrase: bytes | None = None
    if b"ENCRYPTED" in pem:
        text = os.environ.get(UNLOCK_VARIABLE) or (ask(str(path)) if ask else "")
        if not text:
            raise RefusedError(f"key {path} has a passphrase; set {UNLOCK_VARIABLE}")
        passphrase = text.encode()
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(f"key {path} cannot be opened: wrong passphrase or no key") from error
    return CryptoSigner(key)


class OperatorKeys:
    """The ``Approver`` of one operator's folder.

    Args:
        directory: The folder.
        clock: For the dates that are signed.
        ask: Asks for a passphrase; None when nobody can be asked.
    """

    def __init__(self, directory: Path, clock: Clock, ask: Ask | None = None) -> None:
        self.directory = directory
        self._clock = clock
        self._ask = ask
        self._approver: CryptoSigner | None = None

    @property
    def keyid(self) -> str:
        """Id of the approver's key."""
        return self._signer().public_key.keyid

    def root_copy(self) -> bytes:
        """Return the operator's copy of the root that devices pin; raises NotFoundError."""
        try:
            return (self.directory / ROOT_COPY).read_bytes()
        except OSError as error:
            raise NotFoundError(
                f"cannot read {self.directory / ROOT_COPY}: {error.strerror}; name the operator's"
                " folder with EDGEFLEET_OPERATOR"
            ) from error

    def sign_targets(
        self, current: Mapping[str, bytes], *, add: Sequence[SignedTarget], withdraw: Sequence[str]
    ) -> dict[str, bytes]:
        """Sign the successors of those files of ``current`` that change.

        Raises:
            RefusedError: ``current`` is not signed by the approvers, or older than what this
                operator signed before.
        """
        self._check_targets(current)
        edited = edit_targets(
            current,
            root=Metadata[Root].from_bytes(self.root_copy()).signed,
            add=add,
            withdraw=withdraw,
            now_at=self._clock.now(),
        )
        signer = self._signer()
        for metadata in edited.values():
            metadata.sign(signer)
        return {role: metadata.to_bytes(COMPACT) for role, metadata in edited.items()}

    def remember(self, version: int) -> None:
        """Note the newest version that the server stored."""
        write_durable(self.directory / SIGNED, json.dumps({"targets": version}).encode())

    def sign_root(self, current: bytes) -> bytes:
        """Sign the successor of a root with a new date; the operator's copy follows.

        Raises:
            RefusedError: ``current`` is not the root this operator knows.
        """
        if current != self.root_copy():
            raise RefusedError(
                f"the server's root is not {self.directory / ROOT_COPY}; do not sign it before"
                " you know why"
            )
        metadata = Metadata[Root].from_bytes(current)
        metadata.signed.version += 1
        metadata.signed.expires = expiry(self._clock.now(), ROOT_DAYS)
        metadata.sign(load_key(self.directory / ROOT_KEY, self._ask))
        data = metadata.to_bytes(COMPACT)
        write_durable(self.directory / ROOT_COPY, data)
        return data

    def _check_targets(self, current: Mapping[str, bytes]) -> None:
        root = Metadata[Root].from_bytes(self.root_copy()).signed
        try:
            targets = verify_files(root, current)
        except RefusedError as error:
            raise RefusedError(f"the server's targets are {error}; nothing was signed") from error
        signed = self._signed_before()
        if targets.version < signed:
            raise RefusedError(
                f"the server's targets are version {targets.version}, this operator has"
                f" signed {signed} already: restore the newer state, or delete"
                f" {self.directory / SIGNED} if the loss is known and meant"
            )

    def _signed_before(self) -> int:
        try:
            value = json.loads((self.directory / SIGNED).read_text())
        except (OSError, ValueError):
            return 0
        version = value.get("targets") if isinstance(value, dict) else None
        return version if isinstance(version, int) else 0

    def _signer(self) -> CryptoSigner:
        if self._approver is None:
            self._approver = load_key(self.directory / APPROVER_KEY, self._ask)
        return self._approver
