"""What use cases about device profiles need from the world."""

from collections.abc import Mapping
from typing import Protocol

from fleet_server.core.profile_fit import BuiltPackage, Reported
from fleet_server.ports.registry import Artifact


class PackageReader(Protocol):
    """Reads what packages say of themselves."""

    def read(self, artifact: Artifact) -> BuiltPackage:
        """Read one; what is wrong with it is its ``problem``."""
        ...


class ReportedLatencies(Protocol):
    """What devices counted while they served."""

    def find(self, packages: Mapping[str, str]) -> Reported:
        """Find what was counted lately.

        Args:
            packages: Full sha256 of the packages that count, by the first 16 digits.
        """
        ...
