"""Verify metadata and assignment with python-tuf, fed from bytes that have already arrived.

The approvers' signature over ``targets`` is what makes a package runnable; the director, a
delegation inside ``targets``, only says which approved package runs where. Nothing outlives a
call but python-tuf's metadata directory: counters and floors are returned for the agent to
commit with its slots.

Not here: fetching packages, fitness of the device, hash bins (all targets are in ``targets``).
Not thread-safe, and one process for a directory: the agent's lock sees to both.
"""

import errno
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.contract.assignment import (
    DIRECTOR_ROLE,
    ENVELOPE_BYTES_MAX,
    PAYLOAD_TYPE,
    Assignment,
    target_path,
)
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError, TooLargeError
from edge_agent.contract.fields import Fields, parse_object
from edge_agent.contract.package import TargetCustom
from edge_agent.core.verified import (
    EARLIEST_AT,
    AcceptedTrust,
    VerifiedAssignment,
    VerifiedTarget,
)
from edge_agent.errors import Refusal
from edge_agent.ports import Clock

TARGETS_BYTES_MAX = 5_000_000
SIGNATURES_MAX = 16
ISSUED_FIELD = "x-issued"
"""Date in ``targets`` that the approvers sign; the only one that may raise the time floor."""
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
class _Refreshed:
    """What is remembered of the last metadata that passed; small, for a thousand in a process."""

    files_sha256: bytes
    targets_sha256: bytes
    valid_until_at: datetime
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluated:
    """The last evaluation that passed."""

    files_sha256: bytes
    envelope_sha256: str
    accepted: AcceptedTrust
    valid_until_at: datetime
    verified: VerifiedAssignment


class TufVerifier:
    """The ``AssignmentVerifier`` of real devices.

    Args:
        directory: For python-tuf's trusted metadata; made when missing, one for each device.
        bootstrap_root: The root pinned at enrolment.
        device_id: This device.
        fleet: Its fleet.
        profile: Its profile.
        clock: Time of day.
    """

    def __init__(
        self,
        *,
        directory: Path,
        bootstrap_root: bytes,
        device_id: str,
        fleet: str,
        profile: str,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._root = bootstrap_root
        self._device_id = device_id
        self._fleet = fleet
        self._profile = profile
        self._clock = clock
        self._refreshed: _Refreshed | None = None
        self._evaluated: _Evaluated | None = None

    def evaluate(
        self, files: Mapping[str, bytes], envelope: bytes, accepted: AcceptedTrust
    ) -> VerifiedAssignment:
        """Verify everything; the same bytes again cost next to nothing until a date runs out.

        Raises:
            Refusal: With the code of the first check that failed.
        """
        if len(envelope) > ENVELOPE_BYTES_MAX:
            detail = f"{len(envelope)} bytes, the limit is {ENVELOPE_BYTES_MAX}"
            raise Refusal(Code.ASSIGN_SIZE, detail)
        now_at = max(self._clock.now(), accepted.time_floor_at)
        files_sha256 = _digest_files(files)
        envelope_sha256 = hashlib.sha256(envelope).hexdigest()
        last = self._evaluated
        if (
            last is not None
            and (last.files_sha256, last.envelope_sha256) == (files_sha256, envelope_sha256)
            and accepted in (last.accepted, last.verified.accepted)
            and now_at < last.valid_until_at
        ):
            return last.verified

        refreshed, targets = self._trusted_targets(files, files_sha256, now_at)
        held = _apply_targets(accepted, targets)
        assignment = self._check_assignment(envelope, envelope_sha256, targets, held)
        verified = VerifiedAssignment(
            assignment=assignment,
            targets={
                slot: self._check_target(slot, wanted.target, targets)
                for slot, wanted in assignment.slots.items()
            },
            accepted=_advance(held, assignment, envelope_sha256),
            metadata=refreshed.versions,
        )
        self._evaluated = _Evaluated(
            files_sha256=files_sha256,
            envelope_sha256=envelope_sha256,
            accepted=accepted,
            valid_until_at=min(refreshed.valid_until_at, assignment.expires_at),
            verified=verified,
        )
        return verified

    # Metadata -----------------------------------------------------------------------------------

    def _trusted_targets(
        self, files: Mapping[str, bytes], files_sha256: bytes, now_at: datetime
    ) -> tuple[_Refreshed, Targets]:
        last = self._refreshed
        if (
            last is not None
            and last.files_sha256 == files_sha256
            and now_at < last.valid_until_at
            and (data := self._read_trusted(Targets.type)) is not None
            and hashlib.sha256(data).digest() == last.targets_sha256
        ):
            return last, Metadata[Targets].from_bytes(data).signed
        # Other files move what is trusted: what passed before must not pass again unchecked.
        self._refreshed = self._evaluated = None
        try:
            refreshed, targets = self._refresh(files, files_sha256, now_at)
        except OSError as error:
            code = Code.DISK_FULL if error.errno in _NO_SPACE else Code.DISK_ERROR
            raise Refusal(code, f"{self._directory}: {error.strerror or error}") from error
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
            code = next(code for kind, code in _CODES if isinstance(error, kind))
            raise Refusal(code, str(error)[:400]) from error
        self._refreshed = refreshed
        return refreshed, targets

    def _refresh(
        self, files: Mapping[str, bytes], files_sha256: bytes, now_at: datetime
    ) -> tuple[_Refreshed, Targets]:
        """Run the TUF client workflow over the files, then read back what it now trusts."""
        self._directory.mkdir(parents=True, exist_ok=True)
        updater = Updater(
            metadata_dir=str(self._directory),
            metadata_base_url=_URL,
            fetcher=_ReceivedFiles(files),
            config=UpdaterConfig(targets_max_length=TARGETS_BYTES_MAX),
            bootstrap=self._root,
        )
        set_reference_time(updater, now_at)
        updater.refresh()
        # Verified and written just now; python-tuf gives no other public way to read it.
        data = {
            role: (self._directory / f"{role}.json").read_bytes()
            for role in (Root.type, Timestamp.type, Snapshot.type, Targets.type)
        }
        root = Metadata[Root].from_bytes(data[Root.type]).signed
        timestamp = Metadata[Timestamp].from_bytes(data[Timestamp.type]).signed
        snapshot = Metadata[Snapshot].from_bytes(data[Snapshot.type]).signed
        targets = Metadata[Targets].from_bytes(data[Targets.type]).signed
        roles = (root, timestamp, snapshot, targets)
        return (
            _Refreshed(
                files_sha256=files_sha256,
                targets_sha256=hashlib.sha256(data[Targets.type]).digest(),
                valid_until_at=min(role.expires for role in roles),
                versions={role.type: role.version for role in roles},
            ),
            targets,
        )

    def _read_trusted(self, role: str) -> bytes | None:
        try:
            return (self._directory / f"{role}.json").read_bytes()
        except OSError:
            return None

    # Assignment ---------------------------------------------------------------------------------

    def _check_assignment(
        self, envelope: bytes, envelope_sha256: str, targets: Targets, accepted: AcceptedTrust
    ) -> Assignment:
        signed = _open_envelope(envelope)
        if signed.payload_type != PAYLOAD_TYPE:
            raise Refusal(Code.ASSIGN_TYPE, f"payload type {signed.payload_type[:80]!r}")
        try:
            targets.verify_delegate(DIRECTOR_ROLE, signed.pae(), signed.signatures)
        except (tuf_errors.UnsignedMetadataError, ValueError) as error:
            raise Refusal(Code.ASSIGN_SIGNATURE, str(error)[:400]) from error
        try:
            assignment = Assignment.decode(signed.payload)
        except ContractError as error:
            raise Refusal(Code.ASSIGN_FORMAT, str(error)[:400]) from error
        if assignment.fleet != self._fleet:
            detail = f"for fleet {assignment.fleet!r}, this device is of {self._fleet!r}"
            raise Refusal(Code.WRONG_FLEET, detail)
        if assignment.device != self._device_id:
            detail = f"for device {assignment.device!r}, this is {self._device_id!r}"
            raise Refusal(Code.WRONG_DEVICE, detail)
        if assignment.counter < accepted.counter:
            detail = f"counter {assignment.counter}, {accepted.counter} was accepted before"
            raise Refusal(Code.ASSIGN_REPLAY, detail)
        if assignment.counter == accepted.counter and envelope_sha256 != accepted.envelope_sha256:
            detail = f"counter {assignment.counter} was accepted with other content"
            raise Refusal(Code.ASSIGN_FORK, detail)
        now_at = max(self._clock.now(), accepted.time_floor_at, accepted.director_floor_at)
        if assignment.expires_at <= now_at:
            detail = f"expired {assignment.expires_at.isoformat()}, it is {now_at.isoformat()}"
            raise Refusal(Code.ASSIGN_EXPIRED, detail)
        return assignment

    def _check_target(self, slot: str, path: str, targets: Targets) -> VerifiedTarget:
        target = targets.targets.get(path)
        if target is None:
            raise Refusal(Code.NOT_APPROVED, f"slot {slot}: no approver signed {path}")
        try:
            custom = TargetCustom.from_json(target.custom)
            says = target_path(custom.model, custom.version, custom.profile)
        except ContractError as error:
            raise Refusal(Code.TUF_FORMAT, f"{path}: {error}"[:400]) from error
        sha256 = target.hashes.get("sha256", "")
        if says != path or len(sha256) != 64:
            raise Refusal(Code.TUF_FORMAT, f"{path} was signed as {says} with sha256 {sha256!r}")
        if custom.profile != self._profile:
            detail = f"{path} is for profile {custom.profile}, this device is a {self._profile}"
            raise Refusal(Code.WRONG_PROFILE, detail)
        if custom.slot not in ("", slot):
            detail = f"{path} may run in slot {custom.slot}, it was given to {slot}"
            raise Refusal(Code.WRONG_SLOT, detail)
        return VerifiedTarget(path=path, sha256=sha256, size_bytes=target.length, custom=custom)


def set_reference_time(updater: Updater, now_at: datetime) -> None:
    """Tell python-tuf the time; must come before ``refresh``.

    The only use of a private attribute: 7.0.1 has no public way, and devices without a battery
    clock need the floor. ``test_trust_reference_time`` guards that it exists and has effect.
    """
    updater._trusted_set.reference_time = now_at  # noqa: SLF001 - see the docstring


class _ReceivedFiles(FetcherInterface):
    """Hands python-tuf the files of a message; what is not there is "not found"."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[-1]
        data = self._files.get(name)
        if data is None:
            # 404 also means "there is no newer root" to the Updater.
            raise tuf_errors.DownloadHTTPError(f"{name} has not arrived", 404)
        return iter((data,))


def _open_envelope(envelope: bytes) -> Envelope:
    what = "assignment envelope"
    try:
        value = parse_object(envelope, what=what, limit_bytes=ENVELOPE_BYTES_MAX)
        fields = Fields(value, what=what)
        plain: dict[str, Any] = {
            "payload": fields.text("payload", chars_max=ENVELOPE_BYTES_MAX),
            "payloadType": fields.text("payloadType", chars_max=256),
            "signatures": list(
                fields.items("signatures", _read_signature, items_max=SIGNATURES_MAX)
            ),
        }
        return Envelope.from_dict(plain)
    except TooLargeError as error:
        raise Refusal(Code.ASSIGN_SIZE, str(error)) from error
    except (ContractError, ValueError, FormatError) as error:
        raise Refusal(Code.ASSIGN_FORMAT, str(error)[:400]) from error


def _read_signature(value: Any) -> dict[str, str]:
    fields = Fields(value, what="assignment envelope signature")
    return {
        "keyid": fields.text("keyid", chars_max=128),
        "sig": fields.text("sig", chars_max=2_048),
    }


def _digest_files(files: Mapping[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.digest()


def _issued_at(targets: Targets) -> datetime:
    text = targets.unrecognized_fields.get(ISSUED_FIELD)
    try:
        issued_at = datetime.fromisoformat(text) if text is not None else EARLIEST_AT
    except (TypeError, ValueError) as error:
        raise Refusal(Code.TUF_FORMAT, f"targets: {ISSUED_FIELD} {text!r:.60}") from error
    if issued_at.tzinfo is None:
        raise Refusal(Code.TUF_FORMAT, f"targets: {ISSUED_FIELD} {text!r:.60} says no time zone")
    return issued_at


def _apply_targets(accepted: AcceptedTrust, targets: Targets) -> AcceptedTrust:
    """Apply what the approvers say: the time floor, and who the director is.

    Counter and director floor belong to a set of director keys. When the approvers change it,
    both start anew: otherwise a stolen director key could lock a device for good.
    """
    roles = targets.delegations.roles if targets.delegations else None
    role = roles.get(DIRECTOR_ROLE) if roles else None
    director = ",".join(sorted(role.keyids)) if role else ""
    time_floor_at = max(accepted.time_floor_at, _issued_at(targets))
    if director != accepted.director:
        return AcceptedTrust(director=director, time_floor_at=time_floor_at)
    return replace(accepted, time_floor_at=time_floor_at)


def _advance(
    accepted: AcceptedTrust, assignment: Assignment, envelope_sha256: str
) -> AcceptedTrust:
    return replace(
        accepted,
        counter=assignment.counter,
        envelope_sha256=envelope_sha256,
        director_floor_at=max(accepted.director_floor_at, assignment.issued_at),
    )
