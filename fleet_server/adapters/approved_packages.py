"""What the approvers allow now, read from the signed files once a version.

Beyond a thousand packages a change touches few of hundreds of files; only those are parsed again.
The mapping that was handed out never changes: a new one takes its place.
"""

from collections.abc import Mapping

from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from edge_agent.contract.metadata import APPROVED_ROLE
from fleet_server.adapters.target_layout import read_file
from fleet_server.adapters.tuf_files import TIMESTAMP_FILE, MetadataFolder
from fleet_server.ports.trust import SignedTarget


class ApprovedPackages:
    """The packages of one directory's metadata, by path."""

    def __init__(self, folder: MetadataFolder) -> None:
        self._folder = folder
        self._last = _Read(b"", {}, {}, {})

    def read(self) -> Mapping[str, SignedTarget]:
        """Return the packages now; raises ContractError for what devices would refuse."""
        timestamp = self._folder.read(TIMESTAMP_FILE)
        last = self._last
        if timestamp != last.timestamp:
            self._last = last = self._follow(last, timestamp)
        return last.found

    def _follow(self, last: "_Read", timestamp: bytes) -> "_Read":
        number = Metadata[Timestamp].from_bytes(timestamp).signed.snapshot_meta.version
        data = self._folder.read_role(Snapshot.type, number)
        versions = target_versions(Metadata[Snapshot].from_bytes(data).signed)
        changed = [role for role, n in versions.items() if last.versions.get(role) != n]
        if not changed:
            return _Read(timestamp, versions, last.paths, last.found)
        succinct = None
        if APPROVED_ROLE in versions:
            data = self._folder.read_role(APPROVED_ROLE, versions[APPROVED_ROLE])
            delegations = Metadata[Targets].from_bytes(data).signed.delegations
            succinct = delegations.succinct_roles if delegations else None
        found, paths = dict(last.found), dict(last.paths)
        new: dict[str, SignedTarget] = {}
        for role in changed:
            for path in paths.get(role, ()):
                del found[path]
            data = self._folder.read_role(role, versions[role])
            packages = read_file(role, Metadata[Targets].from_bytes(data).signed, succinct)
            paths[role] = tuple(packages)
            new.update(packages)
        found.update(new)
        return _Read(timestamp, versions, paths, found)


class _Read:
    """What was read: under which timestamp, which versions, whose paths, all packages."""

    __slots__ = ("found", "paths", "timestamp", "versions")

    def __init__(
        self,
        timestamp: bytes,
        versions: Mapping[str, int],
        paths: Mapping[str, tuple[str, ...]],
        found: dict[str, SignedTarget],
    ) -> None:
        self.timestamp, self.versions, self.paths, self.found = timestamp, versions, paths, found


def target_versions(snapshot: Snapshot) -> dict[str, int]:
    """Return the versions of the target files that a snapshot names, by role."""
    return {name.removesuffix(".json"): file.version for name, file in snapshot.meta.items()}
