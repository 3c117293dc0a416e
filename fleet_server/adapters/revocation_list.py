"""The revocation lists on disk: what the broker reads to know whom to refuse.

There is one list of each authority that counts, behind each other in one file, and each names every
serial: serials are random, so who issued which need not be known.

Entries leave it once the certificates they name have expired. An expired list makes brokers refuse
*everybody*, so it holds thirty days and is written anew every day by the running server, and by
`edgefleet up` before it starts the broker. The truth behind it is the table of certificates
(``database/certificate_book.py``): a list that was lost or damaged is restored from there.
"""

import fcntl
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fleet_server.adapters.authority_files import Authority
from fleet_server.durable_files import write_durable
from fleet_server.errors import FleetError
from fleet_server.ports.clock import Clock

DEVICE_LIFE = timedelta(days=90)
CRL_LIFE = timedelta(days=30)
RENEW_AFTER = timedelta(days=1)
BACKDATE = timedelta(days=1)
ENTRY_KEPT = DEVICE_LIFE + timedelta(days=10)
PROBE_KEPT = timedelta(days=1)
"""A probe's certificate holds for an hour; its entry is dated back so that it leaves after this."""
_LOG = logging.getLogger(__name__)

_PEM = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\s*", re.DOTALL)


class RevocationListFile:
    """One list; several processes may change it, each under a lock beside it."""

    def __init__(
        self, path: Path, authorities: Callable[[], Sequence[Authority]], clock: Clock
    ) -> None:
        """Prepare; ``authorities`` gives those whose lists are to be there."""
        self._path, self._authorities, self._clock = path, authorities, clock

    @property
    def expires_at(self) -> datetime | None:
        """When brokers stop accepting it; None when there is none."""
        dates = [crl.next_update_utc for crl in self._load()]
        return min((at for at in dates if at is not None), default=None)

    def names(self, serial: str) -> bool:
        """Tell whether a serial is in it."""
        return int(serial, 16) in self._entries()

    def add(self, serials: Sequence[str], *, probe: str = "") -> None:
        """Write it anew with these serials added."""
        now_at = self._clock.now()
        with self._lock():
            self._write(self._entries(), serials, now_at, probe)

    def refresh(self) -> bool:
        """Write it anew when it is a day old; tell whether it was."""
        crls = self._load()
        if crls and {crl.issuer for crl in crls} == self._issuers():
            written_at = min(crl.last_update_utc for crl in crls) + BACKDATE
            if written_at <= self._clock.now() < written_at + RENEW_AFTER:
                return False
        self.add(())
        return True

    def restore(self, serials: Sequence[str]) -> bool:
        """Let it name every one of these, whatever became of the file; tell of a change."""
        with self._lock():
            try:
                entries = self._entries()
                is_there = bool(self._load())
            except FleetError as error:
                aside = self._path.with_name(self._path.name + ".damaged")
                self._path.replace(aside)
                _LOG.error("%s; moved to %s and written anew", error, aside)
                entries, is_there = {}, False
            if is_there and all(int(serial, 16) in entries for serial in serials):
                return False
            self._write(entries, serials, self._clock.now(), "")
            return True

    def _write(
        self, known: dict[int, datetime], serials: Sequence[str], now_at: datetime, probe: str
    ) -> None:
        entries = {number: at for number, at in known.items() if at > now_at - ENTRY_KEPT}
        for serial in serials:
            entries.setdefault(int(serial, 16), now_at)
        if probe:
            entries[int(probe, 16)] = now_at - ENTRY_KEPT + PROBE_KEPT
        lists = [_sign(authority, entries, now_at) for authority in self._authorities()]
        write_durable(self._path, b"".join(lists))

    def _load(self) -> list[x509.CertificateRevocationList]:
        try:
            data = self._path.read_bytes()
            crls = [x509.load_pem_x509_crl(pem) for pem in _PEM.findall(data)]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise FleetError(f"{self._path} cannot be read: {error}") from error
        if not crls:
            raise FleetError(f"{self._path} cannot be read: it holds no revocation list")
        return crls

    def _issuers(self) -> set[x509.Name]:
        return {authority.certificate.subject for authority in self._authorities()}

    def _entries(self) -> dict[int, datetime]:
        return {e.serial_number: e.revocation_date_utc for crl in self._load() for e in crl}

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with (self._path.parent / "crl.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _sign(authority: Authority, entries: Mapping[int, datetime], now_at: datetime) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now_at - BACKDATE)
        .next_update(now_at + CRL_LIFE)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .add_extension(x509.CRLNumber(int(now_at.timestamp() * 1_000)), critical=False)
    )
    for number, at in sorted(entries.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, SHA256()).public_bytes(Encoding.PEM)
