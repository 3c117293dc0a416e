"""Signed metadata as files of one directory: ``VERSION.ROLE.json``, and ``timestamp.json``.

What ``timestamp.json`` leads to is in force; files of other versions are never read. So a writer
puts its files beside those in force, durably, and ``timestamp.json`` last. Writers hold a lock
file, readers need none.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fleet_server.durable_files import sync_directory, write_durable
from fleet_server.errors import NotFoundError

TIMESTAMP_FILE = "timestamp.json"


class MetadataFolder:
    """The directory of one fleet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._newest_root = 0

    def exists(self) -> bool:
        """Tell whether metadata was ever published here."""
        return (self.directory / TIMESTAMP_FILE).is_file()

    def read(self, name: str) -> bytes:
        """Read a file; raises NotFoundError."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError as error:
            raise self._absent(name) from error

    def read_role(self, role: str, version: int) -> bytes:
        """Read one version of a role; raises NotFoundError."""
        return self.read(f"{version}.{role}.json")

    def write(self, name: str, data: bytes) -> None:
        """Replace a file atomically and durably."""
        write_durable(self.directory / name, data)

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write files durably that nothing leads to yet.

        One sync of the directory for all: hundreds of bins are written at once when they begin. A
        cut leaves some of them whole or torn, and none of them in force.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            with (self.directory / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_directory(self.directory)

    def versions(self, role: str) -> list[int]:
        """Return the versions of a role that lie here, ascending."""
        names = (path.name.split(".")[0] for path in self.directory.glob(f"*.{role}.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def newest_root(self) -> int:
        """Return the version of the newest root; raises NotFoundError."""
        newest = self._newest_root
        if not newest:
            newest = max(self.versions("root"), default=0)
        while (self.directory / f"{newest + 1}.root.json").exists():
            newest += 1  # no listing of the directory: it holds a thousand files with bins
        if not newest:
            raise self._absent("1.root.json")
        self._newest_root = newest
        return newest

    def prune(self, in_force: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """Remove versions out of use; to be called under the lock.

        What is newer than the version in force was left by a cut, or by keys that were replaced.

        Args:
            in_force: Version of each role whose files may go; every other role's stay.
            kept: How many versions of each role stay, the one in force included.
        """
        old: dict[str, list[int]] = {}
        with os.scandir(self.directory) as entries:
            for entry in entries:
                version, _, rest = entry.name.partition(".")
                role = rest.removesuffix(".json")
                if version.isdigit() and role in in_force and rest.endswith(".json"):
                    old.setdefault(role, []).append(int(version))
        for role, versions in old.items():
            if len(versions) == 1:
                continue
            used = sorted(version for version in versions if version <= in_force[role])
            stay = set(used[-kept[role] :])
            for number in versions:
                if number not in stay:
                    (self.directory / f"{number}.{role}.json").unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out; the kernel frees the lock with the process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _absent(self, name: str) -> NotFoundError:
        return NotFoundError(
            f"{self.directory / name} is missing: run `edgefleet init`, or restore the folder"
            " from a backup"
        )
