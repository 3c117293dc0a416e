"""Approve or reject a registered version: the approver's signature over its packages.

The signature is the approval; the rows written afterwards only record it. So the signature comes
first, and approving again what is signed already completes the record of an interrupted call.
Nothing is signed unseen: the packages are hashed and opened here, by the approver's own process.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import SCHEMA, TargetCustom, unpack_members
from edge_agent.contract.transfer import CHUNK_BYTES
from fleet_server.errors import FleetError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import ArtifactRecord, Ledgers, PackageStore, VersionRecord
from fleet_server.ports.trust import Approver, SignedPackages, SignedTarget

APPROVED, REJECTED = "approved", "rejected"
REASON_CHARS_MAX = 1_000


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
    """

    model: str
    version: int
    decision: str
    targets: tuple[SignedTarget, ...]
    metadata_version: int
    keyid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDesk:
    """Approves and rejects versions of one fleet.

    Attributes:
        ledgers: Opens transactions.
        packages: The signed metadata.
        objects: The packages' bytes.
        approver: The key that signs.
        clock: Time of day.
        actor: Who decides, for the audit log.
    """

    ledgers: Ledgers
    packages: SignedPackages
    objects: PackageStore
    approver: Approver
    clock: Clock
    actor: str

    def prepare(self, model: str, version: int, *, slot: str | None = None) -> list[SignedTarget]:
        """Hash the packages of a version and give what would be signed.

        Args:
            model: Model name.
            version: Version number.
            slot: The only slot it may run in; None is the model's name, empty any slot.

        Raises:
            NotFoundError: No such version; names those there are.
            RefusedError: It has no packages, or a package is not what was registered.
        """
        record = self._find(model, version)
        if not record.artifacts:
            raise RefusedError(
                f"{model} {version} has no packages; train it for at least one device profile"
            )
        name = model if slot is None else slot
        return [self._inspect(record, artifact, name) for artifact in record.artifacts]

    def approve(
        self,
        model: str,
        version: int,
        reason: str = "",
        *,
        slot: str | None = None,
        show: Callable[[list[SignedTarget]], None] | None = None,
    ) -> Approval:
        """Sign every package of a version.

        Args:
            model: Model name.
            version: Version number.
            reason: Kept with the approval.
            slot: As in ``prepare``.
            show: Gets what is about to be signed; raises to stop.

        Raises:
            NotFoundError: As ``prepare``, or no key.
            RefusedError: As ``prepare``, or what is stored is not what the approvers signed.
        """
        _check_reason(reason)
        targets = self.prepare(model, version, slot=slot)
        if show is not None:
            show(targets)
        signed = self.packages.approved()
        missing = [target for target in targets if signed.get(target.path) != target]
        metadata_version = self._sign(add=missing)
        return self._record(model, version, APPROVED, reason, targets, metadata_version)

    def reject(self, model: str, version: int, reason: str) -> Approval:
        """Note that a version must not run; what was signed before is withdrawn.

        Devices that run it go on until they are assigned something else.

        Raises:
            NotFoundError: No such version, or no key where one is needed.
            RefusedError: No reason was given.
        """
        _check_reason(reason)
        if not reason.strip():
            raise RefusedError("a rejection needs a reason: --reason 'what is wrong'")
        record = self._find(model, version)
        signed = self.packages.approved()
        withdrawn = [signed[a.target] for a in record.artifacts if a.target in signed]
        metadata_version = self._sign(withdraw=[target.path for target in withdrawn])
        return self._record(model, version, REJECTED, reason, withdrawn, metadata_version)

    def _find(self, model: str, version: int) -> VersionRecord:
        with self.ledgers() as ledger:
            record = ledger.approvals.find_version(model, version)
            known = ledger.approvals.list_versions(model) if record is None else []
        if record is not None:
            return record
        if not known:
            raise NotFoundError(f"no model {model!r}; edgefleet model ls names those there are")
        listed = ", ".join(str(number) for number in known[-10:])
        raise NotFoundError(f"{model} has no version {version}; there are {listed}")

    def _inspect(self, record: VersionRecord, artifact: ArtifactRecord, slot: str) -> SignedTarget:
        blob = self.objects.read(artifact.sha256)
        try:
            schema = unpack_members(blob)[SCHEMA]
        except ContractError as error:
            raise RefusedError(f"{artifact.target} is not a package: {error}") from error
        found = (len(blob), hashlib.sha256(schema).hexdigest(), hash_chunks(blob))
        registered = (artifact.size_bytes, artifact.schema_sha256, artifact.chunks_sha256)
        if found != registered:
            raise RefusedError(
                f"{artifact.target} in the store is not what was registered (size, schema and"
                f" chunk hashes {found}, registered {registered}); nothing was signed"
            )
        return SignedTarget(
            path=artifact.target,
            sha256=artifact.sha256,
            size_bytes=len(blob),
            custom=TargetCustom(
                model=record.model,
                version=record.number,
                profile=artifact.profile,
                slot=slot,
                schema=artifact.schema_sha256,
                chunks=artifact.chunks_sha256,
            ),
        )

    def _sign(
        self, *, add: list[SignedTarget] | None = None, withdraw: list[str] | None = None
    ) -> int:
        """Sign a change and store it; return 0 when there is nothing to change."""
        if not add and not withdraw:
            return 0
        current = self.packages.current_targets()
        files = self.approver.sign_targets(current, add=add or [], withdraw=withdraw or [])
        version = self.packages.store_targets(files)
        self.approver.remember(version)
        return version

    def _record(
        self,
        model: str,
        version: int,
        decision: str,
        reason: str,
        targets: list[SignedTarget],
        metadata_version: int,
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


def hash_chunks(blob: bytes) -> str:
    """Give the sha256 over the concatenated sha256 of the package's 64 KiB chunks.

    >>> hash_chunks(b"")[:8]
    'e3b0c442'
    """
    whole = hashlib.sha256()
    for start in range(0, len(blob), CHUNK_BYTES):
        whole.update(hashlib.sha256(blob[start : start + CHUNK_BYTES]).digest())
    return whole.hexdigest()


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_CHARS_MAX:
        raise RefusedError(
            f"the reason has {len(reason)} characters, the limit is {REASON_CHARS_MAX}"
        )
