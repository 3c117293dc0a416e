"""The TUF client of one device: python-tuf's own ``Updater``, fed from bytes that have arrived.

Follows ``targets``, or ``targets`` to ``approved`` to a hash bin, for the paths it is asked for.
The approvers sign in ``targets`` which version of each bin goes with it, so an old bin is found
out even when a stolen server key vouches for it.
What it found is remembered by path until other metadata arrives or a date runs out: small enough
for a thousand devices in a process. Nothing of it is state of the agent; python-tuf's metadata
directory alone outlives a call.

Not thread-safe, and one process for a directory: the agent's lock sees to both.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import (
    Metadata,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.contract.authorities import AUTHORITIES_FIELD, read_authorities
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.metadata import APPROVED_ROLE, ROLE_FIELD, is_bin_file
from edge_agent.core.verified import EARLIEST_AT
from edge_agent.errors import Refusal

TARGETS_BYTES_MAX = 5_000_000
ISSUED_FIELD = "x-issued"
"""Date in ``targets`` that the approvers sign; the only one that may raise the time floor."""
VERSIONS_FIELD = "x-versions"
"""In ``targets``: the version of ``approved`` and, in order, of each bin that goes with it."""
_TIMESTAMP = "timestamp.json"
_URL = "memory:"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_CODES: tuple[tuple[type[Exception], Code], ...] = (
    (tuf_errors.ExpiredMetadataError, Code.TUF_EXPIRED),
    (tuf_errors.BadVersionNumberError, Code.TUF_ROLLBACK),
    (tuf_errors.UnsignedMetadataError, Code.TUF_SIGNATURE),
    (tuf_errors.LengthOrHashMismatchError, Code.TUF_HASH),
    (tuf_errors.DownloadLengthMismatchError, Code.TUF_SIZE),
    (tuf_errors.DownloadError, Code.TUF_MISSING),
    (tuf_errors.RepositoryError, Code.TUF_FORMAT),
)
"""In this order: the last two are parents of those above them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What verified metadata says of one path.

    Attributes:
        target: As signed, None when nobody signed that path.
        valid_until_at: When the metadata that says so expires.
    """

    target: TargetFile | None
    valid_until_at: datetime


@dataclass(slots=True, kw_only=True)
class TrustedMetadata:
    """Metadata that passed; grows with the paths that are looked up in it.

    Attributes:
        files_sha256: Over the files without the bins; these fix the bins by version.
        valid_until_at: When the first of the roles expires, bins apart.
        versions: By role, bins apart.
        issued_at: Newest date the approvers signed.
        delegator: ``targets`` without its targets: whom the approvers delegate to.
        flat: Paths that ``targets`` itself names, when it also delegates to bins.
        signed_versions: ``x-versions``; None when the approvers signed none.
        authorities: ``x-authorities``: whose certificates this device may trust, newest first.
        bins: How paths are spread over hash bins; None without bins, or before the first look-up.
        found: By path.
    """

    files_sha256: bytes
    valid_until_at: datetime
    versions: dict[str, int]
    issued_at: datetime
    delegator: Targets
    flat: frozenset[str]
    signed_versions: Any
    authorities: tuple[str, ...] = ()
    bins: SuccinctRoles | None = None
    found: dict[str, Found] = field(default_factory=dict)

    @property
    def has_bins(self) -> bool:
        """Whether packages are delegated to bins."""
        delegations = self.delegator.delegations
        return delegations is not None and APPROVED_ROLE in (delegations.roles or {})

    def bin_of(self, path: str) -> str | None:
        """Return the hash bin that speaks for a path, None when none is known to."""
        if self.bins is None or path in self.flat:
            return None
        return self.bins.get_role_for_target(path)


class TufClient:
    """Verifies metadata and looks paths up in it.

    Attributes:
        trusted: What passed last; None when nothing did, or when what came after did not.
    """

    def __init__(self, directory: Path, bootstrap_root: bytes) -> None:
        """Prepare.

        Args:
            directory: For python-tuf's trusted metadata; made when missing, one for each device.
            bootstrap_root: The root pinned at enrolment.
        """
        self._directory, self._root = directory, bootstrap_root
        self.trusted: TrustedMetadata | None = None
        self._waiting: MetadataSession | None = None
        """Has verified all but a bin on its way; what it loaded need not be loaded twice."""

    def open(self, files: Mapping[str, bytes], now_at: datetime) -> "MetadataSession":
        """Verify the files, unless the same ones passed and no date has run out since.

        Raises:
            Refusal: With the code of the first check that failed.
        """
        core = {name: data for name, data in files.items() if not is_bin_file(name)}
        digest = digest_files(core)
        last, waiting = self.trusted, self._waiting
        self._waiting = None
        session = MetadataSession(self, self._directory, self._root, files, now_at)
        if last is None or last.files_sha256 != digest or now_at >= last.valid_until_at:
            # Other files move what is trusted: what passed before must not pass unchecked.
            self.trusted = None
            last = session.verify(digest)
        elif waiting is not None and waiting.trusted is last:
            session = waiting
            session.go_on(files, now_at)
        self.trusted = session.trusted = last
        return session

    def keep_waiting(self, session: "MetadataSession") -> None:
        """Keep a session whose bin has not arrived, until the next call of ``open``."""
        self._waiting = session

    def stored_files(self) -> Mapping[str, bytes]:
        """Return the timestamp that is trusted already; the rest is read where it lies."""
        try:
            return {_TIMESTAMP: (self._directory / _TIMESTAMP).read_bytes()}
        except OSError:
            return {}


class MetadataSession:
    """One set of files; at most one run of the TUF workflow over them."""

    trusted: TrustedMetadata

    def __init__(
        self,
        client: TufClient,
        directory: Path,
        root: bytes,
        files: Mapping[str, bytes],
        now_at: datetime,
    ) -> None:
        self._client, self._directory, self._root, self._now_at = client, directory, root, now_at
        self._files = ReceivedFiles(files)
        self._updater: Updater | None = None

    def go_on(self, files: Mapping[str, bytes], now_at: datetime) -> None:
        """Look at the same metadata with the bins that have arrived since."""
        self._files.received, self._now_at = files, now_at
        if self._updater is not None:
            set_reference_time(self._updater, now_at)

    def verify(self, digest: bytes) -> TrustedMetadata:
        """Verify the top-level roles; raises Refusal."""
        with self._told_as_refusal():
            self._run()
            # Verified and written just now; python-tuf gives no other public way to read it.
            versions, dates = {}, []
            for role in (Root.type, Timestamp.type, Snapshot.type):
                # A snapshot of hash bins is long: two of its fields are all that is wanted.
                signed = json.loads(self._read(role))["signed"]
                versions[role] = signed["version"]
                dates.append(datetime.fromisoformat(signed["expires"]))
            targets = Metadata[Targets].from_bytes(self._read(Targets.type)).signed
        self._check_name(Targets.type, targets)
        versions[Targets.type] = targets.version
        trusted = TrustedMetadata(
            files_sha256=digest,
            valid_until_at=min(targets.expires, *dates),
            versions=versions,
            issued_at=_issued_at(targets),
            delegator=Targets(
                version=targets.version, expires=targets.expires, delegations=targets.delegations
            ),
            flat=frozenset(),
            signed_versions=targets.unrecognized_fields.get(VERSIONS_FIELD),
            authorities=_authorities_of(targets),
        )
        if trusted.has_bins:
            trusted.flat = frozenset(targets.targets)
        return trusted

    def find(self, path: str) -> TargetFile | None:
        """Return what is signed for a path, None when verified metadata does not name it.

        Raises:
            Refusal: Metadata that would tell is missing (``TUF_MISSING``), expired or wrong.
        """
        trusted = self.trusted
        known = trusted.found.get(path)
        if known is None or self._now_at >= known.valid_until_at:
            with self._told_as_refusal():
                known = self._look_up(path)
            trusted.found[path] = known
        return known.target

    def _look_up(self, path: str) -> Found:
        trusted, updater = self.trusted, self._updater or self._run()
        has_passed_approved = False
        try:
            target = updater.get_targetinfo(path)
            has_passed_approved = True
        finally:
            # A bin is asked for only once ``approved`` has passed.
            if has_passed_approved or is_bin_file(self._files.asked):
                self._take_bins()
        until_at = trusted.valid_until_at
        if (role := trusted.bin_of(path)) is not None:
            signed = Metadata[Targets].from_bytes(self._read(role)).signed
            self._check_name(role, signed)
            _check_version(trusted, role, signed.version)
            until_at = min(until_at, signed.expires)
        return Found(target=target, valid_until_at=until_at)

    def _take_bins(self) -> None:
        trusted = self.trusted
        if not trusted.has_bins or trusted.bins is not None:
            return
        approved = Metadata[Targets].from_bytes(self._read(APPROVED_ROLE)).signed
        self._check_name(APPROVED_ROLE, approved)
        _check_version(trusted, APPROVED_ROLE, approved.version)
        trusted.bins = approved.delegations.succinct_roles if approved.delegations else None
        trusted.versions[APPROVED_ROLE] = approved.version
        trusted.valid_until_at = min(trusted.valid_until_at, approved.expires)

    def _check_name(self, role: str, signed: Targets) -> None:
        """Refuse one role's file in the place of another, which the same keys have signed."""
        name = signed.unrecognized_fields.get(ROLE_FIELD)
        if name == role or (name is None and role == Targets.type):
            return
        # python-tuf has kept it as good; the right one of the same version must find room.
        (self._directory / f"{role}.json").unlink()
        self._updater = None
        raise Refusal(Code.TUF_FORMAT, f"{role} was signed as {name!r:.40}")

    def _run(self) -> Updater:
        """Run the TUF client workflow over the files."""
        self._directory.mkdir(parents=True, exist_ok=True)
        updater = Updater(
            metadata_dir=str(self._directory),
            metadata_base_url=_URL,
            fetcher=self._files,
            config=UpdaterConfig(targets_max_length=TARGETS_BYTES_MAX),
            bootstrap=self._root,
        )
        set_reference_time(updater, self._now_at)
        updater.refresh()
        self._updater = updater
        return updater

    def _read(self, role: str) -> bytes:
        return (self._directory / f"{role}.json").read_bytes()

    @contextmanager
    def _told_as_refusal(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            code = Code.DISK_FULL if error.errno in _NO_SPACE else Code.DISK_ERROR
            raise Refusal(code, f"{self._directory}: {error.strerror or error}") from error
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
            code = next(code for kind, code in _CODES if isinstance(error, kind))
            if code is Code.TUF_MISSING and self._updater is not None:
                self._client.keep_waiting(self)
            words = str(error)[:400]
            if code is Code.TUF_EXPIRED:
                words += f"; it is taken to be {self._now_at:%Y-%m-%d %H:%M} UTC"
            raise Refusal(code, words) from error


def set_reference_time(updater: Updater, now_at: datetime) -> None:
    """Tell python-tuf the time; must come before ``refresh``.

    The only use of a private attribute: 7.0.1 has no public way, and devices without a battery
    clock need the floor. ``test_trust_reference_time`` guards that it exists and has effect.
    """
    updater._trusted_set.reference_time = now_at  # noqa: SLF001 - see the docstring


class ReceivedFiles(FetcherInterface):
    """Hands python-tuf the files of messages; what is not there is "not found".

    Attributes:
        received: By name.
        asked: Name of the last file that was asked for.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.received = files
        self.asked = ""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.asked = name = url.rsplit("/", 1)[-1]
        data = self.received.get(name)
        if data is None:
            # 404 also means "there is no newer root" to the Updater.
            raise tuf_errors.DownloadHTTPError(f"{name} has not arrived", 404)
        return iter((data,))


def digest_files(files: Mapping[str, bytes]) -> bytes:
    """Return one sha256 over names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.digest()


def _authorities_of(targets: Targets) -> tuple[str, ...]:
    try:
        return read_authorities(targets.unrecognized_fields.get(AUTHORITIES_FIELD))
    except ContractError as error:
        raise Refusal(Code.TUF_FORMAT, str(error)) from error


def _issued_at(targets: Targets) -> datetime:
    text = targets.unrecognized_fields.get(ISSUED_FIELD)
    try:
        issued_at = datetime.fromisoformat(text) if text is not None else EARLIEST_AT
    except (TypeError, ValueError) as error:
        raise Refusal(Code.TUF_FORMAT, f"targets: {ISSUED_FIELD} {text!r:.60}") from error
    if issued_at.tzinfo is None:
        raise Refusal(Code.TUF_FORMAT, f"targets: {ISSUED_FIELD} {text!r:.60} says no time zone")
    return issued_at


def _check_version(trusted: TrustedMetadata, role: str, version: int) -> None:
    """Hold a delegated role to the version the approvers signed beside ``targets``."""
    if trusted.signed_versions is None:
        return
    try:
        if role == APPROVED_ROLE:
            signed = trusted.signed_versions[role]
        else:
            prefix, _, number = role.rpartition("-")
            signed = trusted.signed_versions[prefix][int(number, 16)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        detail = f"targets: {VERSIONS_FIELD} has no version of {role}"
        raise Refusal(Code.TUF_FORMAT, detail) from error
    if version != signed:
        detail = f"{role} is version {version}, the approvers signed {signed!r:.20} with targets"
        raise Refusal(Code.TUF_ROLLBACK, detail)
