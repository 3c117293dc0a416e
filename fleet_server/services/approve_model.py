"""Approve or reject a registered version: the approver's signature over its packages.

The signature is the approval; the rows written afterwards only record it. So the signature comes
first, and approving again what is signed already completes the record of an interrupted call.
Nothing is signed unseen: the packages are hashed and opened here, by the approver's own process,
and the files to be signed are built here. Where several approvers must sign, the first signature
leaves a proposal on the server; the others build it once more from what they know and from the
packages, and refuse one that holds anything else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edge_agent.contract.package import OnWithdrawn
from fleet_server.errors import FleetError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Ledgers, PackageStore
from fleet_server.ports.keys import PendingStore, Proposal, Signatory, TargetsReview
from fleet_server.ports.trust import SignedPackages, SignedTarget
from fleet_server.services.inspect_packages import find_version, inspect_packages

APPROVED, REJECTED = "approved", "rejected"
ACTS = {APPROVED: f"model.{APPROVED}", REJECTED: f"model.{REJECTED}"}
REASON_CHARS_MAX = 1_000

Show = Callable[[TargetsReview], None]
"""Shows a person what is about to be signed; raises to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What was signed or withdrawn.

    Attributes:
        model: Model name.
        version: Version number.
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
        """Hash the packages of a version and give what would be signed.

        Args:
            model: Model name.
            version: Version number.
            slot: The only slot it may run in; None is the model's name, empty any slot.
            on_withdrawn: What devices that run it do when it is withdrawn.

        Raises:
            NotFoundError: No such version; names those there are.
            RefusedError: It has no packages, or a package is not what was registered.
        """
        record = find_version(self.ledgers, model, version)
        name = model if slot is None else slot
        return inspect_packages(self.objects, record, slot=name, on_withdrawn=on_withdrawn)

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
        """Sign every package of a version.

        Args:
            model: Model name.
            version: Version number.
            reason: Kept with the approval.
            slot: As in ``prepare``.
            on_withdrawn: As in ``prepare``.
            show: Gets what is about to be signed; raises to stop.

        Raises:
            NotFoundError: As ``prepare``, or no key.
            RefusedError: As ``prepare``, something else waits for a signature, or what is stored
                is not what the approvers signed.
        """
        _check_reason(reason)
        if (done := self._finish_pending(APPROVED, model, version)) is not None:
            return done
        targets = self.prepare(model, version, slot=slot, on_withdrawn=on_withdrawn)
        signed = self.packages.approved()
        missing = [target for target in targets if signed.get(target.path) != target]
        if not missing:
            # Believed only once this person's machine has verified who signed what is stored.
            self.approver.edit(self.packages.current_targets(), add=(), withdraw=())
            return self._record(model, version, APPROVED, reason, targets, 0)
        detail = {"slot": slot, "on_withdrawn": str(on_withdrawn)}
        proposal = self._sign_new(
            self._proposal(APPROVED, f"{model}/{version}", reason, detail), missing, (), show
        )
        return self._conclude(proposal, model, version, targets)

    def reject(
        self, model: str, version: int, reason: str, *, show: Show | None = None
    ) -> Approval:
        """Note that a version must not run; what was signed before is withdrawn.

        Raises:
            NotFoundError: No such version, or no key where one is needed.
            RefusedError: No reason was given, or something else waits for a signature.
        """
        _check_reason(reason)
        if not reason.strip():
            raise RefusedError("a rejection needs a reason: --reason 'what is wrong'")
        if (done := self._finish_pending(REJECTED, model, version)) is not None:
            return done
        withdrawn = self._signed_now(model, version)
        if not withdrawn:
            return self._record(model, version, REJECTED, reason, withdrawn, 0)
        proposal = self._sign_new(
            self._proposal(REJECTED, f"{model}/{version}", reason, {}),
            (),
            [target.path for target in withdrawn],
            show,
        )
        return self._conclude(proposal, model, version, withdrawn)

    def cosign(
        self, decision: str, model: str, version: int, *, show: Show | None = None
    ) -> Approval:
        """Add this person's signature to what waits; this machine builds it once more first.

        Args:
            decision: ``approved`` or ``rejected``.
            model: Model name.
            version: Version number.
            show: Gets what is about to be signed; raises to stop.

        Raises:
            NotFoundError: Nothing waits.
            RefusedError: Something else waits, it holds more than it says, or this key has signed
                it or does not count.
        """
        proposal = self.pending.load()
        if proposal is None:
            raise NotFoundError(f"nothing waits for a signature; approve {model} {version} first")
        _check_is(proposal, decision, model, version)
        before = self.pending.standing(proposal)
        targets, add, withdraw = self._rebuild(proposal, decision, model, version)
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
        return self._conclude(proposal, model, version, targets)

    def _signed_now(self, model: str, version: int) -> list[SignedTarget]:
        record = find_version(self.ledgers, model, version)
        signed = self.packages.approved()
        return [signed[a.target] for a in record.artifacts if a.target in signed]

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
        self, decision: str, subject: str, reason: str, detail: Mapping[str, str | None]
    ) -> Proposal:
        return Proposal(
            act=ACTS[decision],
            subject=subject,
            reason=reason,
            proposed_at=self.clock.now(),
            proposed_by=self.actor,
            detail=detail,
        )

    def _rebuild(
        self, proposal: Proposal, decision: str, model: str, version: int
    ) -> tuple[list[SignedTarget], list[SignedTarget], list[str]]:
        """Give the packages concerned, and what is added and withdrawn, from what is here."""
        if decision == REJECTED:
            withdrawn = self._signed_now(model, version)
            return withdrawn, [], [target.path for target in withdrawn]
        slot = proposal.detail.get("slot")
        try:
            on_withdrawn = OnWithdrawn(proposal.detail.get("on_withdrawn", OnWithdrawn.STOP))
        except ValueError as error:
            raise RefusedError(f"the proposal is malformed: {error}") from error
        targets = self.prepare(
            model,
            version,
            slot=None if slot is None else str(slot),
            on_withdrawn=on_withdrawn,
        )
        signed = self.packages.approved()
        return targets, [t for t in targets if signed.get(t.path) != t], []

    def _finish_pending(self, decision: str, model: str, version: int) -> Approval | None:
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
        _check_is(proposal, decision, model, version)
        targets, _, _ = self._rebuild(proposal, decision, model, version)
        return self._conclude(proposal, model, version, targets)

    def _conclude(
        self, proposal: Proposal, model: str, version: int, targets: list[SignedTarget]
    ) -> Approval:
        """Put a decision in force when enough have signed it, else let it wait."""
        decision = APPROVED if proposal.act == ACTS[APPROVED] else REJECTED
        standing = self.pending.standing(proposal)
        if standing.missing:
            self.pending.save(proposal)
            self._audit_proposal(proposal, standing.signed)
            return Approval(
                model=model,
                version=version,
                decision=decision,
                targets=tuple(targets),
                metadata_version=0,
                keyid=self.approver.keyid,
                waiting=standing.missing,
            )
        metadata_version = self.pending.put_in_force(proposal)
        self.approver.see(self.packages.current_targets())
        approval = self._record(
            model, version, decision, proposal.reason, targets, metadata_version, standing.signed
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
        model: str,
        version: int,
        decision: str,
        reason: str,
        targets: list[SignedTarget],
        metadata_version: int,
        signed_by: tuple[str, ...] = (),
    ) -> Approval:
        now_at, keyid = self.clock.now(), self.approver.keyid if metadata_version else ""
        with self.ledgers() as ledger:
            record = ledger.approvals.find_version(model, version)
            if record is None:
                raise FleetError(f"{model} {version} went away while it was being decided")
            if metadata_version or record.state != decision:
                ledger.approvals.record(
                    model=model,
                    version=version,
                    decision=decision,
                    keyid=keyid,
                    reason=reason,
                    metadata_version=metadata_version,
                    at=now_at,
                )
                ledger.assignments.mark_stale([target.path for target in targets])
                ledger.audit.append(
                    at=now_at,
                    actor=self.actor,
                    act=f"model.{decision}",
                    subject=f"{model}/{version}",
                    reason=reason,
                    detail={
                        "metadata_version": metadata_version,
                        "keyid": keyid,
                        "signed_by": list(signed_by),
                        "targets": {target.path: target.sha256 for target in targets},
                    },
                )
        return Approval(
            model=model,
            version=version,
            decision=decision,
            targets=tuple(targets),
            metadata_version=metadata_version,
            keyid=keyid,
        )


def _check_is(proposal: Proposal, decision: str, model: str, version: int) -> None:
    if (proposal.act, proposal.subject) != (ACTS[decision], f"{model}/{version}"):
        raise RefusedError(
            f"what waits is {proposal.act} {proposal.subject}, proposed by"
            f" {proposal.proposed_by}; name that one, or drop it: `edgefleet keys forget-pending`"
        )


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_CHARS_MAX:
        raise RefusedError(
            f"the reason has {len(reason)} characters, the limit is {REASON_CHARS_MAX}"
        )
