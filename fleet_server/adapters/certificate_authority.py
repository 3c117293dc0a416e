"""The fleet's own certificate authority: who may talk to the broker and the API.

A certificate never makes a package runnable; only approvers' signatures do. P-256 keys
throughout. The name in a device's certificate comes from the enrolment record, never from the
request. The revocation list is ``revocation_list.py``; keys on disk, also while one authority
follows another, are ``authority_files.py``.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_agent.contract.topics import check_device_id
from fleet_server.adapters.authority_files import (
    BACKDATE,
    Authority,
    AuthorityFiles,
    common_name,
    key_pem,
    key_usage,
)
from fleet_server.adapters.revocation_list import DEVICE_LIFE, RevocationListFile
from fleet_server.durable_files import write_durable
from fleet_server.errors import RefusedError
from fleet_server.ports.certificates import RevokedPair
from fleet_server.ports.clock import Clock
from fleet_server.ports.trust import IssuedCertificate

SERVER_LIFE, SERVER_RENEW_DAYS = timedelta(days=397), 30
PROBE, PROBE_LIFE = "revoked.probe", timedelta(hours=1)
"""No device has such an id: a dot is not allowed in one."""
CSR_BYTES_MAX = 8_192
LOCAL_HOSTS = ("127.0.0.1", "localhost")
SERVER_CLIENT = "server"


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
        self._authorities = AuthorityFiles(directory, clock)
        self.files = self._authorities.files
        self._clock, self._device_life = clock, device_life
        self._revocations = RevocationListFile(self.files.crl, self._issuers, clock)

    def create(
        self,
        hosts: Iterable[str],
        *,
        broker_hosts: Iterable[str] | None = None,
        is_newest: bool = False,
    ) -> None:
        """Make the authority, the server's certificates and a revocation list of today.

        What is there stays, except server certificates for other hosts or about to expire.

        Args:
            hosts: Names and addresses under which devices reach the server.
            broker_hosts: Those of a broker elsewhere, whose certificate then serves nowhere else.
            is_newest: Let the authority that is to follow issue them, and replace what the
                serving one issued.

        Raises:
            RefusedError: A host is neither a name nor an address.
        """
        if not self._authorities.exists():
            self._authorities.create()
        trusted = self._authorities.trusted()
        issuers = trusted[-1:] if is_newest else trusted
        of_broker = hosts if broker_hosts is None else broker_hosts
        self._ensure("broker", of_broker, ExtendedKeyUsageOID.SERVER_AUTH, issuers)
        self._ensure("api", hosts, ExtendedKeyUsageOID.SERVER_AUTH, issuers)
        self._ensure(SERVER_CLIENT, (), ExtendedKeyUsageOID.CLIENT_AUTH, issuers)
        self.refresh_crl()

    @property
    def ca_pem(self) -> bytes:
        """Certificate of the serving authority, PEM."""
        return self._authorities.trusted()[0].pem

    @property
    def ca_sha256(self) -> str:
        """Fingerprint that join strings pin: sha256 of the DER form, hex."""
        return self._authorities.trusted()[0].sha256

    def issue_device(
        self, csr_pem: bytes, device_id: str, *, authority: str = ""
    ) -> IssuedCertificate:
        """Issue a client certificate for the key of a request.

        Args:
            csr_pem: The request.
            device_id: The name in the certificate.
            authority: sha256 of the authority that shall issue it; the serving one does when that
                is none of ours.

        Raises:
            RefusedError: Too large, malformed, not signed by its own key, or not a P-256 key.
        """
        check_device_id(device_id)
        public_key = _read_request(csr_pem)
        trusted = self._authorities.trusted()
        issuer = next((one for one in trusted if one.sha256 == authority), trusted[0])
        certificate = self._issue(
            issuer, device_id, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, life=self._device_life
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
            self._authorities.trusted()[0],
            PROBE,
            key.public_key(),
            ExtendedKeyUsageOID.CLIENT_AUTH,
            life=PROBE_LIFE,
        )
        self._revocations.add(serials, probe=f"{certificate.serial_number:x}")
        return RevokedPair(certificate=certificate.public_bytes(Encoding.PEM), key=key_pem(key))

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

    # One authority after another ----------------------------------------------------------------

    def stage_authority(self) -> str:
        """Make the authority that is to follow, and its list; return its sha256. It counts nowhere.

        One that counts already is kept: its key has issued certificates.
        """
        trusted = self._authorities.trusted()
        if len(trusted) == 1:
            self._authorities.stage()
            self._revocations.add(())
        return self._issuers()[-1].sha256

    @property
    def authorities(self) -> tuple[str, ...]:
        """sha256 of the authorities that count here, newest first."""
        return tuple(one.sha256 for one in reversed(self._authorities.trusted()))

    def follow_authorities(self, listed: Sequence[str]) -> None:
        """Bring the files to what approvers list; may be cut anywhere and called again."""
        staged = self._authorities.staged()
        if staged is None or staged.sha256 not in listed:
            return
        if self._authorities.trusted()[0].sha256 in listed and len(listed) > 1:
            if staged.sha256 not in self.authorities:
                self._authorities.install()
            return
        self._authorities.retire()
        self._revocations.add(())

    def drop_staged_authority(self) -> None:
        """Forget an authority that was to follow and never came to count."""
        staged = self._authorities.staged()
        if staged is not None and staged.sha256 in self.authorities:
            return
        self._authorities.drop_staged()

    # Issuing ------------------------------------------------------------------------------------

    def _issuers(self) -> tuple[Authority, ...]:
        """Return whose revocation lists must be there: before an authority counts, its own too."""
        trusted, staged = self._authorities.trusted(), self._authorities.staged()
        known = {one.sha256 for one in trusted}
        return trusted if staged is None or staged.sha256 in known else (*trusted, staged)

    def _ensure(
        self,
        name: str,
        hosts: Iterable[str],
        usage: x509.ObjectIdentifier,
        issuers: Sequence[Authority],
    ) -> None:
        """Issue a certificate to the server itself unless the one there still serves."""
        wanted = sorted({*hosts, *LOCAL_HOSTS}) if usage == ExtendedKeyUsageOID.SERVER_AUTH else []
        if self._serves(name, wanted, issuers):
            return
        key = generate_private_key(SECP256R1())
        certificate = self._issue(
            issuers[0],
            name,
            key.public_key(),
            usage,
            life=SERVER_LIFE,
            hosts=[_host(h) for h in wanted],
        )
        write_durable(self.files.key(name), key_pem(key), mode=0o600)
        chain = certificate.public_bytes(Encoding.PEM) + issuers[0].pem
        write_durable(self.files.certificate(name), chain)

    def _serves(self, name: str, hosts: Sequence[str], issuers: Sequence[Authority]) -> bool:
        try:
            key = load_pem_private_key(self.files.key(name).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(self.files.certificate(name).read_bytes())
        except (OSError, ValueError):
            return False
        is_pair = key.public_key() == certificate.public_key()
        is_ours = any(_is_issued_by(certificate, one.certificate) for one in issuers)
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
        issuer: Authority,
        name: str,
        public_key: EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        *,
        life: timedelta,
        hosts: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        ca_key, ca = issuer.key, issuer.certificate
        now_at = self._clock.now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(ca.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now_at - min(BACKDATE, life / 10))
            .not_valid_after(now_at + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(is_ca=False), critical=True)
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


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


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


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise RefusedError(f"host {host[:80]!r} is neither a name nor an address") from error
