"""What is decided about with one signature: a version, or the listed members of a family.

A family's release is the list itself: who signs it has every package of every member before the
eyes as hashes, and a member that is not listed is not signed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet_server.errors import RefusedError
from fleet_server.ports.keys import Proposal
from fleet_server.ports.trust import SignedTarget

APPROVED, REJECTED = "approved", "rejected"
ACTS = {APPROVED: f"model.{APPROVED}", REJECTED: f"model.{REJECTED}"}
REASON_CHARS_MAX = 1_000
MEMBERS_MAX = 30_000
_MEMBERS = "members"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What one decision is about.

    Attributes:
        model: Model name, or the family's pattern.
        version: Version number; 0 for a family.
        members: The versions it is made of, model by model.
    """

    model: str
    version: int
    members: tuple[tuple[str, int], ...]

    @classmethod
    def of_version(cls, model: str, version: int) -> "Release":
        """One version."""
        return cls(model=model, version=version, members=((model, version),))

    @classmethod
    def of_family(cls, pattern: str, members: Mapping[str, int]) -> "Release":
        """The listed members of a family; raises RefusedError when there are none or too many."""
        if not 1 <= len(members) <= MEMBERS_MAX:
            raise RefusedError(
                f"{pattern}: {len(members):,} members to decide about, a family's release has 1 to"
                f" {MEMBERS_MAX:,}"
            )
        return cls(model=pattern, version=0, members=tuple(sorted(members.items())))

    @property
    def subject(self) -> str:
        """As the audit log and a proposal name it."""
        return f"{self.model}/{self.version}" if self.version else self.model

    @property
    def words(self) -> str:
        """As a sentence names it."""
        return f"{self.model} {self.version}" if self.version else self.model

    def detail(self) -> dict[str, Any]:
        """What a proposal must carry for others to rebuild it."""
        return {} if self.version else {_MEMBERS: dict(self.members)}

    def proposed_by(self, proposal: Proposal, decision: str) -> "Release":
        """Give what a proposal says it is about.

        Raises:
            RefusedError: It is about something else, malformed, or lists what is no member here.
        """
        if (proposal.act, proposal.subject) != (ACTS[decision], self.subject):
            raise RefusedError(
                f"what waits is {proposal.act} {proposal.subject}, proposed by"
                f" {proposal.proposed_by}; name that one, or drop it: `edgefleet keys"
                " forget-pending`"
            )
        if self.version:
            return self
        members = proposal.detail.get(_MEMBERS)
        if not isinstance(members, dict) or not all(
            isinstance(name, str) and type(number) is int and number > 0
            for name, number in members.items()
        ):
            raise RefusedError("the proposal is malformed: it lists no members of the family")
        strange = sorted(set(members.items()) - set(self.members))
        if strange:
            name, number = strange[0]
            raise RefusedError(
                f"what waits lists {name} {number}, which is not among the members of {self.model}"
                " as they are now; drop it and propose again: `edgefleet keys forget-pending`"
            )
        return Release.of_family(self.model, members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What was signed or withdrawn.

    Attributes:
        model: Model name, or the family's pattern.
        version: Version number; 0 for a family.
        decision: ``approved`` or ``rejected``.
        targets: The packages concerned.
        metadata_version: Version of ``targets`` that says so.
        keyid: Of the approver; empty when nothing had to be signed.
        waiting: Whose signature is still missing; empty when the decision is in force.
    """

    model: str
    version: int
    decision: str
    targets: tuple[SignedTarget, ...]
    metadata_version: int
    keyid: str
    waiting: str = ""


def hash_listing(targets: Sequence[SignedTarget]) -> str:
    """Give the sha256 of the list of packages, a line each as ``sha256sum`` writes it.

    >>> hash_listing([])[:8]
    'e3b0c442'
    """
    return hashlib.sha256(write_listing(targets).encode()).hexdigest()


def write_listing(targets: Sequence[SignedTarget]) -> str:
    """Give the list of packages, sorted by path."""
    ordered = sorted(targets, key=lambda target: target.path)
    return "".join(f"{target.sha256}  {target.path}\n" for target in ordered)


def check_reason(reason: str) -> None:
    """Refuse a reason that is too long; raises RefusedError."""
    if len(reason) > REASON_CHARS_MAX:
        raise RefusedError(
            f"the reason has {len(reason)} characters, the limit is {REASON_CHARS_MAX}"
        )
