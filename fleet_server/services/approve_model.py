"""Approve or reject versions, one or those of a family: the approver's signature over packages.

The signature is the approval; the rows written afterwards only record it. So the signature comes
first, and approving again what is signed already completes the record of an interrupted call.
Nothing is signed unseen: the packages are hashed and opened here, by the approver's own process,
and the files to be signed are built here. Where several approvers must sign, the first signature
leaves a proposal on the server; the others build it once more from what they know and from the
packages, and refuse one that holds anything else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_agent.contract.package import OnWithdrawn
from fleet_server.errors import FleetError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Ledgers, PackageStore
from fleet_server.ports.keys import PendingStore, Proposal, Signatory, TargetsReview
from fleet_server.ports.trust import SignedPackages, SignedTarget
from fleet_server.services.inspect_packages import find_versions, inspect_packages
from fleet_server.services.release import (
    ACTS,
    APPROVED,
    REJECTED,
    Approval,
    Release,
    check_reason,
    hash_listing,
)

__all__ = ["ACTS", "APPROVED", "REJECTED", "Approval", "ApprovalDesk"]

Show = Callable[[TargetsReview], None]
"""Shows a person what is about to be signed; raises to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDesk:
    """Approves and rejects versions of one fleet.

    Attributes:
        ledgers: Opens transactions.
        packages: The signed metadata.
        objects: The packages' bytes.
        pending: What waits for another approver's signature.
        approver: The key that signs, and what its owner saw last.
        clock: Time of day.
        actor: Who decides, for the audit log.
    """

    ledgers: Ledgers
    packages: SignedPackages
    objects: PackageStore
    pending: PendingStore
    approver: Signatory
    clock: Clock
    actor: str

    def prepare(
        self,
        model: str,
        version: int,
        *,
        slot: str | None = None,
        on_withdrawn: OnWithdrawn = OnWithdrawn.STOP,
    ) -> list[SignedTarget]:
        """Hash the packages of one version and give what would be signed.

        Args:
            model: Model name.
            version: Version number.
            slot: The only slot it may run in; None is the model's name, empty any slot.
            on_withdrawn: What devices that run it do when it is withdrawn.

        Raises:
            NotFoundError: No such version; names those there are.
            RefusedError: It has no packages, or a package is not what was registered.
        """
        return self._inspect(Release.of_version(model, version), slot, on_withdrawn)

    def _inspect(
        self, release: Release, slot: str | None, on_withdrawn: OnWithdrawn
    ) -> list[SignedTarget]:
        return [
            target
            for record in find_versions(self.ledgers, release.members)
            for target in inspect_packages(
                self.objects,
                record,
                slot=record.model if slot is None else slot,
                on_withdrawn=on_withdrawn,
            )
        ]

    def approve(
        self,
        model: str,
        version: int,
        reason: str = "",
        *,
        slot: str | None = None,
        on_withdrawn: OnWithdrawn = OnWithdrawn.STOP,
        show: Show | None = None,
    ) -> Approval:
        """Sign every package of one version; see ``approve_release``."""
        return self.approve_release(
            Release.of_version(model, version),
            reason,
            slot=slot,
            on_withdrawn=on_withdrawn,
            show=show,
        )

    def approve_release(
        self,
        release: Release,
        reason: str = "",
        *,
        slot: str | None = None,
        on_withdrawn: OnWithdrawn = OnWithdrawn.STOP,
        show: Show | None = None,
    ) -> Approval:
        """Sign every package of a release, all with one opening of the key.

        Args:
            release: A version, or members of a family.
            reason: Kept with the approval.
            slot: As in ``prepare``.
            on_withdrawn: As in ``prepare``.
            show: Gets what is about to be signed; raises to stop.

        Raises:
            NotFoundError: As ``prepare``, or no key.
            RefusedError: As ``prepare``, something else waits for a signature, or what is stored
                is not what the approvers signed.
        """
        check_reason(reason)
        if (done := self._finish_pending(APPROVED, release)) is not None:
            return done
        targets = self._inspect(release, slot, on_withdrawn)
        signed = self.packages.approved()
        missing = [target for target in targets if signed.get(target.path) != target]
        if not missing:
            # Believed only once this person's machine has verified who signed what is stored.
            self.approver.edit(self.packages.current_targets(), add=(), withdraw=())
            return self._record(release, APPROVED, reason, targets, 0)
        detail = {"slot": slot, "on_withdrawn": str(on_withdrawn), **release.detail()}
        proposal = self._sign_new(
            self._proposal(APPROVED, release, reason, detail), missing, (), show
        )
        return self._conclude(proposal, release, targets)

    def reject(
        self, model: str, version: int, reason: str, *, show: Show | None = None
    ) -> Approval:
        """Note that one version must not run; see ``reject_release``."""
        return self.reject_release(Release.of_version(model, version), reason, show=show)

    def reject_release(
        self, release: Release, reason: str, *, show: Show | None = None
    ) -> Approval:
        """Note that versions must not run; what was signed before is withdrawn.

        Raises:
            NotFoundError: No such version, or no key where one is needed.
            RefusedError: No reason was given, or something else waits for a signature.
        """
        check_reason(reason)
        if not reason.strip():
            raise RefusedError("a rejection needs a reason: --reason 'what is wrong'")
        if (done := self._finish_pending(REJECTED, release)) is not None:
            return done
        withdrawn = self._signed_now(release)
        if not withdrawn:
            return self._record(release, REJECTED, reason, withdrawn, 0)
        proposal = self._sign_new(
            self._proposal(REJECTED, release, reason, release.detail()),
            (),
            [target.path for target in withdrawn],
            show,
        )
        return self._conclude(proposal, release, withdrawn)

    def cosign(
        self, decision: str, model: str, version: int, *, show: Show | None = None
    ) -> Approval:
        """Add this person's signature to a version that waits; see ``cosign_release``."""
        return self.cosign_release(decision, Release.of_version(model, version), show=show)

    def cosign_release(
        self, decision: str, release: Release, *, show: Show | None = None
    ) -> Approval:
        """Add this person's signature to what waits; this machine builds it once more first.

        Args:
            decision: ``approved`` or ``rejected``.
            release: What is expected to wait; which members a family's has, the proposal lists.
            show: Gets what is about to be signed; raises to stop.

        Raises:
            NotFoundError: Nothing waits.
            RefusedError: Something else waits, it holds more than it says, or this key has signed
                it or does not count.
        """
        proposal = self.pending.load()
        if proposal is None:
            raise NotFoundError(f"nothing waits for a signature; approve {release.words} first")
        release = release.proposed_by(proposal, decision)
        before = self.pending.standing(proposal)
        targets, add, withdraw = self._rebuild(proposal, decision, release)
        if before.missing:
            current = self.packages.current_targets()
            self.approver.check_rebuilt(current, proposal.files, add=add, withdraw=withdraw)
            if show is not None:
                show(self.approver.review(current, proposal.files))
            proposal = replace(proposal, files=self.approver.sign(proposal.files))
            if self.pending.standing(proposal).signed == before.signed:
                raise RefusedError(
                    f"key {self.approver.keyid[:12]} has signed it already; it needs the signature"
                    " of somebody else"
                )
            self.pending.save(proposal)
        return self._conclude(proposal, release, targets)

    def _signed_now(self, release: Release) -> list[SignedTarget]:
        signed = self.packages.approved()
        return [
            signed[artifact.target]
            for record in find_versions(self.ledgers, release.members)
            for artifact in record.artifacts
            if artifact.target in signed
        ]

    def _sign_new(
        self,
        proposal: Proposal,
        add: Sequence[SignedTarget],
        withdraw: Sequence[str],
        show: Show | None,
    ) -> Proposal:
        """Build, show and sign the files of a new proposal."""
        current = self.packages.current_targets()
        files = self.approver.edit(current, add=add, withdraw=withdraw)
        if show is not None:
            show(self.approver.review(current, files))
        return replace(proposal, files=self.approver.sign(files))

    def _proposal(
        self, decision: str, release: Release, reason: str, detail: Mapping[str, Any]
    ) -> Proposal:
        return Proposal(
            act=ACTS[decision],
            subject=release.subject,
            reason=reason,
            proposed_at=self.clock.now(),
            proposed_by=self.actor,
            detail=detail,
        )

    def _rebuild(
        self, proposal: Proposal, decision: str, release: Release
    ) -> tuple[list[SignedTarget], list[SignedTarget], list[str]]:
        """Give the packages concerned, and what is added and withdrawn, from what is here."""
        if decision == REJECTED:
            withdrawn = self._signed_now(release)
            return withdrawn, [], [target.path for target in withdrawn]
        slot = proposal.detail.get("slot")
        try:
            on_withdrawn = OnWithdrawn(proposal.detail.get("on_withdrawn", OnWithdrawn.STOP))
        except ValueError as error:
            raise RefusedError(f"the proposal is malformed: {error}") from error
        name = None if slot is None else str(slot)
        targets = self._inspect(release, name, on_withdrawn)
        signed = self.packages.approved()
        return targets, [t for t in targets if signed.get(t.path) != t], []

    def _finish_pending(self, decision: str, release: Release) -> Approval | None:
        """Complete this very decision when enough have signed it; refuse when something waits."""
        proposal = self.pending.load()
        if proposal is None:
            return None
        standing = self.pending.standing(proposal)
        if standing.missing or proposal.act != ACTS[decision]:
            raise RefusedError(
                f"{proposal.act} {proposal.subject} waits since"
                f" {proposal.proposed_at:%Y-%m-%d %H:%M}: {standing.missing or 'run it again'};"
                " sign it with --cosign, or drop it: `edgefleet keys forget-pending`"
            )
        release = release.proposed_by(proposal, decision)
        targets, _, _ = self._rebuild(proposal, decision, release)
        return self._conclude(proposal, release, targets)

    def _conclude(
        self, proposal: Proposal, release: Release, targets: list[SignedTarget]
    ) -> Approval:
        """Put a decision in force when enough have signed it, else let it wait."""
        decision = APPROVED if proposal.act == ACTS[APPROVED] else REJECTED
        standing = self.pending.standing(proposal)
        if standing.missing:
            self.pending.save(proposal)
            self._audit_proposal(proposal, standing.signed)
            return Approval(
                model=release.model,
                version=release.version,
                decision=decision,
                targets=tuple(targets),
                metadata_version=0,
                keyid=self.approver.keyid,
                waiting=standing.missing,
            )
        metadata_version = self.pending.put_in_force(proposal)
        self.approver.see(self.packages.current_targets())
        approval = self._record(
            release, decision, proposal.reason, targets, metadata_version, standing.signed
        )
        self.pending.clear()
        return approval

    def _audit_proposal(self, proposal: Proposal, signed: tuple[str, ...]) -> None:
        with self.ledgers() as ledger:
            ledger.audit.append(
                at=self.clock.now(),
                actor=self.actor,
                act="model.proposed",
                subject=proposal.subject,
                reason=proposal.reason,
                detail={"decision": proposal.act, "signed_by": list(signed)},
            )

    def _record(
        self,
        release: Release,
        decision: str,
        reason: str,
        targets: list[SignedTarget],
        metadata_version: int,
        signed_by: tuple[str, ...] = (),
    ) -> Approval:
        now_at, keyid = self.clock.now(), self.approver.keyid if metadata_version else ""
        with self.ledgers() as ledger:
            changed = []
            for model, version in release.members:
                state = ledger.approvals.find_state(model, version)
                if state is None:
                    raise FleetError(f"{model} {version} went away while it was being decided")
                if metadata_version or state != decision:
                    changed.append((model, version))
            for model, version in changed:
                ledger.approvals.record(
                    model=model,
                    version=version,
                    decision=decision,
                    keyid=keyid,
                    reason=reason,
                    metadata_version=metadata_version,
                    at=now_at,
                )
            if changed:
                ledger.assignments.mark_stale([target.path for target in targets])
                ledger.audit.append(
                    at=now_at,
                    actor=self.actor,
                    act=ACTS[decision],
                    subject=release.subject,
                    reason=reason,
                    detail={
                        "metadata_version": metadata_version,
                        "keyid": keyid,
                        "signed_by": list(signed_by),
                        "targets": {target.path: target.sha256 for target in targets},
                        **({} if release.version else {"listing": hash_listing(targets)}),
                    },
                )
        return Approval(
            model=release.model,
            version=release.version,
            decision=decision,
            targets=tuple(targets),
            metadata_version=metadata_version,
            keyid=keyid,
        )
