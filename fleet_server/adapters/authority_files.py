"""The authority's keys and certificates on disk, also while one authority follows another.

``ca.pem`` is what broker, API and workers trust: the *serving* authority, whose key issued the
server's certificates and which join strings pin, then the one that follows it. Keys lie in
``ca.key`` and ``ca.next.key``; whose is which is told by the certificates, so a cut between two
writes leaves pairs that fit. A successor is staged in ``ca.next.pem`` and counts from the moment
``ca.pem`` holds it; whether it may is the approvers' to say (``AuthorityHandover``).
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from fleet_server.durable_files import sync_directory, write_durable
from fleet_server.errors import FleetError, NotFoundError
from fleet_server.ports.clock import Clock

CA_DAYS = 3_650
BACKDATE = timedelta(days=1)
"""Certificates hold from a day ago at most, for devices whose clock is late."""
FIRST_NAME = "edgefleet CA"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the authority keeps what the broker, the API and the workers open."""

    directory: Path

    @property
    def ca(self) -> Path:
        """Certificates of the authorities that are trusted, the serving one first."""
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Key of the serving authority, 0600."""
        return self.directory / "ca.key"

    @property
    def next_ca(self) -> Path:
        """Certificate of the authority that is to follow."""
        return self.directory / "ca.next.pem"

    @property
    def next_ca_key(self) -> Path:
        """Its key, 0600."""
        return self.directory / "ca.next.key"

    @property
    def crl(self) -> Path:
        """Revocation lists, one of each authority; the broker reloads when they change."""
        return self.directory / "crl.pem"

    def certificate(self, name: str) -> Path:
        """Certificate of ``broker``, ``api`` or ``server``, the authority's behind it."""
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        """Key of ``broker``, ``api`` or ``server``, 0600."""
        return self.directory / f"{name}.key"

    @property
    def at_start(self) -> tuple[Path, ...]:
        """What running processes read only when they start."""
        return (self.ca, *(self.certificate(name) for name in ("broker", "api", "server")))


@dataclass(frozen=True, slots=True)
class Authority:
    """One authority: its key and its certificate."""

    key: EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def sha256(self) -> str:
        """Of the certificate's DER form, hex: what join strings pin and approvers list."""
        return self.certificate.fingerprint(SHA256()).hex()


class AuthorityFiles:
    """Reads and moves them; a process that runs follows what another one moved."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.files = CertificateFiles(directory)
        self._clock = clock
        self._stamp: object = None
        self._loaded: tuple[Authority, ...] = ()

    def exists(self) -> bool:
        """Tell whether there is an authority."""
        return self.files.ca.exists() and self.files.ca_key.exists()

    def create(self) -> None:
        """Make the first authority."""
        authority = make_authority(self._clock, FIRST_NAME)
        write_durable(self.files.ca_key, key_pem(authority.key), mode=0o600)
        write_durable(self.files.ca, authority.pem)

    def trusted(self) -> tuple[Authority, ...]:
        """Return the authorities of ``ca.pem`` whose keys are here, the serving one first.

        Raises:
            NotFoundError: There is none.
            FleetError: A file cannot be read, or no key fits.
        """
        files = self.files
        stamp = tuple(_stamp(path) for path in (files.ca, files.ca_key, files.next_ca_key))
        if self._loaded and stamp == self._stamp:
            return self._loaded
        try:
            certificates = x509.load_pem_x509_certificates(files.ca.read_bytes())
            keys = [_load_key(files.ca_key)]
            if files.next_ca_key.exists():
                keys.append(_load_key(files.next_ca_key))
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{error.filename} is missing: run `edgefleet init`, or restore the folder"
                " from a backup"
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise FleetError(f"{files.ca} or its key cannot be read: {error}") from error
        pairs = [
            (next((k for k in keys if k.public_key() == one.public_key()), None), one)
            for one in certificates
        ]
        self._loaded = tuple(Authority(key, one) for key, one in pairs if key is not None)
        if not self._loaded:
            raise FleetError(f"{files.ca_key} is not the key of {files.ca}; restore both")
        self._stamp = stamp
        return self._loaded

    def staged(self) -> Authority | None:
        """Return the authority that is to follow, whether or not it counts already."""
        files = self.files
        try:
            key = _load_key(files.next_ca_key)
            certificate = x509.load_pem_x509_certificate(files.next_ca.read_bytes())
        except (OSError, ValueError, TypeError, FleetError):
            return None
        fits = key.public_key() == certificate.public_key()
        return Authority(key, certificate) if fits else None

    def stage(self) -> Authority:
        """Make the authority that is to follow; one that an interrupted call left is replaced."""
        self.drop_staged()
        authority = make_authority(self._clock)
        write_durable(self.files.next_ca_key, key_pem(authority.key), mode=0o600)
        write_durable(self.files.next_ca, authority.pem)
        return authority

    def install(self) -> None:
        """Let the staged authority be trusted beside the serving one."""
        following, serving = self.staged(), self.trusted()[0]
        if following is not None and following.sha256 != serving.sha256:
            write_durable(self.files.ca, serving.pem + following.pem)

    def retire(self) -> None:
        """Let the staged authority be the only one, and destroy the key of the one before.

        May be cut anywhere and called again.
        """
        following = self.staged()
        if following is None:
            return
        write_durable(self.files.ca, following.pem)
        with self.files.ca_key.open("r+b") as former:
            size = len(former.read())
            write_durable(self.files.ca_key, key_pem(following.key), mode=0o600)
            former.seek(0)  # over the old bytes; disks that write elsewhere keep them all the same
            former.write(b"\0" * size)
            former.flush()
            os.fsync(former.fileno())
        self.drop_staged()

    def drop_staged(self) -> None:
        """Forget the authority that is to follow; only when ``ca.pem`` does not need its key."""
        self.files.next_ca_key.unlink(missing_ok=True)
        self.files.next_ca.unlink(missing_ok=True)
        sync_directory(self.files.directory)


def make_authority(clock: Clock, name: str = "") -> Authority:
    """Make a key and its own certificate; a name that is not given is one of its own."""
    key = generate_private_key(SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    subject = common_name(name or f"{FIRST_NAME} {identifier.digest.hex()[:16]}")
    now_at = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now_at - BACKDATE)
        .not_valid_after(now_at + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(is_ca=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, SHA256())
    )
    return Authority(key, certificate)


def common_name(name: str) -> x509.Name:
    """Give a name as certificates carry it."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Give a private key as it is stored."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_usage(*, is_ca: bool) -> x509.KeyUsage:
    """Say what a key is for: issuing, or its owner's connections."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise FleetError(f"{path} is not a P-256 key")
    return key


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino
