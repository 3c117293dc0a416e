"""Judge metadata, an assignment, and what the device holds, with python-tuf.

The approvers' signature is what makes a package runnable; the director, a delegation inside
``targets``, only says which approved package runs where. Nothing outlives a call but python-tuf's
metadata directory: counters and floors are returned for the agent to commit with its slots.

Not here: fetching packages, fitness of the device. Not thread-safe, and one process for a
directory: the agent's lock sees to both.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import TargetFile, Targets

from edge_agent.adapters.tuf_metadata import (
    MetadataSession,
    TrustedMetadata,
    TufClient,
    digest_files,
)
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
from edge_agent.core.release import PackageKey
from edge_agent.core.verified import (
    AcceptedTrust,
    Standing,
    VerifiedAssignment,
    VerifiedTarget,
)
from edge_agent.errors import Refusal
from edge_agent.ports import Clock, Verdict

SIGNATURES_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """The last judgement that found nothing wrong or missing."""

    files_sha256: bytes
    envelope_sha256: str
    accepted: AcceptedTrust
    held: frozenset[PackageKey]
    valid_until_at: datetime
    verdict: Verdict


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
        self.client = TufClient(directory, bootstrap_root)
        self._device_id = device_id
        self._fleet = fleet
        self._profile = profile
        self._clock = clock
        self._judged: _Judged | None = None

    def stored_files(self) -> Mapping[str, bytes]:
        """Return what to judge with before anything has arrived; empty when nothing is trusted."""
        return self.client.stored_files()

    def evaluate(
        self, files: Mapping[str, bytes], envelope: bytes, accepted: AcceptedTrust
    ) -> VerifiedAssignment:
        """Judge an assignment alone.

        Raises:
            Refusal: With the code of the first check that failed.
        """
        result = self.judge(files, envelope, accepted).result
        if result is None:
            raise Refusal(Code.ASSIGN_FORMAT, "there is no assignment")
        if isinstance(result, Refusal):
            raise result
        return result

    def judge(
        self,
        files: Mapping[str, bytes],
        envelope: bytes,
        accepted: AcceptedTrust,
        held: frozenset[PackageKey] = frozenset(),
    ) -> Verdict:
        """Verify everything; the same bytes again cost next to nothing until a date runs out."""
        now_at = max(self._clock.now(), accepted.time_floor_at)
        files_sha256 = digest_files(files)
        envelope_sha256 = hashlib.sha256(envelope).hexdigest()
        last = self._judged
        if (
            last is not None
            and (last.files_sha256, last.envelope_sha256) == (files_sha256, envelope_sha256)
            and last.held == held
            and accepted in (last.accepted, _accepted_of(last.verdict))
            and now_at < last.valid_until_at
        ):
            return last.verdict

        self._judged = None
        try:
            session = self.client.open(files, now_at)
        except Refusal as refusal:
            return Verdict(standing=None, result=refusal)
        trusted = session.trusted
        now_accepted = _apply_targets(accepted, trusted)
        assignment: Assignment | None = None
        result: VerifiedAssignment | Refusal | None = None
        try:
            if envelope:
                assignment = self._check_assignment(
                    envelope, envelope_sha256, trusted.delegator, now_accepted
                )
                result = VerifiedAssignment(
                    assignment=assignment,
                    targets=self._find_targets(assignment, session),
                    accepted=_advance(now_accepted, assignment, envelope_sha256),
                    metadata=dict(trusted.versions),
                )
        except Refusal as refusal:
            result = refusal
        standing, doubt = _find_standing(session, held, now_accepted, assignment)
        verdict = Verdict(standing=standing, result=result, doubt=doubt)
        if not isinstance(result, Refusal) and doubt is None:
            dates = [trusted.valid_until_at]
            dates += [trusted.found[key.target].valid_until_at for key in held]
            if assignment is not None:
                dates += [assignment.expires_at]
                dates += [trusted.found[s.target].valid_until_at for s in assignment.slots.values()]
            self._judged = _Judged(
                files_sha256=files_sha256,
                envelope_sha256=envelope_sha256,
                accepted=accepted,
                held=held,
                valid_until_at=min(dates),
                verdict=verdict,
            )
        return verdict

    def _find_targets(
        self, assignment: Assignment, session: MetadataSession
    ) -> dict[str, VerifiedTarget]:
        return {
            slot: self._check_target(slot, wanted.target, session.find(wanted.target))
            for slot, wanted in assignment.slots.items()
        }

    def _check_assignment(
        self, envelope: bytes, envelope_sha256: str, targets: Targets, accepted: AcceptedTrust
    ) -> Assignment:
        if len(envelope) > ENVELOPE_BYTES_MAX:
            detail = f"{len(envelope)} bytes, the limit is {ENVELOPE_BYTES_MAX}"
            raise Refusal(Code.ASSIGN_SIZE, detail)
        signed = _open_envelope(envelope)
        if signed.payload_type != PAYLOAD_TYPE:
            raise Refusal(Code.ASSIGN_TYPE, f"payload type {signed.payload_type[:80]!r}")
        try:
            targets.verify_delegate(DIRECTOR_ROLE, signed.pae(), signed.signatures)
        except (UnsignedMetadataError, ValueError) as error:
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

    def _check_target(self, slot: str, path: str, target: TargetFile | None) -> VerifiedTarget:
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


def _find_standing(
    session: MetadataSession,
    held: frozenset[PackageKey],
    accepted: AcceptedTrust,
    assignment: Assignment | None,
) -> tuple[Standing, Refusal | None]:
    """Tell what is approved and what withdrawn of the packages held; what is unknown is neither."""
    doubt: Refusal | None = None
    approved: set[PackageKey] = set()
    withdrawn: set[PackageKey] = set()
    for key in held:
        try:
            target = session.find(key.target)
        except Refusal as refusal:
            doubt = doubt or refusal  # missing, expired or wrong: nothing follows from that
            continue
        is_held = target is not None and target.hashes.get("sha256") == key.sha256
        (approved if is_held else withdrawn).add(key)
    paths = {key.target for key in held}
    if assignment is not None:
        paths |= {wanted.target for wanted in assignment.slots.values()}
    trusted = session.trusted
    bins = {role for path in paths if (role := trusted.bin_of(path)) is not None}
    standing = Standing(
        accepted=accepted,
        metadata=dict(trusted.versions),
        approved=frozenset(approved),
        withdrawn=frozenset(withdrawn),
        bins=frozenset(bins),
        authorities=trusted.authorities,
    )
    return standing, doubt


def _accepted_of(verdict: Verdict) -> AcceptedTrust | None:
    if isinstance(verdict.result, VerifiedAssignment):
        return verdict.result.accepted
    return verdict.standing.accepted if verdict.standing is not None else None


def _apply_targets(accepted: AcceptedTrust, trusted: TrustedMetadata) -> AcceptedTrust:
    """Apply what the approvers say: the time floor, and who the director is.

    Counter and director floor belong to a set of director keys. When the approvers change it,
    both start anew: otherwise a stolen director key could lock a device for good.
    """
    delegations = trusted.delegator.delegations
    roles = delegations.roles if delegations else None
    role = roles.get(DIRECTOR_ROLE) if roles else None
    director = ",".join(sorted(role.keyids)) if role else ""
    time_floor_at = max(accepted.time_floor_at, trusted.issued_at)
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
