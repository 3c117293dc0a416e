"""One person's part in changing keys: new keys, the next root, the target files signed anew.

A change is drafted here, signed by every key of this folder that counts, and handed on as a
proposal. New private keys lie staged beside the old ones until the metadata names them; only then
does ``settle`` put them in their place. So a cut anywhere leaves either the former keys in force
and staged ones nobody needs, or the new keys in force and staged ones to be put in their place.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edge_agent.contract.assignment import DIRECTOR_ROLE
from fleet_server.adapters.approver_keys import (
    OperatorKeys,
    add_signature,
    check_same,
    is_signed_under,
    issued_at_of,
    sign_files,
)
from fleet_server.adapters.key_files import (
    drop_staged,
    install_staged,
    parse_public_key,
    stage_key,
)
from fleet_server.adapters.online_keys import OnlineKeys
from fleet_server.adapters.operator_folder import KEY_FILES, directors_of
from fleet_server.adapters.root_edits import (
    PEOPLES_ROLES,
    add_key,
    check_root,
    compare_roots,
    find_key,
    next_root,
    parse_root,
    remove_key,
    replace_key,
    set_threshold,
)
from fleet_server.adapters.target_layout import (
    COMPACT,
    authorities_of,
    bins_of,
    edit_targets,
    list_authorities,
)
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.keys import (
    CA_ROLE,
    AuthorityHandover,
    KeyAct,
    KeyChange,
    KeyReview,
    Proposal,
)

SERVER_ROLES = (Snapshot.type, Timestamp.type, DIRECTOR_ROLE)


class RootCeremony:
    """The ``KeyCeremony`` of one operator's folder and one server.

    Args:
        operator: The person's keys.
        online: The server's keys.
        repository: What is in force.
        clock: For the dates.
        actor: Who proposes.
        authority: The certificate authority's files; None where there are none.
        serve_newest: Lets the newest authority issue the server's own certificates.
    """

    def __init__(
        self,
        operator: OperatorKeys,
        online: OnlineKeys,
        repository: TufRepository,
        *,
        clock: Clock,
        actor: str,
        authority: AuthorityHandover | None = None,
        serve_newest: Callable[[], object] = lambda: None,
    ) -> None:
        self._operator, self._folder = operator, operator.folder
        self._online, self._repository = online, repository
        self._clock, self._actor = clock, actor
        self._authority, self._serve_newest = authority, serve_newest

    # Drafting -----------------------------------------------------------------------------------

    def draft(self, change: KeyChange) -> Proposal:
        """Make new keys and the unsigned files that name them; nothing is in force.

        Raises:
            RefusedError: It would lock everybody out, or what the server holds is not vouched for.
        """
        before = self._follow()
        after = self._next_root(before, change)
        director: Key | None = None
        listed = self._next_authorities(change)
        if (change.act, change.role) == (KeyAct.ROTATE, DIRECTOR_ROLE):
            director = self._online.stage(DIRECTOR_ROLE).public_key
        root, files = after or before, {}
        current = self._repository.current_targets()
        if self._is_reissued(change, root):
            self._operator.check_current(current, self._vouching())
            files = self._reissue(root, director, self._clock.now(), listed)
        return Proposal(
            act=change.act,
            subject=change.role,
            reason="",
            proposed_at=self._clock.now(),
            proposed_by=self._actor,
            root=Metadata(after).to_bytes(COMPACT) if after else b"",
            files=files,
            detail={
                "request": change.request,
                "keyids": _changed_keys(before, root, current, files),
            },
        )

    def _next_root(self, before: Root, change: KeyChange) -> Root | None:
        """Give the next root; None when the change leaves it."""
        if change.role in (DIRECTOR_ROLE, CA_ROLE) or change == KeyChange(
            act=KeyAct.RENEW, role=Targets.type
        ):
            return None
        root, role = next_root(before, self._clock.now()), change.role
        if change.act is KeyAct.ROTATE:
            self._rotate(root, change)
        elif change.act is KeyAct.ADD:
            add_key(root, role, parse_public_key(change.public_pem, what="the file"))
        elif change.act is KeyAct.REMOVE:
            remove_key(root, role, find_key(root, role, change.keyid))
        elif change.act is KeyAct.THRESHOLD:
            set_threshold(root, role, change.threshold)
        check_root(root)
        return root

    def _next_authorities(self, change: KeyChange) -> tuple[str, ...] | None:
        """Give the authorities that devices may trust from then on; None when they stay."""
        if change.role != CA_ROLE:
            return None
        if self._authority is None:
            raise RefusedError("there is no certificate authority here")
        known = self._authority.authorities
        if change.act is KeyAct.RETIRE:
            if len(known) == 1:
                raise RefusedError("there is one authority; begin with `edgefleet keys rotate ca`")
            return known[:1]
        if len(known) > 1:
            raise RefusedError(
                f"authority {known[0][:12]} counts beside {known[1][:12]} already; next:"
                " `edgefleet keys rotate ca --finish`"
            )
        return (self._authority.stage_authority(), *known)

    def _rotate(self, root: Root, change: KeyChange) -> None:
        role = change.role
        if role not in PEOPLES_ROLES:
            former = list(root.roles[role].keyids)
            root.add_key(self._online.stage(role).public_key, role)
            for keyid in former:
                root.revoke_key(keyid, role)
            return
        former_id = self._own_key(root, change)
        path = self._folder.directory / KEY_FILES[role]
        if self._folder.has_key(role) and self._folder.key_path(role) != path:
            raise MisuseError(
                f"the {role} key is in a token: make another with `edgefleet keys create-approver"
                " --token`, add it with `keys add-approver`, then `keys remove-approver` this one"
            )
        signer = stage_key(path, self._folder.new_passphrase(path))
        self._folder.forget_signers()
        replace_key(root, role, former_id, signer.public_key)

    def _own_key(self, root: Root, change: KeyChange) -> str:
        """Find whose key is replaced: the one named, else the own one, else the only one."""
        role = change.role
        if change.keyid:
            return find_key(root, role, change.keyid)
        if self._folder.has_key(role):
            keyid: str = self._folder.signer(role).public_key.keyid
            return find_key(root, role, keyid)
        if len(root.roles[role].keyids) > 1:
            raise MisuseError(f"{role} has several keys: --key says which one is replaced")
        return root.roles[role].keyids[0]

    def _is_reissued(self, change: KeyChange, root: Root) -> bool:
        """Tell whether the target files must be signed anew."""
        if change.act is KeyAct.RENEW:
            return change.role == Targets.type or self._folder.has_key(Targets.type)
        if change.role in (DIRECTOR_ROLE, CA_ROLE):
            return True
        if change.role != Targets.type:
            return False
        current = self._repository.current_targets()
        is_rotation = change.act is KeyAct.ROTATE
        return is_rotation or bins_of(current) is not None or not is_signed_under(root, current)

    def _reissue(
        self,
        root: Root,
        director: Key | None,
        at: datetime,
        authorities: Sequence[str] | None = None,
    ) -> dict[str, bytes]:
        edited = edit_targets(
            self._repository.current_targets(),
            root=root,
            now_at=at,
            director=director,
        )
        if authorities is not None:
            list_authorities(edited[Targets.type].signed, authorities)
        return {role: metadata.to_bytes(COMPACT) for role, metadata in edited.items()}

    # Looking and signing ------------------------------------------------------------------------

    def review(self, proposal: Proposal) -> KeyReview:
        """Compare a proposal with what is in force and was seen last.

        The target files are built once more from what is in force: a proposal of keys that also
        slips in a package is refused.

        Raises:
            RefusedError: It is not what a change of keys looks like.
        """
        before = self._follow()
        after, sentences = before, []
        if proposal.root:
            after = parse_root(proposal.root, what="the proposed root").signed
            if after.version != before.version + 1:
                raise RefusedError("the proposed root does not follow the one in force")
            check_root(after)
            sentences += compare_roots(before, after)
        if not proposal.files:
            return KeyReview(sentences=tuple(sentences), targets=None)
        current = self._repository.current_targets()
        self._operator.check_current(current, self._vouching())
        self._check_rebuilt(proposal, after)
        review = self._operator.review(current, proposal.files)
        old, new = review.director
        if old != new:
            sentences += [f"director: - key {keyid}" for keyid in old]
            sentences += [f"director: + key {keyid}" for keyid in new]
        before_listed, listed = authorities_of(current), authorities_of(proposal.files)
        sentences += [f"authority: - {one}" for one in before_listed if one not in listed]
        sentences += [f"authority: + {one}" for one in listed if one not in before_listed]
        return KeyReview(sentences=tuple(sentences), targets=review)

    def _check_rebuilt(self, proposal: Proposal, after: Root) -> None:
        targets = Metadata[Targets].from_bytes(proposal.files[Targets.type]).signed
        current = self._repository.current_targets()
        named = directors_of(proposal.files) - directors_of(current)
        director = None
        if named and targets.delegations:
            director = targets.delegations.keys[min(named)]
        listed = authorities_of(proposal.files) if proposal.subject == CA_ROLE else None
        at = issued_at_of(proposal.files)
        check_same(proposal.files, self._reissue(after, director, at, listed))

    def sign(self, proposal: Proposal) -> Proposal:
        """Add every signature this person can give; raises RefusedError when that is none."""
        before = parse_root(self._folder.root_copy()).signed
        after = parse_root(proposal.root).signed if proposal.root else before
        root, files = proposal.root, proposal.files
        has_signed = False
        if root and (signers := self._counting(Root.type, before, after)):
            metadata = parse_root(root)
            for signer in signers:
                add_signature(metadata, signer)
            root, has_signed = metadata.to_bytes(COMPACT), True
        if files and (signers := self._counting(Targets.type, before, after)):
            files, has_signed = sign_files(files, signers), True
        if not has_signed:
            needed = " and ".join(
                name for name, what in (("root", root), ("approver", files)) if what
            )
            raise RefusedError(
                f"{self._folder.directory} holds no key that counts here: this needs a {needed}"
                " key; name its owner's folder with EDGEFLEET_OPERATOR"
            )
        return replace(proposal, root=root, files=files)

    def _counting(self, role: str, before: Root, after: Root) -> list[Signer]:
        keyids = {*before.roles[role].keyids, *after.roles[role].keyids}
        signers = self._folder.signers(role)
        return [signer for signer in signers if signer.public_key.keyid in keyids]

    # Putting keys in their place ------------------------------------------------------------------

    def begin(self, proposal: Proposal) -> None:
        """Note the change before it has an effect, with the ids of keys that are staged here."""
        note: dict[str, Any] = {
            "change": proposal.detail["request"],
            "root": _identify(proposal.root) if proposal.root else None,
            "targets": _identify(proposal.files[Targets.type]) if proposal.files else None,
            "staged": self._folder.staged_keyids(),
        }
        self._folder.begin_change(note)

    def prepare(self, proposal: Proposal) -> None:
        """Let the server show what devices will trust, before they trust nothing else."""
        if (proposal.act, proposal.subject) == (KeyAct.RETIRE, CA_ROLE):
            self._serve_newest()

    def under_way(self) -> str:
        """Return the request that ``begin`` noted; empty for nothing."""
        return str(self._folder.change().get("change", ""))

    def settle(self) -> bool:
        """Follow the root and put new keys that are in force in their place.

        May be cut anywhere and repeated. Returns whether what ``begin`` noted is in force.
        """
        root, note = self._follow(), self._folder.change()
        for role, keyid in note.get("staged", {}).items():
            if keyid in root.roles[role].keyids:
                install_staged(self._folder.directory / KEY_FILES[role])
                self._folder.forget_signers()
        current = self._repository.current_targets()
        directors = directors_of(current)
        if self._authority is not None:
            self._authority.follow_authorities(authorities_of(current))
        for role in SERVER_ROLES:
            named = directors if role == DIRECTOR_ROLE else set(root.roles[role].keyids)
            if self._online.staged_keyid(role) in named:
                self._online.install(role)
        return bool(note) and self._is_in_force(note)

    def _is_in_force(self, note: dict[str, Any]) -> bool:
        """Tell whether what was noted is in force, or was until somebody changed more."""
        chain, current = self._repository.roots(), self._repository.current_targets()
        if note["root"]:
            version = note["root"][0]
            if len(chain) < version or _identify(chain[version - 1]) != note["root"]:
                return False
        if note["targets"]:
            now = _identify(current[Targets.type])
            return bool(now[0] > note["targets"][0] or now == note["targets"])
        return True

    def end(self) -> None:
        """Forget the note, and new keys that nothing names."""
        for name in KEY_FILES.values():
            drop_staged(self._folder.directory / name)
        for role in SERVER_ROLES:
            self._online.drop(role)
        if self._authority is not None:
            self._authority.drop_staged_authority()
        self._folder.end_change()

    def _follow(self) -> Root:
        root = self._folder.follow_root(self._repository.roots())
        check_root(root)
        return root

    def _vouching(self) -> Sequence[Root]:
        """Give the roots that may vouch for what is in force while keys change: the last two."""
        return [parse_root(data).signed for data in self._repository.roots()[-2:]]


def _identify(data: bytes) -> list[Any]:
    """Give version and hash of what is signed in a file; more signatures leave it the same."""
    metadata = Metadata[Any].from_bytes(data)
    return [metadata.signed.version, hashlib.sha256(metadata.signed_bytes).hexdigest()]


def _changed_keys(
    before: Root, after: Root, current: Mapping[str, bytes], files: Mapping[str, bytes]
) -> dict[str, dict[str, list[str]]]:
    """Give the key ids that come and go, by role, for the audit log."""
    roles = {
        name: (set(before.roles[name].keyids), set(after.roles[name].keyids))
        for name in after.roles
    }
    if files:
        roles[DIRECTOR_ROLE] = (set(directors_of(current)), set(directors_of(files)))
        roles[CA_ROLE] = (set(authorities_of(current)), set(authorities_of(files)))
    return {
        name: {"added": sorted(new - old), "removed": sorted(old - new)}
        for name, (old, new) in roles.items()
        if old != new
    }
