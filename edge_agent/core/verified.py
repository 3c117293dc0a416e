"""What trust lets through: an assignment whose every word was checked, as plain values.

``AcceptedTrust`` is the part of trust that must survive a restart. The verifier only proposes a
new one; it becomes true when the agent commits it together with its slots, in one write.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edge_agent.contract.assignment import Assignment, read_instant
from edge_agent.contract.fields import Fields
from edge_agent.contract.package import TargetCustom
from edge_agent.core.release import PackageKey

EARLIEST_AT = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTrust:
    """What this device has accepted; the default is that of a device just enrolled.

    Attributes:
        counter: Of the newest accepted assignment, 0 when none.
        envelope_sha256: Of that assignment's envelope; the same counter must come with the same
            bytes.
        director: The director keys, as a text, under which ``counter`` and ``director_floor_at``
            count; other keys start anew.
        time_floor_at: Newest date the approvers signed; the device's clock is never taken to be
            earlier. No online key can move it.
        director_floor_at: Newest date the director signed; only assignments are held to it.
    """

    counter: int = 0
    envelope_sha256: str = ""
    director: str = ""
    time_floor_at: datetime = EARLIEST_AT
    director_floor_at: datetime = EARLIEST_AT

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form.

        >>> AcceptedTrust.from_json(AcceptedTrust(counter=3).to_json()).counter
        3
        """
        return {
            "counter": self.counter,
            "envelope_sha256": self.envelope_sha256,
            "director": self.director,
            "time_floor": self.time_floor_at.isoformat(),
            "director_floor": self.director_floor_at.isoformat(),
        }

    @classmethod
    def from_json(cls, value: Any) -> "AcceptedTrust":
        """Read the JSON form; raises MalformedError."""
        what = "accepted trust"
        fields = Fields(value, what=what)
        return cls(
            counter=fields.integer("counter"),
            envelope_sha256=fields.text("envelope_sha256", chars_max=64),
            director=fields.text("director", chars_max=4_096),
            time_floor_at=read_instant(fields.text("time_floor", chars_max=40), what=what),
            director_floor_at=read_instant(fields.text("director_floor", chars_max=40), what=what),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedTarget:
    """A package the approvers signed for this device's profile.

    Attributes:
        path: ``MODEL/VERSION/PROFILE.tar``.
        sha256: Of the package, 64 hex digits.
        size_bytes: Of the package.
        custom: What was signed beside the hash.
    """

    path: str
    sha256: str
    size_bytes: int
    custom: TargetCustom


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedAssignment:
    """An assignment that passed every check.

    Attributes:
        assignment: As the director signed it.
        targets: Slot name to package, exactly the slots of the assignment.
        accepted: What to commit, also when the assignment is the one already accepted (the
            time floor may have moved).
        metadata: Trusted TUF versions by role.
    """

    assignment: Assignment
    targets: Mapping[str, VerifiedTarget]
    accepted: AcceptedTrust
    metadata: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What verified, unexpired metadata says, whether or not an assignment came with it.

    Attributes:
        accepted: What to commit of it: the date the approvers signed, and who the director is.
        metadata: Trusted TUF versions by role.
        approved: Packages held here that it names.
        withdrawn: Packages held here that it does not name. A package is in neither set while
            metadata that would tell is missing, expired or wrong.
        bins: Hash bins that speak for the packages held here or assigned.
        authorities: sha256 of the certificate authorities that approvers list, newest first; empty
            when they list none.
    """

    accepted: AcceptedTrust
    metadata: Mapping[str, int] = field(default_factory=dict)
    approved: frozenset[PackageKey] = frozenset()
    withdrawn: frozenset[PackageKey] = frozenset()
    bins: frozenset[str] = frozenset()
    authorities: tuple[str, ...] = ()
