"""One small fleet of trust on disk: real repository, real keys, one device's real verifier."""

import hashlib
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.contract.assignment import Assignment, SlotAssignment, target_path
from edge_agent.contract.package import TargetCustom
from edge_agent.core.verified import AcceptedTrust, VerifiedAssignment
from fleet_server.adapters.approver_keys import OperatorKeys
from fleet_server.adapters.director import Director
from fleet_server.adapters.key_files import load_key
from fleet_server.adapters.target_layout import COMPACT, stamp_targets
from fleet_server.adapters.tuf_repository import TufRepository, create_repository
from fleet_server.ports.trust import SignedTarget
from tests.support.clock import FakeClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FLEET, DEVICE, PROFILE, SLOT = "fleet-1", "cam-1", "camera", "digits"
V1, V2 = target_path(SLOT, 1, PROFILE), target_path(SLOT, 2, PROFILE)
OTHER_PROFILE = target_path(SLOT, 2, "iot-gateway")
UNSIGNED = target_path(SLOT, 99, PROFILE)


def make_target(path: str, *, slot: str = SLOT, data: bytes | None = None) -> SignedTarget:
    """A target whose bytes are its path unless told otherwise."""
    model, version, file = path.split("/")
    data = path.encode() if data is None else data
    digest = hashlib.sha256(data).hexdigest()
    custom = TargetCustom(
        model=model,
        version=int(version),
        profile=file.removesuffix(".tar"),
        slot=slot,
        schema=hashlib.sha256(b"schema").hexdigest(),
        chunks=hashlib.sha256(bytes.fromhex(digest)).hexdigest(),
    )
    return SignedTarget(path=path, sha256=digest, size_bytes=len(data), custom=custom)


class TrustServer:
    """The server's side: metadata, its keys, the operator's keys; in good hands or bad."""

    def __init__(
        self,
        repository: TufRepository,
        *,
        tuf_dir: Path,
        keys_dir: Path,
        operator_dir: Path,
        fleet: str,
        clock: FakeClock,
    ) -> None:
        self.repository, self.fleet, self.clock = repository, fleet, clock
        self.tuf_dir, self.keys_dir, self.operator_dir = tuf_dir, keys_dir, operator_dir
        self.operator = OperatorKeys(operator_dir, clock)

    # The people -----------------------------------------------------------------------------

    def approve(self, *paths: str, withdraw: tuple[str, ...] = ()) -> int:
        files = self.operator.sign_targets(
            self.repository.current_targets(),
            add=[make_target(path) for path in paths],
            withdraw=withdraw,
        )
        version = self.repository.store_targets(files)
        self.operator.remember(version)
        return version

    def rotate(self, *roles: str) -> None:
        """Give online roles new keys by a root the root key signs."""
        metadata = Metadata[Root].from_bytes(self.repository.root())
        root = metadata.signed
        root.version += 1
        for role in roles:
            (keyid,) = root.roles[role].keyids
            root.revoke_key(keyid, role)
            root.add_key(self.new_key(role).public_key, role)
        metadata.sign(self.key("root"))
        self.repository.store_root(metadata.to_bytes(COMPACT))

    def rotate_director(self) -> None:
        """Name a new director in ``targets``, as the approvers do when its key was stolen."""
        old = self.key("director").public_key.keyid
        new = self.new_key("director")

        def edit(targets: Targets) -> None:
            targets.revoke_key(old, "director")
            targets.add_key(new.public_key, "director")

        self.publish_targets(edit, self.key("approver"))

    # The server's keys, in good hands or bad --------------------------------------------------

    def key(self, name: str) -> CryptoSigner:
        in_operator = name in ("root", "approver")
        return load_key((self.operator_dir if in_operator else self.keys_dir) / f"{name}.pem")

    def new_key(self, role: str) -> CryptoSigner:
        signer = CryptoSigner.generate_ed25519()
        (self.keys_dir / f"{role}.pem").write_bytes(signer.private_bytes)
        return signer

    def publish_targets(self, edit: Any, *signers: CryptoSigner, version_step: int = 1) -> None:
        """Publish edited ``targets`` with the online keys, whoever signed them."""
        metadata = Metadata[Targets].from_bytes(self.repository.current_targets()["targets"])
        edit(metadata.signed)
        metadata.signed.version += version_step
        stamp_targets(metadata.signed, self.clock.now())
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        self.publish_raw(metadata.to_bytes(COMPACT), metadata.signed.version)

    def publish_raw(self, data: bytes, version: int) -> None:
        repository = self.repository
        snapshot, timestamp = repository._snapshot(), repository._timestamp()
        repository._publish({"targets": data}, {"targets": version}, snapshot, timestamp.version)

    def fast_forward_online(self, version: int) -> None:
        """Publish snapshot and timestamp with an absurd version."""
        repository, targets = self.repository, self.repository.current_targets()["targets"]
        snapshot = Snapshot(version=version - 1)
        current = Metadata[Targets].from_bytes(targets).signed.version
        repository._publish({"targets": targets}, {"targets": current}, snapshot, version - 1)

    def refresh(self) -> dict[str, bytes]:
        self.repository.refresh_online()
        return self.repository.bundle()

    def assign(
        self,
        target: str,
        counter: int,
        *,
        slot: str = SLOT,
        device: str = DEVICE,
        fleet: str | None = None,
        days: float = 7,
        issued_at: datetime | None = None,
        director: Director | None = None,
    ) -> bytes:
        issued_at = issued_at or self.clock.now()
        assignment = Assignment(
            fleet=fleet or self.fleet,
            device=device,
            counter=counter,
            issued_at=issued_at,
            expires_at=issued_at + timedelta(days=days),
            slots={slot: SlotAssignment(target=target)},
        )
        return (director or Director(self.keys_dir)).seal(assignment)


class TrustWorld(TrustServer):
    """A fleet with digits/1 and digits/2 approved, and one camera that has accepted nothing."""

    def __init__(self, directory: Path, *, fleet: str = FLEET) -> None:
        self.directory = directory
        tuf_dir, keys_dir, operator_dir = (directory / n for n in ("tuf", "keys", "operator"))
        clock = FakeClock(NOW)
        repository = create_repository(
            tuf_dir, keys_dir=keys_dir, operator_dir=operator_dir, clock=clock
        )
        super().__init__(
            repository,
            tuf_dir=tuf_dir,
            keys_dir=keys_dir,
            operator_dir=operator_dir,
            fleet=fleet,
            clock=clock,
        )
        self.pinned_root = self.repository.root()
        self.device_clock = FakeClock(NOW)
        self.accepted = AcceptedTrust()
        self.verifier = self.make_verifier()

    def make_verifier(self, device: str = DEVICE, profile: str = PROFILE) -> TufVerifier:
        return TufVerifier(
            directory=self.directory / f"device-{device}",
            bootstrap_root=self.pinned_root,
            device_id=device,
            fleet=self.fleet,
            profile=profile,
            clock=self.device_clock,
        )

    def copy(self, directory: Path) -> "TrustWorld":
        """Go on from here in another directory."""
        shutil.copytree(self.directory, directory, symlinks=True)
        world = TrustWorld(directory, fleet=self.fleet)
        world.pinned_root, world.accepted = self.pinned_root, self.accepted
        return world

    # The device -------------------------------------------------------------------------------

    def handle(self, files: Mapping[str, bytes], envelope: bytes) -> VerifiedAssignment:
        """Evaluate and commit, as the agent does."""
        verified = self.verifier.evaluate(files, envelope, self.accepted)
        self.accepted = verified.accepted
        return verified

    def advance(self, *, days: float = 0) -> None:
        """Let time pass for server and device."""
        for clock in (self.clock, self.device_clock):
            clock.advance(days * 86_400)


def newest(files: Mapping[str, bytes], role: str) -> str:
    """Name of the newest file of a role in a bundle."""
    names = [name for name in files if name.endswith(f"{role}.json")]
    return max(names, key=lambda name: int(name.split(".")[0]) if name[0].isdigit() else 0)
