"""The signed metadata of one fleet: four TUF roles, the director's delegation, and hash bins.

``timestamp.json`` is the commit point: it names the snapshot, which names the target files.
Snapshot, timestamp and director keys are the server's; ``root`` and target files arrive signed
and are verified before they are stored. How packages lie in target files: ``target_layout``; what
is checked before they come into force: ``target_admission``.

Online metadata is level-triggered: whatever the newest root's keys did not sign is signed anew, so
a cut between a new root and its first snapshot heals by itself.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edge_agent.contract.assignment import DIRECTOR_ROLE
from edge_agent.contract.errors import TooLargeError
from edge_agent.contract.metadata import APPROVED_ROLE, encode_bundle
from fleet_server.adapters.approved_packages import ApprovedPackages, target_versions
from fleet_server.adapters.canonical_json import FastCanonicalSerializer
from fleet_server.adapters.key_files import create_key
from fleet_server.adapters.online_keys import OnlineKeys
from fleet_server.adapters.operator_folder import APPROVER_KEY, ROOT_COPY, ROOT_KEY
from fleet_server.adapters.root_edits import ROOT_DAYS, check_root
from fleet_server.adapters.target_admission import InForce, admit_files
from fleet_server.adapters.target_layout import (
    COMPACT,
    expiry,
    name_director,
    stamp_targets,
)
from fleet_server.adapters.tuf_files import TIMESTAMP_FILE, MetadataFolder
from fleet_server.durable_files import write_durable
from fleet_server.errors import RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.gateway import BinFile
from fleet_server.ports.trust import SignedTarget

SNAPSHOT_DAYS, TIMESTAMP_DAYS = 7, 1
SNAPSHOT_RENEW_AFTER = timedelta(days=1)
TIMESTAMP_RENEW_AFTER = timedelta(hours=1)
VERSIONS_KEPT, BIN_VERSIONS_KEPT = 16, 3
ONLINE_ROLES = (Snapshot.type, Timestamp.type, DIRECTOR_ROLE)
COMMON_ROLES = (Targets.type, APPROVED_ROLE)
"""Target files that every device needs; of the bins it needs those of its packages."""
ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
_SERIALIZER = FastCanonicalSerializer()


def create_repository(
    directory: Path,
    *,
    keys_dir: Path,
    operator_dir: Path,
    clock: Clock,
    passphrase: bytes | None = None,
) -> "TufRepository":
    """Make keys and first metadata; what an interrupted call left is completed.

    Args:
        directory: For the metadata.
        keys_dir: For the server's keys.
        operator_dir: For the root and approver keys and the operator's copy of the root.
        clock: For the dates.
        passphrase: Encrypts the operator's keys.
    """
    repository = TufRepository(directory, keys_dir, clock)
    if repository.exists():
        return repository
    now_at = clock.now()
    signers = {role: create_key(keys_dir / f"{role}.pem") for role in ONLINE_ROLES}
    signers[Root.type] = create_key(operator_dir / ROOT_KEY, passphrase)
    signers[Targets.type] = create_key(operator_dir / APPROVER_KEY, passphrase)

    root = Root(expires=expiry(now_at, ROOT_DAYS), consistent_snapshot=True)
    for role in ROLES:
        root.add_key(signers[role].public_key, role)
    targets = Targets()
    name_director(targets, signers[DIRECTOR_ROLE].public_key)
    stamp_targets(targets, now_at)
    signed_root, signed_targets = Metadata(root), Metadata(targets)
    signed_root.sign(signers[Root.type])
    signed_targets.sign(signers[Targets.type])
    root_bytes = signed_root.to_bytes(COMPACT)
    write_durable(operator_dir / ROOT_COPY, root_bytes)
    write_durable(directory / "1.root.json", root_bytes)
    write_durable(directory / "1.targets.json", signed_targets.to_bytes(COMPACT))
    repository.publish_first()
    return repository


class TufRepository:
    """The ``SignedPackages`` and the ``MetadataSource`` of a workspace."""

    def __init__(self, directory: Path, keys_dir: Path, clock: Clock) -> None:
        self._folder = MetadataFolder(directory)
        self._keys = OnlineKeys(keys_dir)
        self._clock = clock
        self._approved = ApprovedPackages(self._folder)
        self._checked: tuple[int, bytes] | None = None
        """Root version and timestamp of which it is known that the one names the other's key."""
        self._bin_sha256: dict[tuple[str, int], str] = {}
        """Of the bins in force, by role and version."""

    def exists(self) -> bool:
        """Tell whether metadata was ever published here."""
        return self._folder.exists()

    # Reading ------------------------------------------------------------------------------------

    def root(self) -> bytes:
        """Return the newest root."""
        return self._folder.read_role(Root.type, self._folder.newest_root())

    def roots(self) -> list[bytes]:
        """Return every root in order, the first one first."""
        newest = self._folder.newest_root()
        return [self._folder.read_role(Root.type, n) for n in range(1, newest + 1)]

    def root_sha256(self) -> str:
        """Return the fingerprint that join strings pin."""
        return hashlib.sha256(self.root()).hexdigest()

    def find_root(self, sha256: str) -> bytes:
        """Return the root of a fingerprint, the newest when there is none of it."""
        for version in self._folder.versions(Root.type):
            data = self._folder.read_role(Root.type, version)
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        return self.root()

    def current_targets(self) -> dict[str, bytes]:
        """Return every target file now in force, by role."""
        versions = target_versions(self._snapshot())
        return {role: self._folder.read_role(role, n) for role, n in versions.items()}

    def approved(self) -> Mapping[str, SignedTarget]:
        """Return what the approvers' signatures allow now, by path; parsed once a version."""
        return self._approved.read()

    def roles(self) -> dict[str, Root | Targets | Snapshot | Timestamp]:
        """Return the newest metadata of each top-level role, for people."""
        snapshot = self._snapshot()
        data = self._folder.read_role(Targets.type, target_versions(snapshot)[Targets.type])
        return {
            Root.type: self._root(),
            Targets.type: Metadata[Targets].from_bytes(data).signed,
            Snapshot.type: snapshot,
            Timestamp.type: self._timestamp(),
        }

    def bundle(self) -> dict[str, bytes]:
        """Return every root, and the newest of the other files that all devices need."""
        timestamp = self._folder.read(TIMESTAMP_FILE)
        version = Metadata[Timestamp].from_bytes(timestamp).signed.snapshot_meta.version
        snapshot = self._folder.read_role(Snapshot.type, version)
        targets = target_versions(Metadata[Snapshot].from_bytes(snapshot).signed)
        roots = (f"{n}.root.json" for n in range(1, self._folder.newest_root() + 1))
        common = (role for role in COMMON_ROLES if role in targets)
        names = (*roots, *(f"{targets[role]}.{role}.json" for role in common))
        return {
            **{name: self._folder.read(name) for name in names},
            f"{version}.snapshot.json": snapshot,
            TIMESTAMP_FILE: timestamp,
        }

    def bins(self, bundle: Mapping[str, bytes]) -> list[BinFile]:
        """Return the hash bins that the snapshot in a bundle names; none while targets are flat."""
        (data,) = (data for name, data in bundle.items() if name.endswith(".snapshot.json"))
        meta = Metadata[Snapshot].from_bytes(data).signed.meta
        named = {
            (role, file.version)
            for name, file in meta.items()
            if (role := name.removesuffix(".json")) not in COMMON_ROLES
        }
        self._bin_sha256 = {
            key: self._bin_sha256.get(key)
            or hashlib.sha256(self._folder.read_role(*key)).hexdigest()
            for key in sorted(named)
        }
        return [
            BinFile(role=role, version=version, sha256=sha256)
            for (role, version), sha256 in self._bin_sha256.items()
        ]

    def read_bin(self, bin_file: BinFile) -> bytes:
        """Return the file of one bin; raises NotFoundError."""
        return self._folder.read_role(bin_file.role, bin_file.version)

    # Writing ------------------------------------------------------------------------------------

    def publish_first(self) -> None:
        """Publish version 1 of everything."""
        with self._folder.lock():
            data = self._folder.read_role(Targets.type, 1)
            self._publish({Targets.type: data}, {Targets.type: 1}, Snapshot(), 0)

    def store_targets(self, files: Mapping[str, bytes]) -> int:
        """Make changed target files current, with a new snapshot and timestamp.

        Raises:
            RefusedError: Not signed by enough approvers, not the successors of what is stored,
                expired or dated ahead, not belonging together, or too large for the messages that
                devices receive.
        """
        with self._folder.lock():
            snapshot = self._snapshot()
            before = target_versions(snapshot)
            current = InForce(
                root=self._root(),
                versions=before,
                read=lambda role: self._folder.read_role(role, before[role]),
                directors=self._keys.keyids(DIRECTOR_ROLE),
                now_at=self._clock.now(),
            )
            versions = admit_files(files, current)
            self._check_fits(files, versions)
            self._publish(files, versions, snapshot, self._timestamp().version)
            return versions[Targets.type]

    def store_root(self, data: bytes) -> int:
        """Add the next root to the chain; raises RefusedError unless old and new root sign it.

        When it names other snapshot or timestamp keys, ``republish_online`` must follow.
        """
        with self._folder.lock():
            current = self._root()
            try:
                metadata = Metadata[Root].from_bytes(data)
                for root in (current, metadata.signed):
                    root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
            except (RepositoryError, ValueError) as error:
                raise RefusedError(f"root refused: {error}; nothing was stored") from error
            if metadata.signed.version != current.version + 1:
                raise RefusedError(
                    f"root refused: version {metadata.signed.version} does not follow"
                    f" {current.version}"
                )
            check_root(metadata.signed)
            self._folder.write(f"{metadata.signed.version}.root.json", data)
            return metadata.signed.version

    def republish_online(self) -> None:
        """Sign snapshot and timestamp anew with the keys the newest root names.

        A role whose key the root replaced starts over at version 1: devices forget what the former
        key signed, so an absurd version signed with a stolen key does not outlive the rotation.

        Raises:
            RefusedError: A key that the root names is not here; nothing was changed.
        """
        with self._folder.lock():
            self._renew(is_snapshot_due=True)

    def refresh_online(self) -> bool:
        """Sign timestamp hourly, snapshot daily, both after a rotation; cheap when none is due."""
        if not self._is_due():
            return False
        with self._folder.lock():
            if not self._is_due():
                return False
            self._renew(is_snapshot_due=False)
        return True

    def _is_due(self) -> bool:
        data = self._folder.read(TIMESTAMP_FILE)
        timestamp = Metadata[Timestamp].from_bytes(data)
        signed_at = timestamp.signed.expires - timedelta(days=TIMESTAMP_DAYS)
        if not signed_at <= self._clock.now() < signed_at + TIMESTAMP_RENEW_AFTER:
            return True
        checked = (self._folder.newest_root(), data)
        if checked == self._checked:
            return False
        root = self._root()
        snapshot = self._read_snapshot(timestamp.signed.snapshot_meta.version)
        if not (_is_named(root, timestamp) and _is_named(root, snapshot)):
            return True
        self._checked = checked
        return False

    def _renew(self, *, is_snapshot_due: bool) -> None:
        root = self._root()
        timestamp = Metadata[Timestamp].from_bytes(self._folder.read(TIMESTAMP_FILE))
        version = timestamp.signed.snapshot_meta.version
        snapshot = self._read_snapshot(version)
        is_timestamp_named, is_snapshot_named = (
            _is_named(root, timestamp),
            _is_named(root, snapshot),
        )
        signed_at = snapshot.signed.expires - timedelta(days=SNAPSHOT_DAYS)
        is_fresh = signed_at <= self._clock.now() < signed_at + SNAPSHOT_RENEW_AFTER
        if is_snapshot_due or not is_fresh or not is_snapshot_named:
            # A timestamp of the same key must never name a lower snapshot version than before.
            if not is_snapshot_named and not is_timestamp_named:
                snapshot.signed.version = 0 if version > 1 else 1  # not over the file in force
            data = self._sign_snapshot(snapshot.signed)
        else:
            data = self._folder.read_role(Snapshot.type, version)
        before = timestamp.signed.version if is_timestamp_named else 0
        self._sign_timestamp(snapshot.signed.version, data, before)
        version = snapshot.signed.version
        self._folder.prune({Snapshot.type: version}, {Snapshot.type: VERSIONS_KEPT})

    def _check_fits(self, files: Mapping[str, bytes], versions: Mapping[str, int]) -> None:
        common = {
            f"{version}.{role}.json": files[role]
            for role, version in versions.items()
            if role in COMMON_ROLES
        }
        try:
            encode_bundle({**self.bundle(), **common})
        except TooLargeError as error:
            raise RefusedError(
                f"targets refused: {error}; withdraw packages that nothing uses with `edgefleet"
                " model reject`"
            ) from error

    def _publish(
        self,
        files: Mapping[str, bytes],
        versions: Mapping[str, int],
        snapshot: Snapshot,
        timestamp_version: int,
    ) -> None:
        names = {role: f"{version}.{role}.json" for role, version in versions.items()}
        self._folder.write_all({names[role]: data for role, data in files.items()})
        for role, data in files.items():
            # A bin by version alone: the approvers sign that version in ``targets``, and five
            # hundred hashes would be most of what a device parses and verifies in an update.
            is_common = role in COMMON_ROLES
            snapshot.meta[f"{role}.json"] = (
                MetaFile.from_data(versions[role], data, ["sha256"])
                if is_common
                else MetaFile(versions[role])
            )
        signed = self._sign_snapshot(snapshot)
        self._sign_timestamp(snapshot.version, signed, timestamp_version)
        self._prune(snapshot)

    def _sign_snapshot(self, snapshot: Snapshot) -> bytes:
        """Sign the next version of ``snapshot``, which is changed, and write it."""
        snapshot.version += 1
        snapshot.expires = expiry(self._clock.now(), SNAPSHOT_DAYS)
        return self._sign(Metadata(snapshot), f"{snapshot.version}.snapshot.json")

    def _sign_timestamp(self, snapshot_version: int, snapshot: bytes, version: int) -> None:
        meta = MetaFile.from_data(snapshot_version, snapshot, ["sha256"])
        expires = expiry(self._clock.now(), TIMESTAMP_DAYS)
        timestamp = Timestamp(version=version + 1, expires=expires, snapshot_meta=meta)
        self._sign(Metadata(timestamp), TIMESTAMP_FILE)

    def _sign(self, metadata: Metadata[Any], name: str) -> bytes:
        metadata.sign(self._signer(metadata.signed.type), signed_serializer=_SERIALIZER)
        data = metadata.to_bytes(COMPACT)
        self._folder.write(name, data)
        return data

    def _signer(self, role: str) -> Signer:
        """Open the key that the newest root names; a staged successor takes its place."""
        named = self._root().roles[role].keyids
        if self._keys.staged_keyid(role) in named:
            self._keys.install(role)
        signer = self._keys.signer(role)
        if signer.public_key.keyid not in named:
            raise RefusedError(
                f"{self._keys.path(role)} is not the {role} key that the root names; restore it"
                f" from a backup, or give the server a new one with `edgefleet keys rotate {role}`"
            )
        return signer

    def _prune(self, snapshot: Snapshot) -> None:
        """Remove versions long out of use; every root stays."""
        versions = {**target_versions(snapshot), Snapshot.type: snapshot.version}
        kept = {role: VERSIONS_KEPT if role in ROLES else BIN_VERSIONS_KEPT for role in versions}
        self._folder.prune(versions, kept)

    # Files --------------------------------------------------------------------------------------

    def _root(self) -> Root:
        return Metadata[Root].from_bytes(self.root()).signed

    def _timestamp(self) -> Timestamp:
        return Metadata[Timestamp].from_bytes(self._folder.read(TIMESTAMP_FILE)).signed

    def _snapshot(self) -> Snapshot:
        return self._read_snapshot(self._timestamp().snapshot_meta.version).signed

    def _read_snapshot(self, version: int) -> Metadata[Snapshot]:
        return Metadata[Snapshot].from_bytes(self._folder.read_role(Snapshot.type, version))


def _is_named(root: Root, metadata: Metadata[Any]) -> bool:
    """Tell whether a root still names a key that signed; our own files, so by its id alone."""
    return not set(root.roles[metadata.signed.type].keyids).isdisjoint(metadata.signatures)
