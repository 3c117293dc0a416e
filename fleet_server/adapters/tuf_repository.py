"""The signed metadata of one fleet on disk: four TUF roles and the director's delegation.

``timestamp.json`` is the commit point: it names the snapshot, which names ``targets``; files of
other versions are never read. Writers hold a lock file, readers need none. Snapshot, timestamp
and director keys are the server's; ``root`` and ``targets`` arrive signed and are verified
before they are stored. All targets are in ``targets`` (flat), enough for about a thousand.
"""

import fcntl
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from edge_agent.contract.assignment import DIRECTOR_ROLE
from edge_agent.contract.errors import ContractError, TooLargeError
from edge_agent.contract.metadata import encode_bundle
from fleet_server.adapters.approver_keys import (
    APPROVER_KEY,
    ROOT_COPY,
    ROOT_DAYS,
    ROOT_KEY,
    create_key,
)
from fleet_server.adapters.online_keys import OnlineKeys
from fleet_server.adapters.root_edits import check_root
from fleet_server.adapters.target_layout import (
    COMPACT,
    ISSUED_FIELD,
    expiry,
    read_file,
    stamp_targets,
)
from fleet_server.durable_files import write_durable
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.trust import SignedTarget

SNAPSHOT_DAYS, TIMESTAMP_DAYS = 7, 1
SNAPSHOT_RENEW_AFTER = timedelta(days=1)
TIMESTAMP_RENEW_AFTER = timedelta(hours=1)
CLOCK_AHEAD_MAX = timedelta(minutes=10)
OLD_VERSIONS_KEPT = 16
VERSION_MAX = 99_999_999
"""The wire takes file names of nine digits."""
ONLINE_ROLES = (Snapshot.type, Timestamp.type, DIRECTOR_ROLE)
ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)


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
    director = signers[DIRECTOR_ROLE].public_key
    # The director speaks for no target path: its key signs assignments and nothing else.
    nowhere = DelegatedRole(DIRECTOR_ROLE, [director.keyid], 1, terminating=True, paths=[])
    targets = Targets(delegations=Delegations({director.keyid: director}, {DIRECTOR_ROLE: nowhere}))
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
    """The ``SignedPackages`` of a workspace."""

    def __init__(self, directory: Path, keys_dir: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._approved: tuple[int, Mapping[str, SignedTarget]] = (0, {})
        self._keys = OnlineKeys(keys_dir)

    def exists(self) -> bool:
        """Tell whether metadata was ever published here."""
        return (self._directory / "timestamp.json").is_file()

    # Reading ------------------------------------------------------------------------------------

    def root(self) -> bytes:
        """Return the newest root."""
        return self._read(f"{self._root_version()}.root.json")

    def roots(self) -> list[bytes]:
        """Return every root in order, the first one first."""
        return [self._read(f"{n}.root.json") for n in range(1, self._root_version() + 1)]

    def root_sha256(self) -> str:
        """Return the fingerprint that join strings pin."""
        return hashlib.sha256(self.root()).hexdigest()

    def find_root(self, sha256: str) -> bytes:
        """Return the root of a fingerprint, the newest when there is none of it."""
        for version in self._versions(Root.type):
            data = self._read(f"{version}.root.json")
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        return self.root()

    def current_targets(self) -> dict[str, bytes]:
        """Return every target file now in force, by role."""
        name = f"{_targets_version(self._snapshot())}.targets.json"
        return {Targets.type: self._read(name)}

    def approved(self) -> Mapping[str, SignedTarget]:
        """Return what the approvers' signature allows now, by path; parsed once a version."""
        version = _targets_version(self._snapshot())
        if self._approved[0] != version:
            data = self._read(f"{version}.targets.json")
            self._approved = (version, read_file(Metadata[Targets].from_bytes(data).signed))
        return self._approved[1]

    def roles(self) -> dict[str, Root | Targets | Snapshot | Timestamp]:
        """Return the newest metadata of each role, for people."""
        return {
            Root.type: self._root(),
            Targets.type: Metadata[Targets].from_bytes(self.current_targets()[Targets.type]).signed,
            Snapshot.type: self._snapshot(),
            Timestamp.type: self._timestamp(),
        }

    def bundle(self) -> dict[str, bytes]:
        """Return every root, and the newest targets, snapshot and timestamp."""
        timestamp = self._read("timestamp.json")
        version = Metadata[Timestamp].from_bytes(timestamp).signed.snapshot_meta.version
        snapshot = self._read(f"{version}.snapshot.json")
        targets = _targets_version(Metadata[Snapshot].from_bytes(snapshot).signed)
        roots = (f"{n}.root.json" for n in range(1, self._root_version() + 1))
        return {
            **{name: self._read(name) for name in roots},
            f"{targets}.targets.json": self._read(f"{targets}.targets.json"),
            f"{version}.snapshot.json": snapshot,
            "timestamp.json": timestamp,
        }

    # Writing ------------------------------------------------------------------------------------

    def publish_first(self) -> None:
        """Publish version 1 of everything."""
        with self._lock():
            self._publish(self._read("1.targets.json"), 1, Snapshot(), 0)

    def store_targets(self, files: Mapping[str, bytes]) -> int:
        """Make changed target files current, with a new snapshot and timestamp.

        Raises:
            RefusedError: Not signed by enough approvers, not the successor of what is stored,
                expired or dated ahead, or it would not fit the message devices receive.
        """
        with self._lock():
            snapshot, data = self._snapshot(), files[Targets.type]
            version = self._check_targets(data, _targets_version(snapshot))
            self._publish(data, version, snapshot, self._timestamp().version)
            self._prune()
            return version

    def store_root(self, data: bytes) -> int:
        """Add the next root to the chain; raises RefusedError unless old and new root sign it."""
        with self._lock():
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
            write_durable(self._directory / f"{metadata.signed.version}.root.json", data)
            return metadata.signed.version

    def refresh_online(self) -> bool:
        """Sign timestamp hourly and snapshot daily anew; cheap when nothing is due."""
        now_at = self._clock.now()
        if not self._is_timestamp_due(now_at):
            return False
        with self._lock():
            timestamp = self._timestamp()
            if not self._is_timestamp_due(now_at):
                return False
            snapshot = self._snapshot()
            data = self._read(f"{snapshot.version}.snapshot.json")
            signed_at = snapshot.expires - timedelta(days=SNAPSHOT_DAYS)
            if not signed_at <= now_at < signed_at + SNAPSHOT_RENEW_AFTER:
                data = self._sign_snapshot(snapshot)
            self._sign_timestamp(snapshot.version, data, timestamp.version)
            self._prune()
        return True

    def republish_online(self) -> None:
        """Sign snapshot and timestamp anew with the keys of now; numbers too high start anew.

        Devices forget versions that keys of before signed: so a stolen key that ran the numbers up
        locks nobody out once it was rotated.
        """
        with self._lock():
            snapshot, timestamp = self._snapshot(), self._timestamp()
            if max(snapshot.version, timestamp.version) > VERSION_MAX:
                snapshot.version = timestamp.version = 0
            data = self._sign_snapshot(snapshot)
            self._sign_timestamp(snapshot.version, data, timestamp.version)
            for version in self._versions(Snapshot.type):
                if version > snapshot.version:
                    (self._directory / f"{version}.snapshot.json").unlink(missing_ok=True)

    def _is_timestamp_due(self, now_at: datetime) -> bool:
        signed_at = self._timestamp().expires - timedelta(days=TIMESTAMP_DAYS)
        return not signed_at <= now_at < signed_at + TIMESTAMP_RENEW_AFTER

    def _check_targets(self, data: bytes, current: int) -> int:
        try:
            metadata = Metadata[Targets].from_bytes(data)
            self._root().verify_delegate(Targets.type, metadata.signed_bytes, metadata.signatures)
            read_file(metadata.signed)
            issued_at = datetime.fromisoformat(metadata.signed.unrecognized_fields[ISSUED_FIELD])
        except (RepositoryError, ContractError, ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                f"targets refused: {error}; nothing was stored; `edgefleet model approve` signs"
                " with the approver's key"
            ) from error
        targets = metadata.signed
        if targets.version != current + 1:
            raise RefusedError(
                f"targets refused: version {targets.version} does not follow {current}; somebody"
                " else signed meanwhile, do it again"
            )
        now_at = self._clock.now()
        if issued_at > now_at + CLOCK_AHEAD_MAX or targets.is_expired(now_at):
            raise RefusedError(
                f"targets refused: issued {issued_at.isoformat()} and expiring"
                f" {targets.expires.isoformat()}, the server's clock says {now_at.isoformat()};"
                " set the clocks"
            )
        roles = targets.delegations.roles if targets.delegations else None
        role = roles.get(DIRECTOR_ROLE) if roles else None
        if role is None or self._keys.keyids(DIRECTOR_ROLE).isdisjoint(role.keyids):
            raise RefusedError("targets refused: they do not name this server's director key")
        self._check_fits(data, targets)
        return targets.version

    def _check_fits(self, data: bytes, targets: Targets) -> None:
        try:
            encode_bundle({**self.bundle(), f"{targets.version}.targets.json": data})
        except TooLargeError as error:
            raise RefusedError(
                f"targets refused: {len(targets.targets)} packages: {error}; withdraw some with"
                " `edgefleet model reject`"
            ) from error

    def _publish(
        self, data: bytes, version: int, snapshot: Snapshot, timestamp_version: int
    ) -> None:
        write_durable(self._directory / f"{version}.targets.json", data)
        snapshot.meta["targets.json"] = MetaFile.from_data(version, data, ["sha256"])
        signed = self._sign_snapshot(snapshot)
        self._sign_timestamp(snapshot.version, signed, timestamp_version)

    def _sign_snapshot(self, snapshot: Snapshot) -> bytes:
        """Sign the next version of ``snapshot``, which is changed, and write it."""
        snapshot.version += 1
        snapshot.expires = expiry(self._clock.now(), SNAPSHOT_DAYS)
        return self._sign(Metadata(snapshot), f"{snapshot.version}.snapshot.json")

    def _sign_timestamp(self, snapshot_version: int, snapshot: bytes, version: int) -> None:
        meta = MetaFile.from_data(snapshot_version, snapshot, ["sha256"])
        expires = expiry(self._clock.now(), TIMESTAMP_DAYS)
        timestamp = Timestamp(version=version + 1, expires=expires, snapshot_meta=meta)
        self._sign(Metadata(timestamp), "timestamp.json")

    def _sign(self, metadata: Metadata[Any], name: str) -> bytes:
        metadata.sign(self._keys.signer(metadata.signed.type))
        data = metadata.to_bytes(COMPACT)
        write_durable(self._directory / name, data)
        return data

    def _prune(self) -> None:
        """Remove versions long out of use; every root stays."""
        for role in (Targets.type, Snapshot.type):
            versions = self._versions(role)
            for version in versions[:-OLD_VERSIONS_KEPT]:
                (self._directory / f"{version}.{role}.json").unlink(missing_ok=True)

    # Files --------------------------------------------------------------------------------------

    def _root(self) -> Root:
        return Metadata[Root].from_bytes(self.root()).signed

    def _timestamp(self) -> Timestamp:
        return Metadata[Timestamp].from_bytes(self._read("timestamp.json")).signed

    def _snapshot(self) -> Snapshot:
        version = self._timestamp().snapshot_meta.version
        return Metadata[Snapshot].from_bytes(self._read(f"{version}.snapshot.json")).signed

    def _root_version(self) -> int:
        versions = self._versions(Root.type)
        if not versions:
            raise self._absent("1.root.json")
        return versions[-1]

    def _versions(self, role: str) -> list[int]:
        names = (path.name.split(".")[0] for path in self._directory.glob(f"*.{role}.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def _read(self, name: str) -> bytes:
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError as error:
            raise self._absent(name) from error

    def _absent(self, name: str) -> NotFoundError:
        return NotFoundError(
            f"{self._directory / name} is missing: run `edgefleet init`, or restore the folder"
            " from a backup"
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other writers out; the kernel frees the lock with the process."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _targets_version(snapshot: Snapshot) -> int:
    return snapshot.meta["targets.json"].version
