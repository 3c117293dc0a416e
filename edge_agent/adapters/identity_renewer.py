"""The device's next key and certificate on disk; survives a kill at any file-system call.

Key and certificate are two files, so a pair is replaced as a pair: two names take turns
(``identity_store.PAIRS``), ``identity.json`` says which one counts, and its replacement is the
commit. Until then nothing of the pair in use is touched. A new key is durable before it is shown to
anybody, so an answer that comes after a power cut still finds it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from edge_agent.adapters.device_keys import (
    find_certificate_problem,
    find_issuer,
    key_pem,
    load_key,
    make_key,
    make_request,
)
from edge_agent.adapters.files import read_file, remove_durable, remove_file, write_durable
from edge_agent.adapters.identity_store import other_ca, other_pair, save_facts, save_problem
from edge_agent.contract.authorities import split_bundle
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.core.renewal_plan import CertificateFacts
from edge_agent.errors import EnrolmentError, StorageError
from edge_agent.ports import Clock, Identity

_LOG = logging.getLogger(__name__)


class FileIdentityRenewer:
    """The ``IdentityRenewer`` over the identity folder; its jobs run one after another."""

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        *,
        on_renewed: Callable[[Identity], None],
        on_trusted: Callable[[Identity], None] = lambda _: None,
    ) -> None:
        """Read the certificate in use and clear away what a power cut left of the one before.

        Args:
            identity: In use now.
            clock: For the note about problems.
            on_renewed: Called in the job's thread once a new identity is durable.
            on_trusted: Likewise once other authorities are trusted.

        Raises:
            StorageError: The certificate cannot be read.
        """
        self._identity, self._clock = identity, clock
        self._on_renewed, self._on_trusted = on_renewed, on_trusted
        self._facts = read_facts(identity)
        self._lock = threading.Lock()
        self._clear_leftover()

    @property
    def facts(self) -> CertificateFacts:
        """What the certificate in use says."""
        return self._facts

    def prepare(self) -> str:
        """Make the next key durable, or take up the one that was made; return a request, PEM."""
        spare = self._spare()
        if spare.certificate_path.exists():  # a former key must not be asked for again
            _remove_pair(spare)
        key = load_key(read_file(spare.key_path))
        if key is None:
            key = make_key()
            write_durable(spare.key_path, key_pem(key))
        return make_request(key, self._identity.device_id).decode()

    def accept(self, certificate: str) -> CertificateFacts:
        """Check a certificate, make it and its key the identity, and let the link use it."""
        with self._lock:
            spare, pem = self._spare(), certificate.encode()
            key = load_key(read_file(spare.key_path))
            if key is None:
                raise EnrolmentError("a certificate came for a key that is not here any more")
            ca_pem = read_file(self._identity.ca_path) or b""
            problem = find_certificate_problem(pem, ca_pem, key, self._identity.device_id)
            if problem:
                raise EnrolmentError(f"the server's new certificate was not accepted: {problem}")
            write_durable(spare.certificate_path, pem)
            save_facts(spare)
            self._identity, self._facts = spare, read_facts(spare)
            self._on_renewed(spare)
            self._clear_leftover()
            save_problem(spare, "", at=self._clock.now())
            return self._facts

    def follow_authorities(self, listed: tuple[str, ...], bundle: bytes) -> CertificateFacts:
        """Trust exactly the authorities that are listed, as far as their certificates are here.

        The file of what is trusted is replaced in one go; the next connection trusts it. Where
        approvers list none, what was trusted at joining stays. Of a bundle with a certificate that
        nobody listed nothing is taken.
        """
        with self._lock:
            trusted = _split(read_file(self._identity.ca_path) or b"")
            received = _split(bundle)
            strange = [one for one in received if one not in (*listed, *trusted)]
            here = trusted if strange else {**received, **trusted}
            wanted = {one: here[one] for one in listed if one in here}
            if listed and not wanted and not strange:
                raise EnrolmentError(f"authority {listed[0]} is listed, its certificate is missing")
            if wanted and list(wanted) != list(trusted):
                write_durable(self._identity.ca_path, b"".join(wanted.values()))
                self._facts = read_facts(self._identity)
                self._on_trusted(self._identity)
            if strange:
                raise EnrolmentError(
                    f"a certificate authority that no approver listed: sha256 {strange[0]}"
                )
            return self._facts

    def note_problem(self, problem: str) -> None:
        """Keep for `edge-agent status` why renewal does not get on; empty when it does."""
        save_problem(self._identity, problem, at=self._clock.now())

    def _spare(self) -> Identity:
        return replace(self._identity, pair=other_pair(self._identity.pair))

    def _clear_leftover(self) -> None:
        """Remove a spare pair that has a certificate: it was replaced, or never came to count.

        Authorities that joining another fleet left behind go with it.
        """
        spare = self._spare()
        try:
            remove_file(replace(spare, ca=other_ca(spare.ca)).ca_path)
            if spare.certificate_path.exists():
                _remove_pair(spare)
        except StorageError as error:
            _LOG.warning("a former key stays on disk: %s", error)


def _remove_pair(spare: Identity) -> None:
    """The certificate goes last: while it is there, the pair is known to be one of before."""
    remove_durable(spare.key_path)
    remove_file(spare.certificate_path)


def read_facts(identity: Identity) -> CertificateFacts:
    """Read what the certificate in use says; raises StorageError."""
    certificate_pem = read_file(identity.certificate_path) or b""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise StorageError(
            Code.DISK_ERROR, f"the device's certificate cannot be read: {error}"
        ) from error
    try:
        authorities = x509.load_pem_x509_certificates(read_file(identity.ca_path) or b"")
    except ValueError:  # said where it is used: at the next connection
        authorities = []
    issuer = find_issuer(certificate, authorities)
    return CertificateFacts(
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        authority=_hash(issuer) if issuer is not None else "",
        newest=_hash(authorities[0]) if authorities else "",
    )


def _hash(authority: x509.Certificate) -> str:
    return authority.fingerprint(SHA256()).hex()


def _split(bundle: bytes) -> dict[str, bytes]:
    try:
        return split_bundle(bundle)
    except ContractError as error:
        raise EnrolmentError(str(error)) from error
