"""What rollouts and groups need from the world.

A book is one transaction over the control database: what is written in it happens together or not
at all. The controller writes under a fence, which only the newest holder of its lease passes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from device_profiles.profile import DeviceProfile
from fleet_server.core.label_query import LabelQuery
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_round import Change, Decision, SeenShadow
from fleet_server.core.rollout_state import Member, Rollout
from fleet_server.core.rollout_tally import TallyKey
from fleet_server.core.targeting import Candidate, Package
from fleet_server.ports.devices import AssignmentStore, AuditTrail, DeviceStore


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRollout:
    """A planned rollout about to be stored as a draft.

    Attributes:
        stages: Names in order.
        members: Device numbers by stage, in the same order.
    """

    model: str
    version: int
    slot: str
    group: str
    policy: RolloutPolicy
    stages: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """A verdict as it was stored."""

    id: int
    verdict: str
    sentence: str
    inputs: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """One device of a rollout for a person to read; ``stage`` counts from 0."""

    device: str
    profile: str
    stage: int
    outcome: Outcome
    code: str
    detail: str
    running_target: str
    offered_at: datetime | None
    changed_at: datetime
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A named label query."""

    name: str
    query: str
    created_at: datetime


class RolloutStore(Protocol):
    """Rollouts, their devices and decisions within one transaction."""

    def find(self, rollout_id: int) -> Rollout | None:
        """Return a rollout."""
        ...

    def list_newest(self, limit: int) -> list[Rollout]:
        """Return rollouts, newest first."""
        ...

    def list_active(self) -> list[Rollout]:
        """Return rollouts that hold the slot of their devices, by id."""
        ...

    def list_to_look_at(self, *, finished_after: datetime) -> list[Rollout]:
        """Return what the controller looks at: under way, or over and not yet settled."""
        ...

    def add(self, new: NewRollout, *, at: datetime) -> int:
        """Store a draft with its devices; return its number."""
        ...

    def save(self, rollout: Rollout) -> bool:
        """Store a rollout read at its ``revision``; False when it was written since."""
        ...

    def tally(self, rollout_id: int) -> dict[TallyKey, int]:
        """Count its devices."""
        ...

    def load_members(self, rollout: Rollout) -> list[Member]:
        """Return the devices whose outcome may change or who may be offered something now."""
        ...

    def list_shadows(self, rollout: Rollout) -> dict[int, SeenShadow]:
        """Return what its devices found in shadow, by number."""
        ...

    def put_members(self, rollout_id: int, changes: Sequence[Change]) -> None:
        """Store devices' new rows."""
        ...

    def list_members(
        self, rollout_id: int, outcomes: Sequence[Outcome], limit: int
    ) -> list[MemberView]:
        """Return devices with one of these outcomes, the newest change first."""
        ...

    def count_running(self, rollout: Rollout) -> int:
        """Count devices of the rollout that say they run its version now."""
        ...

    def count_targets(self, rollout: Rollout) -> dict[str, int]:
        """Count what the slots of its devices say they run, by target."""
        ...

    def find_overlaps(self, rollout: Rollout) -> dict[int, int]:
        """Return active rollouts of the same slot with the number of devices they share."""
        ...

    def is_superseded(self, rollout: Rollout) -> bool:
        """Tell whether a later rollout was started on the same slot."""
        ...

    def find_held(self, rollout: Rollout, devices: Sequence[int]) -> set[int]:
        """Return which of these devices' slots this rollout still holds."""
        ...

    def list_holders(self, device: int) -> list[tuple[int, str]]:
        """Return the rollouts that hold slots of a device, each with what the slot is to run."""
        ...

    def add_decision(self, rollout_id: int, decision: Decision, *, at: datetime) -> None:
        """Store a verdict."""
        ...

    def list_decisions(self, rollout_id: int, limit: int) -> list[StoredDecision]:
        """Return the newest verdicts, oldest first."""
        ...


class FleetView(Protocol):
    """What else a rollout looks at, within one transaction."""

    def list_candidates(self) -> list[Candidate]:
        """Return every device by id."""
        ...

    def list_outsiders(self, rollout_id: int, query: LabelQuery) -> list[Candidate]:
        """Return enrolled devices that a query means and that have no part in a rollout."""
        ...

    def find_version_state(self, model: str, version: int) -> str | None:
        """Return a version's state; None when there is no such version."""
        ...

    def find_task(self, model: str) -> str | None:
        """Return what a model does, such as ``regression``; None when there is no such model."""
        ...

    def list_packages(self, model: str, version: int) -> dict[str, Package]:
        """Return a version's packages by profile."""
        ...

    def list_member_packages(
        self, members: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], dict[str, Package]]:
        """Return the packages of these versions, by model and version, then by profile."""
        ...

    def count_in_state(self, members: Sequence[tuple[str, int]], state: str) -> int:
        """Count those of these versions that are in a state."""
        ...

    def list_alarms(self, rollout: Rollout) -> list[str]:
        """Name open, unacknowledged drift alarms that arose among its devices since its start.

        A device's own alarm counts when it opened after the device had confirmed the version.
        """
        ...

    def find_champion(self, model: str) -> int:
        """Return the version in service, 0 when none."""
        ...

    def move_champion(self, model: str, version: int) -> None:
        """Put a version in service; 0 for none."""
        ...


class GroupStore(Protocol):
    """Groups within one transaction."""

    def find(self, name: str) -> Group | None:
        """Return a group."""
        ...

    def list_all(self) -> list[Group]:
        """Return every group by name."""
        ...

    def put(self, group: Group) -> None:
        """Store a group, new or changed."""
        ...


class Book(Protocol):
    """One transaction."""

    @property
    def rollouts(self) -> RolloutStore:
        """Rollouts, their devices and decisions."""
        ...

    @property
    def fleet(self) -> FleetView:
        """Devices, versions, packages, alarms, champions."""
        ...

    @property
    def groups(self) -> GroupStore:
        """Groups."""
        ...

    @property
    def devices(self) -> DeviceStore:
        """Devices, as assigning sees them."""
        ...

    @property
    def assignments(self) -> AssignmentStore:
        """Desired slots."""
        ...

    @property
    def audit(self) -> AuditTrail:
        """The audit log."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Proof of holding a lease: only the newest generation may write."""

    name: str
    owner: str
    generation: int


class Books(Protocol):
    """Opens transactions."""

    def reading(self) -> AbstractContextManager[Book]:
        """Open one that sees one state and writes nothing."""
        ...

    def writing(self, fence: Fence | None = None) -> AbstractContextManager[Book]:
        """Open one that commits at its end, or rolls back when an error leaves it.

        Raises:
            LeaseLostError: Another process holds the lease by now.
        """
        ...


class Lease(Protocol):
    """The right to run a loop that only one process may run."""

    def acquire(self) -> Fence | None:
        """Take or renew the lease; None while another process holds it."""
        ...

    def release(self) -> None:
        """Give it up, so that the next process need not wait."""
        ...


class ProfileSource(Protocol):
    """Device profiles by id."""

    def load_all(self) -> Mapping[str, DeviceProfile]:
        """Return every profile that can be read."""
        ...
