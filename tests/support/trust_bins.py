"""A fleet's signed files straight from python-tuf's data model: flat, or in hash bins.

Independent of the server's code: what a device must follow is made here from the format alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.contract.assignment import PAYLOAD_TYPE, Assignment, SlotAssignment
from edge_agent.contract.package import OnWithdrawn, TargetCustom
from edge_agent.core.release import PackageKey
from tests.support.clock import FakeClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FLEET, DEVICE, PROFILE = "fleet-1", "cam-1", "camera"
COMPACT = JSONSerializer(compact=True)
SHA = "a" * 64


def path_of(version: int, model: str = "digits") -> str:
    return f"{model}/{version}/{PROFILE}.tar"


def key_of(path: str) -> PackageKey:
    return PackageKey(target=path, sha256=hashlib.sha256(path.encode()).hexdigest())


@dataclass
class SignedFleet:
    """Approves, withdraws and publishes; ``bit_length`` of None is the flat layout."""

    bit_length: int | None = None
    clock: FakeClock = field(default_factory=lambda: FakeClock(NOW))
    packages: dict[str, OnWithdrawn] = field(default_factory=dict)
    keys: dict[str, CryptoSigner] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    online_version: int = 0
    bins: dict[str, bytes] = field(default_factory=dict)
    is_signing_versions: bool = True
    _contents: dict[str, dict[str, TargetFile]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("root", "approver", "online", "director"):
            self.keys[name] = CryptoSigner.generate_ed25519()
        root = Root(expires=NOW + timedelta(days=730))
        root.add_key(self.keys["root"].public_key, "root")
        root.add_key(self.keys["approver"].public_key, "targets")
        for role in ("snapshot", "timestamp"):
            root.add_key(self.keys["online"].public_key, role)
        self.root = self._sign(Metadata(root), "root")

    def verifier(self, directory: Path, clock: FakeClock | None = None) -> TufVerifier:
        return TufVerifier(
            directory=directory,
            bootstrap_root=self.root,
            device_id=DEVICE,
            fleet=FLEET,
            profile=PROFILE,
            clock=clock or self.clock,
        )

    def publish(self, *, days: float = 1) -> dict[str, bytes]:
        """Sign everything anew that changed; return ``meta/current`` and keep the bins apart."""
        files: dict[str, bytes] = {}
        if self.bit_length is not None:
            files |= self._publish_bins(self.bit_length)
        files |= self._publish_targets()
        self.online_version += 1
        snapshot = Snapshot(
            version=self.online_version,
            expires=self.clock.now() + timedelta(days=7),
            meta={f"{role}.json": MetaFile(version=v) for role, v in self.versions.items()},
        )
        timestamp = Timestamp(
            version=self.online_version,
            expires=self.clock.now() + timedelta(days=days),
            snapshot_meta=MetaFile(version=self.online_version),
        )
        files[f"{self.online_version}.snapshot.json"] = self._sign(Metadata(snapshot), "online")
        files["timestamp.json"] = self._sign(Metadata(timestamp), "online")
        return files

    def bin_of(self, path: str) -> str:
        assert self.bit_length is not None
        return SuccinctRoles([], 1, self.bit_length, "packages").get_role_for_target(path)

    def bin_file(self, path: str) -> dict[str, bytes]:
        """The message of the bin that speaks for a path."""
        role = self.bin_of(path)
        return {f"{self.versions[role]}.{role}.json": self.bins[role]}

    def assign(self, target: str, counter: int, *, key: str = "director") -> bytes:
        assignment = Assignment(
            fleet=FLEET,
            device=DEVICE,
            counter=counter,
            issued_at=self.clock.now(),
            expires_at=self.clock.now() + timedelta(days=7),
            slots={"digits": SlotAssignment(target=target)},
        )
        envelope = Envelope(assignment.encode(), PAYLOAD_TYPE, {})
        envelope.sign(self.keys[key])
        return json.dumps(envelope.to_dict()).encode()

    def _publish_targets(self) -> dict[str, bytes]:
        flat = self._targets_of(self.packages) if self.bit_length is None else {}
        version = self._next("targets")
        director, approver = (self.keys[name].public_key for name in ("director", "approver"))
        roles = {"director": DelegatedRole("director", [director.keyid], 1, True, paths=[])}
        if self.bit_length is not None:
            roles["approved"] = DelegatedRole(
                "approved", [approver.keyid], 1, True, paths=["*/*/*"]
            )
        targets = Targets(
            version=version,
            expires=self.clock.now() + timedelta(days=180),
            targets=flat,
            delegations=Delegations({director.keyid: director, approver.keyid: approver}, roles),
        )
        targets.unrecognized_fields["x-issued"] = self.clock.now().isoformat()
        if self.bit_length is not None and self.is_signing_versions:
            names = SuccinctRoles([], 1, self.bit_length, "packages").get_roles()
            targets.unrecognized_fields["x-versions"] = {
                "approved": self.versions["approved"],
                "packages": [self.versions[name] for name in names],
            }
        return {f"{version}.targets.json": self._sign(Metadata(targets), "approver")}

    def _publish_bins(self, bit_length: int) -> dict[str, bytes]:
        approver = self.keys["approver"].public_key
        succinct = SuccinctRoles([approver.keyid], 1, bit_length, "packages")
        spread: dict[str, dict[str, OnWithdrawn]] = {}
        for path, policy in self.packages.items():
            spread.setdefault(succinct.get_role_for_target(path), {})[path] = policy
        for role in succinct.get_roles():
            targets = self._targets_of(spread.get(role, {}))
            if role in self.bins and self._contents[role] == targets:
                continue
            self._contents[role] = targets
            self.bins[role] = self._sign(Metadata(self._delegated(role, targets)), "approver")
        version = self._next("approved")
        approved = Targets(
            version=version,
            expires=self.clock.now() + timedelta(days=365),
            delegations=Delegations({approver.keyid: approver}, None, succinct),
            unrecognized_fields={"x-role": "approved"},
        )
        return {f"{version}.approved.json": self._sign(Metadata(approved), "approver")}

    def _delegated(self, role: str, targets: Mapping[str, TargetFile]) -> Targets:
        return Targets(
            version=self._next(role),
            expires=self.clock.now() + timedelta(days=365),
            targets=dict(targets),
            unrecognized_fields={"x-role": role},
        )

    def _targets_of(self, packages: Mapping[str, OnWithdrawn]) -> dict[str, TargetFile]:
        return {path: _target(path, policy) for path, policy in packages.items()}

    def _next(self, role: str) -> int:
        self.versions[role] = self.versions.get(role, 0) + 1
        return self.versions[role]

    def _sign(self, metadata: Metadata[Any], key: str) -> bytes:
        metadata.sign(self.keys[key])
        return metadata.to_bytes(COMPACT)


def _target(path: str, policy: OnWithdrawn) -> TargetFile:
    model, version, _ = path.split("/")
    custom = TargetCustom(
        model=model,
        version=int(version),
        profile=PROFILE,
        slot="",
        schema=SHA,
        chunks=SHA,
        on_withdrawn=policy,
    )
    data = path.encode()
    return TargetFile(
        len(data), {"sha256": hashlib.sha256(data).hexdigest()}, path, {"custom": custom.to_json()}
    )
