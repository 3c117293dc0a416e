"""What the answers of packages in the object store consist of."""

from functools import lru_cache

from edge_agent.contract.answer_parts import AnswerPart, parts_of
from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import SCHEMA, unpack_members
from edge_agent.contract.schema import ModelSchema
from fleet_server.errors import NotFoundError
from fleet_server.ports.devices import PackageStore

PACKAGES_KEPT = 256


class StoredPackageParts:
    """The ``PackageParts`` over a package store; each package is read once."""

    def __init__(self, packages: PackageStore) -> None:
        self._packages = packages
        self._read = lru_cache(PACKAGES_KEPT)(self._read_one)

    def find(self, sha256: str) -> tuple[AnswerPart, ...]:
        """Return the parts of a package's answers; see the port."""
        try:
            return self._read(sha256)
        except (ContractError, NotFoundError):  # not kept: it may be there the next time
            return ()

    def _read_one(self, sha256: str) -> tuple[AnswerPart, ...]:
        members = unpack_members(self._packages.read(sha256))
        return parts_of(ModelSchema.decode(members[SCHEMA]))
