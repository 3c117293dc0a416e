"""What the server checks before approvers' files come into force; refuses without a side effect.

Every file must be signed by as many approvers as its delegation asks, exactly one version further,
not expired and not dated ahead, readable by devices, and all together must be what ``targets``
says they are. Files that stay are not looked at again, unless the delegation to them changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    Targets,
    Timestamp,
)

from edge_agent.contract.assignment import DIRECTOR_ROLE
from edge_agent.contract.authorities import AUTHORITIES_FIELD, read_authorities
from edge_agent.contract.errors import ContractError, TooLargeError
from edge_agent.contract.metadata import APPROVED_ROLE, encode_bundle
from fleet_server.adapters.target_layout import (
    BIN_PREFIX,
    ISSUED_FIELD,
    PACKAGE_PATHS,
    delegated_roles,
    read_file,
    signed_versions,
)
from fleet_server.errors import RefusedError

CLOCK_AHEAD_MAX = timedelta(minutes=10)
TARGET_FILE_BYTES_MAX = 5_000_000
"""As devices take of one file (``edge_agent/adapters/tuf_verifier.py``)."""
ONLINE_ROLES = (Snapshot.type, Timestamp.type)
BIN_BITS_MAX = 12
"""4,096 bins: the snapshot, which every device fetches at each change, grows with every bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What the given files are to follow.

    Attributes:
        root: Who the approvers are.
        versions: Of every target file, by role.
        read: Gives the file of a role that ``versions`` names.
        directors: Ids of the keys this server can sign assignments with, now or after a rotation.
        now_at: The server's time.
    """

    root: Root
    versions: Mapping[str, int]
    read: Callable[[str], bytes]
    directors: frozenset[str]
    now_at: datetime


def admit_files(files: Mapping[str, bytes], current: InForce) -> dict[str, int]:
    """Check changed target files and return the version of each.

    Args:
        files: By role; ``targets`` is always among them.
        current: What they follow.

    Raises:
        RefusedError: Says which file breaks which rule.
    """
    try:
        return _Admission(files, current).run()
    except (RepositoryError, ContractError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(
            f"targets refused: {error}; nothing was stored; `edgefleet model approve` signs with"
            " the approver's key"
        ) from error


class _Admission:
    def __init__(self, files: Mapping[str, bytes], current: InForce) -> None:
        self._files, self._current = files, current
        self._versions: dict[str, int] = {}

    def run(self) -> dict[str, int]:
        for role, data in self._files.items():
            if len(data) > TARGET_FILE_BYTES_MAX:
                raise TooLargeError(role, len(data), TARGET_FILE_BYTES_MAX)
        if Targets.type not in self._files:
            raise KeyError("every approval signs targets anew; they are not given")
        targets = self._open(self._current.root, Targets.type)
        self._check_dates(targets)
        self._check_director(targets)
        read_authorities(targets.unrecognized_fields.get(AUTHORITIES_FIELD))
        if APPROVED_ROLE in delegated_roles(targets):
            self._check_bins(targets)
        elif APPROVED_ROLE in self._current.versions:
            raise ValueError("this fleet has hash bins, and they delegate to none")
        else:
            self._check_roles({Targets.type})
            read_file(Targets.type, targets, None)
        return self._versions

    def _check_bins(self, targets: Targets) -> None:
        role = delegated_roles(targets)[APPROVED_ROLE]
        self._check_people(APPROVED_ROLE, role)
        if role.paths != [PACKAGE_PATHS]:
            raise ValueError(f"approved speaks for {role.paths}, not for {PACKAGE_PATHS}")
        is_changed = APPROVED_ROLE in self._files
        approved = self._open(targets, APPROVED_ROLE) if is_changed else self._stored(targets)
        succinct = self._check_succinct(approved)
        roles = {Targets.type, APPROVED_ROLE, *succinct.get_roles()}
        self._check_roles(roles)
        for name, metadata in ((Targets.type, targets), (APPROVED_ROLE, approved)):
            read_file(name, metadata, succinct)
        for name in succinct.get_roles():
            if name in self._files:
                read_file(name, self._open(approved, name), succinct)
                self._check_fits(name)
            elif is_changed:
                _verify(approved, name, self._current.read(name))
        versions = {**self._current.versions, **self._versions}
        versions.pop(Targets.type)
        if signed_versions(targets, succinct) != versions:
            raise ValueError("they do not name the versions of the files beside them")

    def _check_people(self, what: str, role: Role) -> None:
        """Refuse a delegation to the server's keys.

        It need not be to the approvers of now: when these change, files that both the former and
        the new ones signed come into force before the root that names the new ones.
        """
        root = self._current.root
        online = {keyid for name in ONLINE_ROLES for keyid in root.roles[name].keyids}
        if both := (online | self._current.directors) & set(role.keyids):
            raise ValueError(
                f"{what} would be signed with the server's key {min(both)[:12]}, not by approvers"
            )

    def _stored(self, targets: Targets) -> Targets:
        return _verify(targets, APPROVED_ROLE, self._current.read(APPROVED_ROLE)).signed

    def _check_succinct(self, approved: Targets) -> SuccinctRoles:
        succinct = approved.delegations.succinct_roles if approved.delegations else None
        if succinct is None:
            raise ValueError("approved delegates to no hash bins")
        if succinct.name_prefix != BIN_PREFIX or succinct.bit_length > BIN_BITS_MAX:
            raise ValueError(
                f"approved delegates to {succinct.number_of_bins} bins {succinct.name_prefix[:80]};"
                f" devices know up to {2**BIN_BITS_MAX} {BIN_PREFIX}"
            )
        self._check_people("the bins", succinct)
        return succinct

    def _check_roles(self, known: set[str]) -> None:
        """Refuse files that nothing delegates to, and bins that would vanish from the snapshot."""
        for role in sorted({*self._files, *self._current.versions} - known):
            raise ValueError(f"nothing delegates to {role[:80]!r}")

    def _open(self, delegator: Root | Targets, role: str) -> Targets:
        """Verify a given file: signatures, version, expiry."""
        targets = _verify(delegator, role, self._files[role]).signed
        before = self._current.versions.get(role, 0)
        if targets.version != before + 1:
            raise RefusedError(
                f"{role} refused: version {targets.version} does not follow {before}; somebody"
                " else signed meanwhile, do it again"
            )
        if targets.is_expired(self._current.now_at):
            raise self._wrong_date(role, f"expiring {targets.expires.isoformat()}")
        self._versions[role] = targets.version
        return targets

    def _check_dates(self, targets: Targets) -> None:
        issued_at = datetime.fromisoformat(targets.unrecognized_fields[ISSUED_FIELD])
        if issued_at > self._current.now_at + CLOCK_AHEAD_MAX:
            raise self._wrong_date(Targets.type, f"issued {issued_at.isoformat()}")

    def _check_director(self, targets: Targets) -> None:
        role = delegated_roles(targets).get(DIRECTOR_ROLE)
        if role is None or not self._current.directors & set(role.keyids):
            raise RefusedError("targets refused: they do not name this server's director key")

    def _check_fits(self, role: str) -> None:
        try:
            encode_bundle({f"{self._versions[role]}.{role}.json": self._files[role]})
        except TooLargeError as error:
            raise RefusedError(
                f"{role} refused: {error}; withdraw packages that nothing uses with"
                " `edgefleet model reject`"
            ) from error

    def _wrong_date(self, role: str, what: str) -> RefusedError:
        now = self._current.now_at.isoformat()
        return RefusedError(
            f"{role} refused: {what}, the server's clock says {now}; set the clocks"
        )


def _verify(delegator: Root | Targets, role: str, data: bytes) -> Metadata[Targets]:
    metadata = Metadata[Targets].from_bytes(data)
    if not isinstance(metadata.signed, Targets):
        raise TypeError(f"{role} is {metadata.signed.type} metadata")
    delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    return metadata
