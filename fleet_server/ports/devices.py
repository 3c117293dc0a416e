"""What use cases about devices and their assignments need from the world.

A ledger is one write transaction over the control database; what is done in it happens together
or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from device_profiles.compatibility import Misfit
from edge_agent.contract.assignment import ProbationPolicy, SlotAssignment
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.ports.certificates import CertificateStore, WantedCut
from fleet_server.ports.trust import SignedTarget

_PROBATION = ProbationPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device as the database knows it; the last six fields are as it last reported.

    ``transfers`` says of each slot how its newest package came (docs/transfer.md).
    ``clone_evidence`` says why its identity seems to be in use twice, empty when it does not.
    """

    number: int
    id: str
    profile: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    enrolled_at: datetime | None = None
    revoked_at: datetime | None = None
    certificate_serial: str = ""
    certificate_expires_at: datetime | None = None
    is_online: bool = False
    last_seen_at: datetime | None = None
    cloned_at: datetime | None = None
    clone_evidence: str = ""
    cut_wanted_at: datetime | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    refusal: Mapping[str, str] = field(default_factory=dict)
    agent: str = ""
    certificate: Mapping[str, str] = field(default_factory=dict)
    serving: Mapping[str, Any] = field(default_factory=dict)
    transfers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """What one slot of a device runs, as it last reported."""

    slot: str
    state: str
    running_target: str
    desired_target: str
    code: str
    detail: str
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """An enrolment secret, by its hash."""

    device: int
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice:
    """A device to be added, with the sha256 of its join secret."""

    id: str
    profile: str
    labels: Mapping[str, str]
    secret_sha256: str


class DeviceStore(Protocol):
    """Devices and join tokens within one transaction."""

    def find(self, device_id: str) -> DeviceRecord | None:
        """Return a device, None when there is none of that id."""
        ...

    def get(self, number: int) -> DeviceRecord:
        """Return the device of a number that exists."""
        ...

    def find_many(self, device_ids: Sequence[str]) -> dict[str, DeviceRecord]:
        """Return the devices there are among these ids."""
        ...

    def add_many(self, devices: Sequence[NewDevice], *, at: datetime, until: datetime) -> None:
        """Add devices that do not exist, each with a join token that holds ``until``."""
        ...

    def replace_token(
        self, number: int, secret_sha256: str, *, at: datetime, until: datetime
    ) -> None:
        """Give a device a new join token; unused older ones stop working."""
        ...

    def find_token(self, secret_sha256: str) -> JoinToken | None:
        """Return a join token."""
        ...

    def mark_enrolled(
        self, number: int, secret_sha256: str, *, serial: str, expires_at: datetime, at: datetime
    ) -> None:
        """Note a device's certificate and that its token is used.

        Signs of a copy are forgotten, and its assignment will be sent once more.
        """
        ...

    def set_certificate(self, number: int, serial: str, *, expires_at: datetime) -> None:
        """Note which certificate of a device is the newest."""
        ...

    def mark_cloned(self, number: int, evidence: str, *, at: datetime) -> bool:
        """Note that an identity seems to be in use twice; False when that was known."""
        ...

    def want_cut(self, number: int, *, at: datetime) -> None:
        """Ask for the end of a device's open session."""
        ...

    def list_cuts(self, limit: int) -> list[WantedCut]:
        """Return whose sessions must end, oldest wish first."""
        ...

    def finish_cut(self, cut: WantedCut) -> bool:
        """Note that a session was ended; False when it must be ended once more."""
        ...

    def set_labels(self, number: int, labels: Mapping[str, str], *, at: datetime) -> None:
        """Replace a device's labels."""
        ...

    def mark_revoked(self, number: int, *, at: datetime) -> None:
        """Note that a device may no longer take part; its join tokens stop working."""
        ...

    def slots(self, numbers: Sequence[int]) -> dict[int, list[SlotRecord]]:
        """Return what the slots of these devices run."""
        ...

    def list_all(self) -> list[DeviceRecord]:
        """Return every device by id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """That one slot of a device shall run a target.

    Attributes:
        device: Device id.
        slot: Slot name.
        target: ``MODEL/VERSION/PROFILE.tar``.
        rollout: Rollout that asks, 0 when a person does.
        retry: Raised to try a package known bad on this device again.
        probation: What the candidate must show.
        shadow: How it is compared with what is confirmed before; None when it is not.
    """

    device: str
    slot: str
    target: str
    rollout: int = 0
    retry: int = 0
    probation: ProbationPolicy = _PROBATION
    shadow: ShadowPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleAssignment:
    """A device whose assignment must be signed anew, with everything it shall run."""

    device: int
    device_id: str
    counter: int
    slots: Mapping[str, SlotAssignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedAssignment:
    """A signed assignment; an empty envelope says that the device is assigned nothing."""

    device: int
    counter: int
    envelope: str = ""
    issued_at: datetime | None = None
    expires_at: datetime | None = None


class AssignmentStore(Protocol):
    """Desired slots and assignments within one transaction."""

    def put_desired(self, wishes: Sequence[tuple[int, Wish]], *, at: datetime) -> int:
        """Store wishes by device number and mark what changed stale; return how many changed."""
        ...

    def clear_desired(self, device: int, slot: str) -> bool:
        """Forget what a slot shall run and mark the assignment stale; tell whether it was there."""
        ...

    def mark_stale(self, targets: Sequence[str]) -> int:
        """Mark the assignments stale that name one of these targets; return how many."""
        ...

    def mark_all_stale(self) -> None:
        """Mark every assignment stale: another director must sign it."""
        ...

    def find_stale(self, *, expiring_before: datetime, limit: int) -> list[StaleAssignment]:
        """Return assignments to sign anew, of devices that are not revoked."""
        ...

    def save(self, sealed: Sequence[SealedAssignment]) -> None:
        """Store assignments; they are no longer stale."""
        ...


class AuditTrail(Protocol):
    """Adds to the audit log within one transaction."""

    def append(
        self,
        *,
        at: datetime,
        actor: str,
        act: str,
        subject: str,
        reason: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """A package of a version, as registered."""

    target: str
    profile: str
    sha256: str
    size_bytes: int
    precision: str
    schema_sha256: str
    chunks_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """A registered version and its packages."""

    model: str
    number: int
    state: str
    artifacts: Sequence[ArtifactRecord]


class ApprovalStore(Protocol):
    """Versions and what was decided about them, within one transaction."""

    def find_version(self, model: str, version: int) -> VersionRecord | None:
        """Return a version with its packages by profile."""
        ...

    def find_state(self, model: str, version: int) -> str | None:
        """Return what was decided about a version last; None when there is no such version."""
        ...

    def list_versions(self, model: str) -> list[int]:
        """Return the numbers of a model's versions; empty for an unknown model."""
        ...

    def record(
        self,
        *,
        model: str,
        version: int,
        decision: str,
        keyid: str,
        reason: str,
        metadata_version: int,
        at: datetime,
    ) -> None:
        """Store a decision and the version's new state, which is its word."""
        ...


class Ledger(Protocol):
    """One write transaction."""

    @property
    def devices(self) -> DeviceStore:
        """Devices and join tokens."""
        ...

    @property
    def certificates(self) -> CertificateStore:
        """Certificates of devices."""
        ...

    @property
    def assignments(self) -> AssignmentStore:
        """Desired slots and assignments."""
        ...

    @property
    def approvals(self) -> ApprovalStore:
        """Versions and decisions."""
        ...

    @property
    def audit(self) -> AuditTrail:
        """The audit log."""
        ...


Ledgers = Callable[[], AbstractContextManager[Ledger]]
"""Opens a ledger: commits at the end, rolls back when an error leaves it."""


class Fitness(Protocol):
    """Compares a package with a device."""

    def find_misfits(self, target: SignedTarget, device: DeviceRecord) -> list[Misfit]:
        """Return every reason why the package cannot run there; empty when it can."""
        ...


class PackageStore(Protocol):
    """Packages by sha256."""

    def read(self, sha256: str) -> bytes:
        """Return a package, its hash checked; raises FleetError."""
        ...
