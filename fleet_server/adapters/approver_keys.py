"""The approver's hand: looks at what the server holds, edits it, shows the difference, signs.

Whatever is signed was built here from files that this person's root vouches for, and is compared
with what this person saw last. So a server that was broken into can neither have an older state
signed again, nor slip a package of its own into a signature, nor hide what somebody else signed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from fleet_server.adapters.key_files import Ask
from fleet_server.adapters.operator_folder import (
    SIGNED,
    OperatorFolder,
    directors_of,
)
from fleet_server.adapters.root_edits import check_root, parse_root
from fleet_server.adapters.target_layout import (
    COMPACT,
    ISSUED_FIELD,
    edit_targets,
    read_targets,
    verify_files,
)
from fleet_server.core.target_changes import find_changes
from fleet_server.errors import FleetError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.keys import TargetsReview
from fleet_server.ports.trust import SignedTarget


class OperatorKeys:
    """The ``Signatory`` of one operator's folder.

    Args:
        directory: The folder.
        clock: For the dates that are signed.
        ask: Asks for a passphrase or PIN; None when nobody can be asked.
        chain: Gives the server's roots, to follow from the own copy on; None stays with the copy.
    """

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        ask: Ask | None = None,
        *,
        chain: Callable[[], Sequence[bytes]] | None = None,
    ) -> None:
        self.folder = OperatorFolder(directory, ask)
        self._clock = clock
        self._chain = chain

    @property
    def keyid(self) -> str:
        """Id of the approver's key."""
        keyid: str = self._signer().public_key.keyid
        return keyid

    def root_copy(self) -> bytes:
        """Return the operator's copy of the root that devices pin; raises NotFoundError."""
        return self.folder.root_copy()

    def edit(
        self,
        current: Mapping[str, bytes],
        *,
        add: Sequence[SignedTarget],
        withdraw: Sequence[str],
        at: datetime | None = None,
    ) -> dict[str, bytes]:
        """Give the unsigned successors of those files of ``current`` that change.

        Args:
            current: What the server says is in force; checked here.
            add: Packages to sign.
            withdraw: Paths to take out.
            at: Date to sign; None for now. The same date gives the same bytes.

        Raises:
            RefusedError: ``current`` is not signed by the approvers, names a retired director, or
                is older than what this operator saw before.
        """
        self.check_current(current)
        edited = edit_targets(
            current,
            root=self._root(),
            add=add,
            withdraw=withdraw,
            now_at=at or self._clock.now(),
        )
        return {role: metadata.to_bytes(COMPACT) for role, metadata in edited.items()}

    def check_rebuilt(
        self,
        current: Mapping[str, bytes],
        proposed: Mapping[str, bytes],
        *,
        add: Sequence[SignedTarget],
        withdraw: Sequence[str],
    ) -> None:
        """Build proposed files once more from ``current``, with their own date, and compare.

        Raises:
            RefusedError: They do not hold exactly that change; or as ``edit``.
        """
        at = issued_at_of(proposed)
        check_same(proposed, self.edit(current, add=add, withdraw=withdraw, at=at))

    def sign(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Add this approver's signature to every file; the others' stay.

        Raises:
            RefusedError: The key is no approver's key of this fleet.
        """
        signer = self._signer()
        root = self._root()
        if signer.public_key.keyid not in root.roles[Targets.type].keyids:
            raise RefusedError(
                f"key {signer.public_key.keyid[:12]} in {self.folder.directory} is no approver of"
                f" this fleet (root {root.version}); the root key's owner adds it with"
                " `edgefleet keys add-approver`"
            )
        return sign_files(files, [signer])

    def sign_targets(
        self, current: Mapping[str, bytes], *, add: Sequence[SignedTarget], withdraw: Sequence[str]
    ) -> dict[str, bytes]:
        """Edit and sign in one go; raises as ``edit`` and ``sign``."""
        return self.sign(self.edit(current, add=add, withdraw=withdraw))

    def review(self, current: Mapping[str, bytes], following: Mapping[str, bytes]) -> TargetsReview:
        """Compare what is about to be signed, and what is in force, with what was seen last.

        Args:
            current: Every target file in force.
            following: Successors of those that change.

        Raises:
            RefusedError: The successors name a retired director.
        """
        after = {**current, **following}
        self.folder.check_directors(after)
        seen = self.folder.seen()
        now = read_targets(current)
        others = find_changes(read_targets(seen), now) if seen else {}
        return TargetsReview(
            seen_version=version_of(seen) if seen else 0,
            current_version=version_of(current),
            following_version=version_of(after),
            in_force=len(now),
            others=others,
            others_keyids=signers_of(self._root(), current) if others else (),
            mine=find_changes(now, read_targets(after)),
            director=(tuple(sorted(directors_of(current))), tuple(sorted(directors_of(after)))),
        )

    def see(self, files: Mapping[str, bytes]) -> None:
        """Remember the target files in force, to compare with them the next time."""
        self.folder.see(files)

    def remember(self, version: int) -> None:
        """Note the newest version that the server stored."""
        self.folder.remember(version)

    def check_current(
        self, current: Mapping[str, bytes], roots: Iterable[Root] | None = None
    ) -> None:
        """Check that what the server says is in force may be built upon.

        Args:
            current: Every target file.
            roots: Any of these may vouch for it; None for the own copy alone.

        Raises:
            RefusedError: It is not signed, names a retired director, or is older than what was
                seen.
        """
        own = self._root()
        if not any(is_signed_under(root, current) for root in roots or ()):
            try:
                verify_files(own, current)
            except RefusedError as error:
                raise RefusedError(
                    f"the server's targets are {error}; nothing was signed"
                ) from error
        version = version_of(current)
        self.folder.check_directors(current)
        signed = self.folder.signed_before()
        if version < signed:
            raise RefusedError(
                f"the server's targets are version {version}, this operator has signed {signed}"
                f" already: restore the newer state, or delete {self.folder.directory / SIGNED} if"
                " the loss is known and meant"
            )

    def version_of(self, files: Mapping[str, bytes]) -> int:
        """Give the version of ``targets`` among target files."""
        return version_of(files)

    def _root(self) -> Root:
        if self._chain is not None:
            root = self.folder.follow_root(self._chain())
        else:
            root = parse_root(self.folder.root_copy()).signed
        check_root(root)
        return root

    def _signer(self) -> Signer:
        return self.folder.signer(Targets.type)


def sign_files(files: Mapping[str, bytes], signers: Sequence[Signer]) -> dict[str, bytes]:
    """Add signatures to target files; those that are there stay."""
    signed = {}
    for role, data in files.items():
        metadata = Metadata[Targets].from_bytes(data)
        for signer in signers:
            add_signature(metadata, signer)
        signed[role] = metadata.to_bytes(COMPACT)
    return signed


def add_signature(metadata: Metadata[Any], signer: Signer) -> None:
    """Add a signature; what key or token say against it comes through as they said it."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, FleetError):
            raise error.__cause__ from error
        raise RefusedError(f"cannot sign: {error}") from error


def signers_of(root: Root, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Give the approvers whose valid signature is on ``targets``."""
    metadata = Metadata[Targets].from_bytes(files[Targets.type])
    result = root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures)
    return tuple(sorted(result.signed))


def is_signed_under(root: Root, files: Mapping[str, bytes]) -> bool:
    """Tell whether the approvers whom a root names signed every file."""
    try:
        verify_files(root, files)
    except RefusedError:
        return False
    return True


def check_same(proposed: Mapping[str, bytes], rebuilt: Mapping[str, bytes]) -> None:
    """Refuse proposed files whose signed part is not exactly what was built here.

    Raises:
        RefusedError: Names the first file that differs.
    """
    for role in sorted({*proposed, *rebuilt}):
        one, other = proposed.get(role), rebuilt.get(role)
        if one is None or other is None or _signed_part(one) != _signed_part(other):
            raise RefusedError(
                f"the proposal does not hold exactly what it says: {role} differs from what this"
                " machine built from the state in force; nothing was signed"
            )


def issued_at_of(files: Mapping[str, bytes]) -> datetime:
    """Give the date that ``targets`` says it was signed; raises RefusedError."""
    try:
        targets = Metadata[Targets].from_bytes(files[Targets.type]).signed
        return datetime.fromisoformat(targets.unrecognized_fields[ISSUED_FIELD])
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"the proposed targets are malformed: {error!r:.100}") from error


def _signed_part(data: bytes) -> bytes:
    part: bytes = Metadata[Targets].from_bytes(data).signed_bytes
    return part


def version_of(files: Mapping[str, bytes]) -> int:
    """Give the version of ``targets`` among target files."""
    version: int = Metadata[Targets].from_bytes(files[Targets.type]).signed.version
    return version
