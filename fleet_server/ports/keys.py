"""What changing keys, and approving together, needs from the world.

A proposal is a set of signed files that are not in force yet: one more person must sign, or a
command was interrupted. The server keeps one proposal at a time and puts it in force as soon as
enough people have signed; it can add nothing to it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from fleet_server.ports.trust import SignedTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """The keys of one role.

    Attributes:
        keyids: Of the keys that count.
        threshold: How many of them must sign.
    """

    keyids: tuple[str, ...]
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RootView:
    """One root of the chain.

    Attributes:
        version: 1 and up.
        sha256: Fingerprint of the file.
        expires_at: Aware UTC.
        roles: Its keys by role.
    """

    version: int
    sha256: str
    expires_at: datetime
    roles: Mapping[str, KeyView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Signed files that wait for signatures, or for the command that puts them in force.

    Attributes:
        act: ``model.approved``, ``model.rejected`` or ``keys.…``, as the audit log will say.
        subject: ``MODEL/VERSION``, or the role.
        reason: Given by who proposed.
        proposed_at: Aware UTC.
        proposed_by: Who proposed.
        root: The next root; empty when the root stays.
        files: Changed target files by role; empty when they stay.
        detail: What else the others must know to rebuild it.
    """

    act: str
    subject: str
    reason: str
    proposed_at: datetime
    proposed_by: str
    root: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a proposal is signed.

    Attributes:
        signed: Ids of the keys whose signature is valid on every file they must sign.
        missing: What is still needed, one phrase; empty when it can be put in force.
    """

    signed: tuple[str, ...]
    missing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsReview:
    """What a person is about to sign, against what this person saw last.

    Attributes:
        seen_version: Version of ``targets`` this person saw last, 0 for none.
        current_version: Version in force.
        following_version: Version to be signed.
        in_force: How many packages are approved now.
        others: What changed since, by path: before and after, None for not there.
        others_keyids: Who signed that.
        mine: What the signature changes, by path: before and after.
        director: Key ids of the director before and after.
    """

    seen_version: int
    current_version: int
    following_version: int
    in_force: int
    others: Mapping[str, "Change"]
    others_keyids: tuple[str, ...]
    mine: Mapping[str, "Change"]
    director: tuple[tuple[str, ...], tuple[str, ...]]


Change = tuple[SignedTarget | None, SignedTarget | None]
"""A target before and after."""


CA_ROLE = "ca"
"""The certificate authority: no role of TUF, but approvers list whom devices may trust."""


class KeyAct(StrEnum):
    """What is done to keys; the word is the act in the audit log."""

    ROTATE = "keys.rotate"
    RETIRE = "keys.retire"
    """Of the certificate authority: the second half of its rotation."""
    ADD = "keys.add"
    REMOVE = "keys.remove"
    THRESHOLD = "keys.threshold"
    RENEW = "keys.renew"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A change of keys that somebody asks for.

    Attributes:
        act: What is done.
        role: root, targets (the approvers), snapshot, timestamp, director or ca.
        keyid: Beginning of the key's id, where one is removed or replaced.
        public_pem: The key to add.
        threshold: How many must sign from now on; 0 leaves it.
    """

    act: KeyAct
    role: str
    keyid: str = ""
    public_pem: bytes = b""
    threshold: int = 0

    @property
    def request(self) -> str:
        """What was asked for, in one line: the same line is the same request.

        >>> KeyChange(act=KeyAct.THRESHOLD, role="targets", threshold=2).request
        'keys.threshold targets 2'
        """
        added = hashlib.sha256(self.public_pem).hexdigest() if self.public_pem else ""
        parts = (self.act, self.role, self.keyid, added, self.threshold or "")
        return " ".join(str(part) for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReview:
    """What a change of keys does, for the person who signs it.

    Attributes:
        sentences: What changes, one sentence each.
        targets: The target files, when they are signed anew.
    """

    sentences: tuple[str, ...]
    targets: TargetsReview | None


class Signatory(Protocol):
    """A person's key and what this person saw last; may ask for a passphrase when it signs."""

    @property
    def keyid(self) -> str:
        """Id of the approver's key."""
        ...

    def edit(
        self,
        current: Mapping[str, bytes],
        *,
        add: Sequence[SignedTarget],
        withdraw: Sequence[str],
    ) -> Mapping[str, bytes]:
        """Give the unsigned successors of those files of ``current`` that change.

        Raises:
            RefusedError: ``current`` is not what the approvers signed last.
        """
        ...

    def check_rebuilt(
        self,
        current: Mapping[str, bytes],
        proposed: Mapping[str, bytes],
        *,
        add: Sequence[SignedTarget],
        withdraw: Sequence[str],
    ) -> None:
        """Build proposed files once more from ``current`` and compare.

        Raises:
            RefusedError: They do not hold exactly that change; or as ``edit``.
        """
        ...

    def review(self, current: Mapping[str, bytes], following: Mapping[str, bytes]) -> TargetsReview:
        """Compare what is about to be signed with what is in force and was seen last."""
        ...

    def sign(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Add this person's signature to every file; raises RefusedError when it cannot count."""
        ...

    def see(self, files: Mapping[str, bytes]) -> None:
        """Remember the target files in force."""
        ...

    def version_of(self, files: Mapping[str, bytes]) -> int:
        """Give the version of ``targets`` among target files."""
        ...


class KeyCeremony(Protocol):
    """A person's part in changing keys: drafts, looks, signs; moves keys into their place."""

    def draft(self, change: KeyChange) -> Proposal:
        """Make new keys and the unsigned files that name them; nothing is in force.

        Raises:
            RefusedError: It would lock everybody out, or what the server holds is not vouched for.
        """
        ...

    def review(self, proposal: Proposal) -> KeyReview:
        """Compare a proposal with what is in force and was seen last.

        Raises:
            RefusedError: It is not what a change of keys looks like.
        """
        ...

    def sign(self, proposal: Proposal) -> Proposal:
        """Add every signature this person can give; raises RefusedError when that is none."""
        ...

    def begin(self, proposal: Proposal) -> None:
        """Note the change before it has an effect."""
        ...

    def prepare(self, proposal: Proposal) -> None:
        """Do what must be true before a proposal comes into force; may be repeated."""
        ...

    def under_way(self) -> str:
        """Return the request that ``begin`` noted; empty for nothing."""
        ...

    def settle(self) -> bool:
        """Follow the root and put new keys that are in force in their place.

        May be cut anywhere and repeated. Returns whether what ``begin`` noted is in force.
        """
        ...

    def end(self) -> None:
        """Forget the note, and new keys that nothing names."""
        ...


class AuthorityHandover(Protocol):
    """The certificate authority's keys and certificates, while one follows another."""

    @property
    def authorities(self) -> tuple[str, ...]:
        """sha256 of the authorities that count here, newest first."""
        ...

    def stage_authority(self) -> str:
        """Make the authority that is to follow; return its sha256. It counts nowhere yet."""
        ...

    def follow_authorities(self, listed: Sequence[str]) -> None:
        """Bring the files to what approvers list; may be cut anywhere and called again."""
        ...

    def drop_staged_authority(self) -> None:
        """Forget an authority that was to follow and never came to count."""
        ...


class PendingStore(Protocol):
    """The one proposal that waits on the server."""

    def load(self) -> Proposal | None:
        """Return the proposal; None when nothing waits. Raises RefusedError when damaged."""
        ...

    def save(self, proposal: Proposal) -> None:
        """Keep a proposal, checked as far as it is signed; raises RefusedError."""
        ...

    def clear(self) -> None:
        """Forget the proposal."""
        ...

    def standing(self, proposal: Proposal) -> Standing:
        """Tell how far it is signed; raises RefusedError when it cannot follow what is stored."""
        ...

    def put_in_force(self, proposal: Proposal) -> int:
        """Store its files and root; may be repeated after a cut; return the ``targets`` version."""
        ...


def name_keys(keyids: Sequence[str]) -> str:
    """Shorten key ids for people.

    >>> name_keys(["0123456789abcdef"])
    '0123456789ab'
    """
    return ", ".join(keyid[:12] for keyid in keyids)
