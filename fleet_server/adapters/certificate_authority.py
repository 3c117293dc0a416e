"""The fleet's own certificate authority: who may talk to the broker and the API.

A certificate never makes a package runnable; only approvers' signatures do. P-256 keys
throughout. The name in a device's certificate comes from the enrolment record, never from the
request. The revocation list is ``revocation_list.py``.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.contract.topics import check_device_id
from fleet_server.adapters.revocation_list import DEVICE_LIFE, RevocationListFile
from fleet_server.durable_files import write_durable
from fleet_server.errors import FleetError, NotFoundError, RefusedError
from fleet_server.ports.certificates import RevokedPair
from fleet_server.ports.clock import Clock
from fleet_server.ports.trust import IssuedCertificate

CA_DAYS = 3_650
SERVER_LIFE, SERVER_RENEW_DAYS = timedelta(days=397), 30
BACKDATE = timedelta(days=1)
"""Certificates hold from a day ago at most, for devices whose clock is late."""
PROBE, PROBE_LIFE = "revoked.probe", timedelta(hours=1)
"""No device has such an id: a dot is not allowed in one."""
CSR_BYTES_MAX = 8_192
LOCAL_HOSTS = ("127.0.0.1", "localhost")
SERVER_CLIENT = "server"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the authority keeps what the broker, the API and the workers open."""

    directory: Path

    @property
    def ca(self) -> Path:
        """Certificate of the authority."""
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Key of the authority, 0600."""
        return self.directory / "ca.key"

    @property
    def crl(self) -> Path:
        """Revocation list; the broker reloads when it changes."""
        return self.directory / "crl.pem"

    def certificate(self, name: str) -> Path:
        """Certificate of ``broker``, ``api`` or ``server``, the authority's behind it."""
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        """Key of ``broker``, ``api`` or ``server``, 0600."""
        return self.directory / f"{name}.key"


class CertificateAuthority:
    """The ``CertificateIssuer`` of a workspace."""

    def __init__(
        self, directory: Path, clock: Clock, *, device_life: timedelta = DEVICE_LIFE
    ) -> None:
        """Prepare; files are read when they are needed.

        Args:
            directory: Where the authority's files are.
            clock: Time of day.
            device_life: How long a device's certificate holds.
        """
        self.files = CertificateFiles(directory)
        self._clock, self._device_life = clock, device_life
        self._revocations = RevocationListFile(self.files.crl, self._authority, clock)
        self._loaded: tuple[EllipticCurvePrivateKey, x509.Certificate] | None = None

    def create(self, hosts: Iterable[str], *, broker_hosts: Iterable[str] | None = None) -> None:
        """Make the authority, the server's certificates and a revocation list of today.

        What is there stays, except server certificates for other hosts or about to expire.

        Args:
            hosts: Names and addresses under which devices reach the server.
            broker_hosts: Those of a broker elsewhere, whose certificate then serves nowhere else.

        Raises:
            RefusedError: A host is neither a name nor an address.
        """
        if not (self.files.ca.exists() and self.files.ca_key.exists()):
            self._create_authority()
        of_broker = hosts if broker_hosts is None else broker_hosts
        self._ensure("broker", of_broker, ExtendedKeyUsageOID.SERVER_AUTH)
        self._ensure("api", hosts, ExtendedKeyUsageOID.SERVER_AUTH)
        self._ensure(SERVER_CLIENT, (), ExtendedKeyUsageOID.CLIENT_AUTH)
        self.refresh_crl()

    @property
    def ca_pem(self) -> bytes:
        """Certificate of the authority, PEM."""
        return self._authority()[1].public_bytes(Encoding.PEM)

    @property
    def ca_sha256(self) -> str:
        """Fingerprint that join strings pin: sha256 of the DER form, hex."""
        return self._authority()[1].fingerprint(SHA256()).hex()

    def issue_device(self, csr_pem: bytes, device_id: str) -> IssuedCertificate:
        """Issue a client certificate for the key of a request.

        Raises:
            RefusedError: Too large, malformed, not signed by its own key, or not a P-256 key.
        """
        check_device_id(device_id)
        public_key = _read_request(csr_pem)
        certificate = self._issue(
            device_id, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, life=self._device_life
        )
        return IssuedCertificate(
            pem=certificate.public_bytes(Encoding.PEM),
            serial=f"{certificate.serial_number:x}",
            expires_at=certificate.not_valid_after_utc,
            key_sha256=_hash_key(public_key),
        )

    def read_key(self, csr_pem: bytes) -> str:
        """Return the sha256 of the public key of a request, hex; raises as ``issue_device``."""
        return _hash_key(_read_request(csr_pem))

    def revoke(self, serials: Sequence[str]) -> None:
        """Write the revocation list anew with these serials added."""
        self._revocations.add(serials)

    def revoke_probe(self, serials: Sequence[str]) -> RevokedPair:
        """Add serials and, in the same list, a certificate made for this.

        Whoever refuses that certificate has read this list, or a later one.
        """
        key = generate_private_key(SECP256R1())
        certificate = self._issue(
            PROBE, key.public_key(), ExtendedKeyUsageOID.CLIENT_AUTH, life=PROBE_LIFE
        )
        self._revocations.add(serials, probe=f"{certificate.serial_number:x}")
        return RevokedPair(certificate=certificate.public_bytes(Encoding.PEM), key=_key_pem(key))

    def is_revoked(self, serial: str) -> bool:
        """Tell whether the list names a serial."""
        return self._revocations.names(serial)

    def refresh_crl(self) -> bool:
        """Write the list anew when it is a day old; tell whether it was."""
        return self._revocations.refresh()

    def restore_crl(self, serials: Sequence[str]) -> bool:
        """Let the list name every one of these, whatever became of the file; tell of a change."""
        return self._revocations.restore(serials)

    @property
    def crl_expires_at(self) -> datetime | None:
        """When brokers stop accepting the list, and everybody; None when there is none."""
        return self._revocations.expires_at

    # Issuing ------------------------------------------------------------------------------------

    def _create_authority(self) -> None:
        key = generate_private_key(SECP256R1())
        name = _name("edgefleet CA")
        now_at = self._clock.now()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now_at - BACKDATE)
            .not_valid_after(now_at + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, SHA256())
        )
        write_durable(self.files.ca_key, _key_pem(key), mode=0o600)
        write_durable(self.files.ca, certificate.public_bytes(Encoding.PEM))
        self._loaded = None

    def _ensure(self, name: str, hosts: Iterable[str], usage: x509.ObjectIdentifier) -> None:
        """Issue a certificate to the server itself unless the one there still serves."""
        wanted = sorted({*hosts, *LOCAL_HOSTS}) if usage == ExtendedKeyUsageOID.SERVER_AUTH else []
        if self._serves(name, wanted):
            return
        key = generate_private_key(SECP256R1())
        certificate = self._issue(
            name, key.public_key(), usage, life=SERVER_LIFE, hosts=[_host(h) for h in wanted]
        )
        write_durable(self.files.key(name), _key_pem(key), mode=0o600)
        chain = certificate.public_bytes(Encoding.PEM) + self.ca_pem
        write_durable(self.files.certificate(name), chain)

    def _serves(self, name: str, hosts: Sequence[str]) -> bool:
        try:
            key = load_pem_private_key(self.files.key(name).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(self.files.certificate(name).read_bytes())
        except (OSError, ValueError):
            return False
        is_pair = key.public_key() == certificate.public_key()
        is_ours = certificate.issuer == self._authority()[1].subject
        lasts = certificate.not_valid_after_utc > self._clock.now() + timedelta(
            days=SERVER_RENEW_DAYS
        )
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            covered = {str(name.value) for name in names.value}
        except x509.ExtensionNotFound:
            covered = set()
        return is_pair and is_ours and lasts and set(hosts) <= covered

    def _issue(
        self,
        name: str,
        public_key: EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        *,
        life: timedelta,
        hosts: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        ca_key, ca = self._authority()
        now_at = self._clock.now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(ca.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now_at - min(BACKDATE, life / 10))
            .not_valid_after(now_at + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(ca_key, SHA256())

    def _authority(self) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
        if self._loaded is None:
            try:
                key = load_pem_private_key(self.files.ca_key.read_bytes(), None)
                certificate = x509.load_pem_x509_certificate(self.files.ca.read_bytes())
            except FileNotFoundError as error:
                raise NotFoundError(
                    f"{error.filename} is missing: run `edgefleet init`, or restore the folder"
                    " from a backup"
                ) from error
            except (OSError, ValueError) as error:
                raise FleetError(f"{self.files.ca_key} cannot be read: {error}") from error
            if not isinstance(key, EllipticCurvePrivateKey):
                raise FleetError(f"{self.files.ca_key} is not a P-256 key")
            self._loaded = key, certificate
        return self._loaded


def _read_request(csr_pem: bytes) -> EllipticCurvePublicKey:
    if len(csr_pem) > CSR_BYTES_MAX:
        raise RefusedError(
            f"certificate request has {len(csr_pem)} bytes, the limit is {CSR_BYTES_MAX}"
        )
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise RefusedError(f"certificate request cannot be read: {error}") from error
    if not is_signed:
        raise RefusedError("certificate request is not signed by its own key")
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise RefusedError("certificate request has another kind of key; make a P-256 key")
    return key


def _hash_key(key: EllipticCurvePublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise RefusedError(f"host {host[:80]!r} is neither a name nor an address") from error


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
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
