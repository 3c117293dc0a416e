"""Drift references out of packages in the object store."""

from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import REFERENCE, unpack_members
from fleet_server.errors import FleetError
from fleet_server.ports.devices import PackageStore


class PackageReferences:
    """The ``ReferenceSource`` over a package store."""

    def __init__(self, packages: PackageStore) -> None:
        self._packages = packages

    def read_reference(self, sha256: str) -> bytes:
        """Return a package's ``reference.json``; raises FleetError."""
        try:
            return unpack_members(self._packages.read(sha256))[REFERENCE]
        except ContractError as error:
            raise FleetError(f"package {sha256[:12]}: {error}") from error
