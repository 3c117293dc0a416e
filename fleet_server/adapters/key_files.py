"""Keys as files: private halves in PKCS#8 PEM, public halves in plain PEM.

A private key is an Ed25519 file of mode 0600, encrypted when a passphrase was given, and never
replaced by ``create_key``. A successor is made beside it as ``NAME.next`` and takes its place only
when the metadata names it; the former key stays as ``NAME.retired-N`` until a person destroys it.

A key id is always computed from the public key itself, never read from a file: so one key cannot
pose as two.
"""

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from fleet_server.durable_files import sync_directory, write_durable
from fleet_server.errors import NotFoundError, RefusedError

UNLOCK_VARIABLE = "EDGEFLEET_PASSPHRASE"
KEY_BYTES_MAX = 65_536
NEXT_SUFFIX, RETIRED_SUFFIX = ".next", ".retired-"

Ask = Callable[[str], str]
"""Asks a person for the passphrase or PIN of what is named."""


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
    pem = _read(path, "run this where the operator's folder is, or name it with EDGEFLEET_OPERATOR")
    passphrase: bytes | None = None
    if b"ENCRYPTED" in pem:
        text = os.environ.get(UNLOCK_VARIABLE) or (ask(f"passphrase of {path}") if ask else "")
        if not text:
            raise RefusedError(f"key {path} has a passphrase; set {UNLOCK_VARIABLE}")
        passphrase = text.encode()
    try:
        return CryptoSigner(load_pem_private_key(pem, passphrase))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(f"key {path} cannot be opened: wrong passphrase or no key") from error


def load_public_key(path: Path) -> SSlibKey:
    """Load a public key from PEM.

    Raises:
        NotFoundError: No such file.
        RefusedError: Not a public key, or one of a kind that cannot approve.
    """
    pem = _read(path, "the second person makes it with `edgefleet keys create-approver DIR`")
    if b"PRIVATE" in pem:
        raise RefusedError(
            f"{path} is a private key: it stays with its owner; pass on approver.pub alone"
        )
    return parse_public_key(pem, what=str(path))


def parse_public_key(pem: bytes, *, what: str) -> SSlibKey:
    """Read a public key; its id is computed from it.

    Raises:
        RefusedError: Not a public key, or neither Ed25519 nor ECDSA on P-256 or P-384.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError(f"{what} holds no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey) and not (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1 | SECP384R1)
    ):
        raise RefusedError(
            f"{what} holds a key of a kind that is not used here; Ed25519, or ECDSA on P-256 or"
            " P-384 from a token"
        )
    return SSlibKey.from_crypto(key)


def public_pem(key: Key) -> bytes:
    """Give a public key as plain PEM: the form that is passed on, and the key's very identity."""
    return _crypto_key(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def canonical_keyid(key: Key) -> str:
    """Compute a key's id from its public half; raises RefusedError for an unknown kind."""
    return SSlibKey.from_crypto(_crypto_key(key)).keyid


def is_same_key(one: Key, other: Key) -> bool:
    """Tell whether two entries hold one key, whatever ids they carry."""
    return public_pem(one) == public_pem(other)


def stage_key(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """Make the successor of a key beside it; one that an interrupted call left is replaced."""
    staged = staged_path(path)
    staged.unlink(missing_ok=True)
    return create_key(staged, passphrase)


def install_staged(path: Path, *, is_kept: bool = True) -> Path | None:
    """Put the staged successor in its place; return where the former key lies now, if it is kept.

    May be cut anywhere and called again: the former key is linked away before it is replaced.
    """
    staged = staged_path(path)
    if not staged.exists():
        return None
    retired: Path | None = None
    if is_kept and path.exists():
        found = (old for old in retired_paths(path) if path.samefile(old))
        retired = next(found, None)
        if retired is None:
            retired = _retired_path(path)
            os.link(path, retired)
    staged.replace(path)
    sync_directory(path.parent)
    return retired


def drop_staged(path: Path) -> None:
    """Remove a successor that nothing names."""
    staged_path(path).unlink(missing_ok=True)


def staged_path(path: Path) -> Path:
    """Where the successor of a key is made."""
    return path.with_name(path.name + NEXT_SUFFIX)


def retired_paths(path: Path) -> list[Path]:
    """Give the former keys of a name that still lie beside it."""
    return sorted(path.parent.glob(f"{path.name}{RETIRED_SUFFIX}*"))


def _retired_path(path: Path) -> Path:
    number = 1
    while path.with_name(f"{path.name}{RETIRED_SUFFIX}{number}").exists():
        number += 1
    return path.with_name(f"{path.name}{RETIRED_SUFFIX}{number}")


def _crypto_key(key: Key) -> Ed25519PublicKey | EllipticCurvePublicKey:
    text = key.keyval.get("public", "") if isinstance(key, SSlibKey) else ""
    try:
        if key.keytype == "ed25519":
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        found = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError(f"key {key.keyid[:12]} is malformed") from error
    if not isinstance(found, EllipticCurvePublicKey):
        raise RefusedError(f"key {key.keyid[:12]} is of a kind that is not used here")
    return found


def _read(path: Path, next_step: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEY_BYTES_MAX)
    except FileNotFoundError as error:
        raise NotFoundError(f"no key {path}; {next_step}") from error
    except OSError as error:
        raise RefusedError(f"cannot read key {path}: {error.strerror}") from error
