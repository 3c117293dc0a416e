"""Change keys: who approves, who vouches for them, and the server's own keys.

A change becomes a proposal that waits on the server until enough people have signed, and is put in
force in one go; one person alone does both in one call. The proposal is also the journal: what a
cut leaves half done is completed by the next call from the proposal, or undone when there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.contract.assignment import DIRECTOR_ROLE
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Ledgers
from fleet_server.ports.keys import (
    KeyAct,
    KeyCeremony,
    KeyChange,
    KeyReview,
    PendingStore,
    Proposal,
    Signatory,
)
from fleet_server.ports.trust import SignedPackages

KEY_ACTS = frozenset(KeyAct)

Show = Callable[[KeyReview], None]
"""Shows a person what is about to be signed; raises to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOutcome:
    """What became of a change.

    Attributes:
        change: What was asked for, as ``KeyChange.request``.
        targets_version: Version of ``targets`` in force now.
        waiting: Whose signature is missing; empty when the change is in force.
        is_completed: Whether a change that was interrupted before was completed instead.
    """

    change: str
    targets_version: int
    waiting: str = ""
    is_completed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDesk:
    """Changes the keys of one fleet.

    Attributes:
        ledgers: Opens transactions.
        packages: The signed metadata.
        pending: The proposal that waits.
        ceremony: The person's part.
        approver: The person's view of the target files.
        republish: Signs snapshot and timestamp anew, whatever their age.
        clock: Time of day.
        actor: Who acts, for the audit log.
    """

    ledgers: Ledgers
    packages: SignedPackages
    pending: PendingStore
    ceremony: KeyCeremony
    approver: Signatory
    republish: Callable[[], None]
    clock: Clock
    actor: str

    def change(self, change: KeyChange, *, show: Show | None = None) -> KeyOutcome:
        """Change keys, or complete the same change when it was interrupted.

        Raises:
            RefusedError: It would lock everybody out, something else waits, or this person's key
                does not count.
        """
        finished = self.finish()
        if finished is not None and finished.change == change.request:
            return finished
        if (waiting := self.pending.load()) is not None:
            raise RefusedError(
                f"{waiting.act} {waiting.subject} waits for a signature since"
                f" {waiting.proposed_at:%Y-%m-%d %H:%M}; sign it (--cosign) or drop it:"
                " `edgefleet keys forget-pending`"
            )
        try:
            draft = self.ceremony.draft(change)
            if show is not None:
                show(self.ceremony.review(draft))
            proposal = self.ceremony.sign(draft)
            self.ceremony.begin(proposal)
            self.pending.save(proposal)
        except Exception:
            self.ceremony.end()
            raise
        return self._conclude(proposal)

    def cosign(self, *, show: Show | None = None) -> KeyOutcome:
        """Sign the change of keys that waits; this machine builds it once more first.

        Raises:
            NotFoundError: No change of keys waits.
            RefusedError: It is not exactly what it says, or this person's key does not count.
        """
        proposal = self.pending.load()
        if proposal is None or proposal.act not in KEY_ACTS:
            raise NotFoundError(
                "no change of keys waits for a signature"
                + (f"; {proposal.act} {proposal.subject} does" if proposal else "")
            )
        before = self.pending.standing(proposal)
        review = self.ceremony.review(proposal)
        if show is not None:
            show(review)
        proposal = self.ceremony.sign(proposal)
        if before.missing and self.pending.standing(proposal).signed == before.signed:
            raise RefusedError(
                "this key has signed it already; it needs the signature of somebody else"
            )
        self.pending.save(proposal)
        return self._conclude(proposal)

    def forget_pending(self, reason: str) -> Proposal | None:
        """Drop what waits, damaged or not; nothing of it was in force."""
        try:
            proposal = self.pending.load()
        except RefusedError:
            proposal = None
        self.pending.clear()
        self.finish()
        self._audit(
            "keys.forget-pending",
            f"{proposal.act} {proposal.subject}" if proposal else "a damaged proposal",
            reason=reason,
        )
        return proposal

    def finish(self) -> KeyOutcome | None:
        """Complete what an interrupted change left, or undo it; None when nothing was left.

        A proposal that still waits for people stays.
        """
        proposal = self.pending.load()
        if proposal is not None and proposal.act in KEY_ACTS:
            if self.pending.standing(proposal).missing:
                return None
            outcome = self._conclude(proposal)
            return KeyOutcome(
                change=outcome.change,
                targets_version=outcome.targets_version,
                is_completed=True,
            )
        noted = self.ceremony.under_way()
        is_in_force = self.ceremony.settle()
        if proposal is None:
            self.ceremony.end()
        if not noted or not is_in_force:
            return None
        current = self.packages.current_targets()
        self.approver.see(current)
        version = self.approver.version_of(current)
        return KeyOutcome(change=noted, targets_version=version, is_completed=True)

    def _conclude(self, proposal: Proposal) -> KeyOutcome:
        """Put a proposal in force when it is signed enough; may be repeated after a cut."""
        standing = self.pending.standing(proposal)
        name = str(proposal.detail.get("request", f"{proposal.act} {proposal.subject}"))
        current = self.packages.current_targets()
        if standing.missing:
            self._audit("keys.propose", name, signed=standing.signed, keys=proposal)
            return KeyOutcome(
                change=name,
                targets_version=self.approver.version_of(current),
                waiting=standing.missing,
            )
        self.ceremony.prepare(proposal)
        version = self.pending.put_in_force(proposal)
        self.ceremony.settle()
        if proposal.root:
            self.republish()
        self.approver.see(self.packages.current_targets())
        self._audit(proposal.act, proposal.subject, signed=standing.signed, keys=proposal)
        self.pending.clear()
        self.ceremony.end()
        return KeyOutcome(change=name, targets_version=version)

    def _audit(
        self,
        act: str,
        subject: str,
        *,
        reason: str = "",
        signed: tuple[str, ...] = (),
        keys: Proposal | None = None,
    ) -> None:
        with self.ledgers() as ledger:
            if keys is not None and keys.subject == DIRECTOR_ROLE and act == keys.act:
                ledger.assignments.mark_all_stale()
            ledger.audit.append(
                at=self.clock.now(),
                actor=self.actor,
                act=act,
                subject=subject,
                reason=reason,
                detail={"signed_by": list(signed), **(keys.detail if keys else {})},
            )
