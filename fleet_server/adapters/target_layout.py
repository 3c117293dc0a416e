"""How approved packages lie in signed metadata: edits of the target files, without their keys.

Up to 1,000 packages lie flat in ``targets``. The edit that goes beyond moves all of them into 512
hash bins: ``targets`` delegates ``approved``, which delegates ``packages-000`` to ``packages-1ff``
(a bin for each value of the first nine bits of sha256 of the path), all with the approvers' keys
and threshold. A fleet never goes back.

Files are handed about by role name: ``{"targets": bytes, ...}``. Nothing here signs, stores or
reads a clock: what is given is edited into the unsigned successors of the files that change.
``targets`` is among them at every edit, so that its version and date grow with every approval,
and it names the version of every other file: an old bin beside new ``targets`` is found out by
whoever looks, also when the server's online keys vouch for it. No file expires before ``targets``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Root,
    SuccinctRoles,
    TargetFile,
    Targets,
)
from tuf.api.serialization.json import JSONSerializer

from edge_agent.contract.assignment import DIRECTOR_ROLE
from edge_agent.contract.authorities import AUTHORITIES_FIELD, read_authorities
from edge_agent.contract.digits import check_sha256
from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.metadata import APPROVED_ROLE, ROLE_FIELD
from edge_agent.contract.package import TargetCustom
from fleet_server.errors import RefusedError
from fleet_server.ports.trust import SignedTarget

FLAT_TARGETS_MAX = 1_000
BIN_BITS = 9
"""512 bins: 2 packages a bin when they begin, 106 at 54,000; measured in docs/adr/0010."""
BIN_PREFIX = "packages"
PACKAGE_PATHS = "*/*/*"
TARGETS_DAYS, DELEGATED_DAYS = 180, 365
ISSUED_FIELD, VERSIONS_FIELD = "x-issued", "x-versions"
COMPACT = JSONSerializer(compact=True)


def edit_targets(
    current: Mapping[str, bytes],
    *,
    root: Root,
    add: Iterable[SignedTarget] = (),
    withdraw: Iterable[str] = (),
    now_at: datetime,
    director: Key | None = None,
    flat_targets_max: int = FLAT_TARGETS_MAX,
    bin_bits: int = BIN_BITS,
) -> dict[str, Metadata[Targets]]:
    """Give the unsigned successors of the files that an approval changes, by role.

    Besides the bins of the packages named these are ``targets`` and whatever would expire before
    it; every file when bins begin, or when ``root`` names other approvers than they were made for.

    Args:
        current: Every target file now in force, by role; verified by the caller.
        root: Who the approvers are, for the delegations.
        add: Packages to sign.
        withdraw: Paths to take out; one that is not there is passed over.
        now_at: For the dates.
        director: Key of a new director; None leaves the one there is.
        flat_targets_max: Live packages up to which they lie in ``targets``.
        bin_bits: Two to this power is the number of bins.
    """
    edit = _Edit(current, now_at)
    if director is not None:
        name_director(edit.targets, director)
    if edit.succinct is None:
        edit.change_flat(add, withdraw)
        if len(edit.targets.targets) > flat_targets_max:
            edit.begin_bins(root, bin_bits)
    else:
        edit.change_bins(add, withdraw)
        if not _is_delegated_to_approvers(edit.targets, root):
            edit.take_all(root)
        edit.take_expiring()
    return edit.finish()


def resign_all(
    current: Mapping[str, bytes], root: Root, now_at: datetime
) -> dict[str, Metadata[Targets]]:
    """Give unsigned successors of every file with the same packages, for new approvers' keys."""
    edit = _Edit(current, now_at)
    if edit.succinct is not None:
        edit.take_all(root)
    return edit.finish()


class _Edit:
    """The files of one edit: read when first asked for, a version further once they are taken."""

    def __init__(self, current: Mapping[str, bytes], now_at: datetime) -> None:
        self._current, self._now_at = current, now_at
        self._taken: dict[str, Metadata[Targets]] = {}
        self.targets = self._take(Targets.type).signed
        self.succinct = bins_of(current)

    def change_flat(self, add: Iterable[SignedTarget], withdraw: Iterable[str]) -> None:
        _change(self.targets, add, withdraw)

    def change_bins(self, add: Iterable[SignedTarget], withdraw: Iterable[str]) -> None:
        added: dict[str, list[SignedTarget]] = {}
        for target in add:
            added.setdefault(self._bin_of(target.path), []).append(target)
        removed: dict[str, list[str]] = {}
        for path in withdraw:
            removed.setdefault(self._bin_of(path), []).append(path)
        for role in sorted({*added, *removed}):
            _change(self._take(role).signed, added.get(role, ()), removed.get(role, ()))

    def begin_bins(self, root: Root, bin_bits: int) -> None:
        """Move every package from ``targets`` into bins of version 1."""
        approvers = root.roles[Targets.type]
        self.succinct = SuccinctRoles([], approvers.threshold, bin_bits, BIN_PREFIX)
        for role in (APPROVED_ROLE, *self.succinct.get_roles()):
            named = {ROLE_FIELD: role}
            self._taken[role] = Metadata(Targets(version=1, unrecognized_fields=named))
        for path, target in self.targets.targets.items():
            self._taken[self._bin_of(path)].signed.targets[path] = target
        self.targets.targets = {}
        self._delegate(root)

    def take_all(self, root: Root) -> None:
        """Take every file and delegate to the approvers whom ``root`` names."""
        for role in self._current:
            self._take(role)
        self._delegate(root)

    def take_expiring(self) -> None:
        """Take what would expire before ``targets`` does."""
        until_at = expiry(self._now_at, TARGETS_DAYS)
        for role, data in self._current.items():
            # Ten times faster than reading all of python-tuf's objects in 54,000 packages.
            if role not in self._taken and _expires_at(data) < until_at:
                self._take(role)

    def finish(self) -> dict[str, Metadata[Targets]]:
        """Date what was taken and note the versions in ``targets``."""
        for metadata in self._taken.values():
            metadata.signed.expires = expiry(self._now_at, DELEGATED_DAYS)
        stamp_targets(self.targets, self._now_at)
        if self.succinct is not None:
            versions = signed_versions(self.targets, self.succinct) | {
                role: metadata.signed.version for role, metadata in self._taken.items()
            }
            bins = [versions[role] for role in self.succinct.get_roles()]
            self.targets.unrecognized_fields[ROLE_FIELD] = Targets.type
            self.targets.unrecognized_fields[VERSIONS_FIELD] = {
                APPROVED_ROLE: versions[APPROVED_ROLE],
                BIN_PREFIX: bins,
            }
        return self._taken

    def _bin_of(self, path: str) -> str:
        assert self.succinct is not None  # noqa: S101 - callers are beyond the flat layout
        return self.succinct.get_role_for_target(path)

    def _take(self, role: str) -> Metadata[Targets]:
        if role not in self._taken:
            metadata = Metadata[Targets].from_bytes(self._current[role])
            metadata.signed.version += 1
            metadata.signatures.clear()
            self._taken[role] = metadata
        return self._taken[role]

    def _delegate(self, root: Root) -> None:
        """Let ``targets`` and ``approved`` delegate to the approvers, and keep the director."""
        assert self.succinct is not None  # noqa: S101 - callers are beyond the flat layout
        approvers = root.roles[Targets.type]
        keys = {keyid: root.keys[keyid] for keyid in approvers.keyids}
        delegations = self.targets.delegations or Delegations({}, {})
        roles = delegations.roles or {}
        director = roles[DIRECTOR_ROLE]
        roles[APPROVED_ROLE] = DelegatedRole(
            APPROVED_ROLE, list(keys), approvers.threshold, terminating=True, paths=[PACKAGE_PATHS]
        )
        directors = {keyid: delegations.keys[keyid] for keyid in director.keyids}
        self.targets.delegations = Delegations({**directors, **keys}, roles)
        self.succinct = SuccinctRoles(
            list(keys), approvers.threshold, self.succinct.bit_length, self.succinct.name_prefix
        )
        approved = self._take(APPROVED_ROLE).signed
        approved.delegations = Delegations(dict(keys), succinct_roles=self.succinct)


# Reading ----------------------------------------------------------------------------------------


def bins_of(files: Mapping[str, bytes]) -> SuccinctRoles | None:
    """Return the hash bins of target files; None while they are flat."""
    if APPROVED_ROLE not in files:
        return None
    delegations = Metadata[Targets].from_bytes(files[APPROVED_ROLE]).signed.delegations
    return delegations.succinct_roles if delegations else None


def signed_versions(targets: Targets, succinct: SuccinctRoles) -> dict[str, int]:
    """Return the versions of the other files that ``targets`` names, by role; empty before bins.

    Raises:
        ContractError: They are not one number for each file.
    """
    value = targets.unrecognized_fields.get(VERSIONS_FIELD)
    if value is None:
        return {}
    bins = value.get(BIN_PREFIX) if isinstance(value, dict) else None
    if not isinstance(bins, list) or len(bins) != succinct.number_of_bins:
        raise MalformedError(f"targets: {VERSIONS_FIELD} is not of {succinct.number_of_bins} bins")
    numbers = [value.get(APPROVED_ROLE), *bins]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise MalformedError(f"targets: {VERSIONS_FIELD} has what is no version")
    return dict(zip((APPROVED_ROLE, *succinct.get_roles()), numbers, strict=True))


def list_authorities(targets: Targets, authorities: Sequence[str]) -> None:
    """Let ``targets`` list the certificate authorities devices may trust, newest first."""
    targets.unrecognized_fields[AUTHORITIES_FIELD] = list(authorities)


def authorities_of(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the certificate authorities that target files list, newest first.

    Raises:
        ContractError: The list is malformed.
    """
    targets = Metadata[Targets].from_bytes(files[Targets.type]).signed
    return read_authorities(targets.unrecognized_fields.get(AUTHORITIES_FIELD))


def read_targets(files: Mapping[str, bytes]) -> dict[str, SignedTarget]:
    """Read every package of target files, by path.

    Raises:
        ContractError: What devices would refuse, or never find.
    """
    succinct = bins_of(files)
    found: dict[str, SignedTarget] = {}
    for role, data in files.items():
        found.update(read_file(role, Metadata[Targets].from_bytes(data).signed, succinct))
    return found


def read_file(
    role: str, targets: Targets, succinct: SuccinctRoles | None
) -> dict[str, SignedTarget]:
    """Read the packages of one role's file.

    Args:
        role: Its name.
        targets: What the file holds.
        succinct: The bins; None while targets are flat.

    Raises:
        ContractError: What devices would refuse, or never find.
    """
    found: dict[str, SignedTarget] = {}
    check_name(role, targets)
    for path, target in targets.targets.items():
        home = Targets.type if succinct is None else succinct.get_role_for_target(path)
        if role != home:
            raise MalformedError(f"{path[:200]!r} is signed in {role}, devices look in {home}")
        found[path] = SignedTarget(
            path=path,
            sha256=check_sha256(target.hashes.get("sha256", ""), what=path),
            size_bytes=target.length,
            custom=TargetCustom.from_json(target.custom),
        )
    return found


def verify_files(root: Root, files: Mapping[str, bytes]) -> Targets:
    """Verify that the approvers signed every file, and that all belong together.

    Expiry is not looked at: what has expired may be signed anew.

    Args:
        root: Who the approvers are.
        files: Every target file in force, by role.

    Returns:
        ``targets``.

    Raises:
        RefusedError: A file is missing, unreadable, not signed by enough approvers, or of another
            version than ``targets`` names.
    """
    try:
        targets = _verified(root, Targets.type, files[Targets.type])
        if APPROVED_ROLE not in delegated_roles(targets):
            return targets
        approved = _verified(targets, APPROVED_ROLE, files[APPROVED_ROLE])
        succinct = approved.delegations.succinct_roles if approved.delegations else None
        if succinct is None:
            raise RefusedError("approved without hash bins")
        expected = signed_versions(targets, succinct)
        for role in succinct.get_roles():
            bin_ = _verified(approved, role, files[role])
            if bin_.version != expected.get(role):
                raise RefusedError(
                    f"{role} is version {bin_.version}, the approvers signed {expected.get(role)}"
                )
    except (RepositoryError, ContractError, ValueError, KeyError) as error:
        raise RefusedError(f"not signed by this fleet's approvers ({error})") from error
    return targets


def _verified(delegator: Root | Targets, role: str, data: bytes) -> Targets:
    metadata = Metadata[Targets].from_bytes(data)
    delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    check_name(role, metadata.signed)
    return metadata.signed


def check_name(role: str, targets: Targets) -> None:
    """Refuse one role's file in the place of another; raises MalformedError."""
    name = targets.unrecognized_fields.get(ROLE_FIELD)
    if name != role and not (name is None and role == Targets.type):
        raise MalformedError(f"{role} was signed as {name!r:.40}")


# Parts ------------------------------------------------------------------------------------------


def stamp_targets(targets: Targets, now_at: datetime) -> None:
    """Date ``targets``: until when it holds, and the date devices may take their floor from."""
    targets.expires = expiry(now_at, TARGETS_DAYS)
    targets.unrecognized_fields[ISSUED_FIELD] = now_at.replace(microsecond=0).isoformat()


def expiry(now_at: datetime, days: float) -> datetime:
    """Give a date as TUF writes it, without fractions of a second."""
    return (now_at + timedelta(days=days)).replace(microsecond=0)


def name_director(targets: Targets, director: Key) -> None:
    """Let ``targets`` name this director and no other.

    The director speaks for no target path: its key signs assignments and nothing else.
    """
    delegations = targets.delegations or Delegations({}, {})
    roles = dict(delegations.roles or {})
    former = roles[DIRECTOR_ROLE].keyids if DIRECTOR_ROLE in roles else []
    roles[DIRECTOR_ROLE] = DelegatedRole(
        DIRECTOR_ROLE, [director.keyid], 1, terminating=True, paths=[]
    )
    keys = {keyid: key for keyid, key in delegations.keys.items() if keyid not in former}
    targets.delegations = Delegations({**keys, director.keyid: director}, roles)


def delegated_roles(targets: Targets) -> dict[str, DelegatedRole]:
    """Return the roles that ``targets`` delegates to, by name."""
    return (targets.delegations.roles if targets.delegations else None) or {}


def _is_delegated_to_approvers(targets: Targets, root: Root) -> bool:
    """Tell whether ``approved`` belongs to the keys, and as many of them, as ``targets`` does."""
    approvers, delegated = root.roles[Targets.type], delegated_roles(targets)[APPROVED_ROLE]
    return (set(delegated.keyids), delegated.threshold) == (
        set(approvers.keyids),
        approvers.threshold,
    )


def _change(targets: Targets, add: Iterable[SignedTarget], withdraw: Iterable[str]) -> None:
    for path in withdraw:
        targets.targets.pop(path, None)
    for target in add:
        targets.targets[target.path] = TargetFile(
            target.size_bytes,
            {"sha256": target.sha256},
            target.path,
            {"custom": target.custom.to_json()},
        )


def _expires_at(data: bytes) -> datetime:
    value: Any = json.loads(data)["signed"]["expires"]
    return datetime.fromisoformat(value)
