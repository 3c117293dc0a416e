"""The one proposal that waits on the server, in a file beside the signed metadata.

It is checked before it is kept: signed by at least one person whose key counts, the successor of
what is in force, nothing that devices would refuse to read. It becomes effective through
``TufRepository`` alone, whose own checks it must pass once more. Putting it in force writes two
things, target files and root, in the order in which each is signed enough when it is written; a cut
between them is completed by doing it again.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from edge_agent.contract.errors import ContractError
from fleet_server.adapters.approver_keys import is_signed_under, version_of
from fleet_server.adapters.root_edits import check_root, missing_signatures, parse_root
from fleet_server.adapters.target_layout import read_targets
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.durable_files import write_durable
from fleet_server.errors import RefusedError
from fleet_server.ports.keys import Proposal, Standing, name_keys

PENDING_BYTES_MAX = 33_554_432
TEXT_CHARS_MAX = 1_000


class PendingFile:
    """The ``PendingStore`` of a workspace.

    Args:
        path: The file.
        repository: What it would follow.
    """

    def __init__(self, path: Path, repository: TufRepository) -> None:
        self._path = path
        self._repository = repository

    def load(self) -> Proposal | None:
        """Return the proposal; None when nothing waits. Raises RefusedError when damaged."""
        try:
            with self._path.open("rb") as file:
                data = file.read(PENDING_BYTES_MAX + 1)
            value = json.loads(data)
            proposed_at = datetime.fromisoformat(value["proposed_at"]).astimezone(UTC)
            return Proposal(
                act=str(value["act"])[:64],
                subject=str(value["subject"])[:256],
                reason=str(value["reason"])[:TEXT_CHARS_MAX],
                proposed_at=proposed_at,
                proposed_by=str(value["proposed_by"])[:256],
                root=value["root"].encode(),
                files={str(role): text.encode() for role, text in value["files"].items()},
                detail=dict(value["detail"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(
                f"{self._path} is damaged ({error!r:.100}); forget it with"
                " `edgefleet keys forget-pending` and propose again"
            ) from error

    def save(self, proposal: Proposal) -> None:
        """Keep a proposal, checked as far as it is signed; raises RefusedError."""
        self.standing(proposal)
        value = {
            "act": proposal.act,
            "subject": proposal.subject,
            "reason": proposal.reason,
            "proposed_at": proposal.proposed_at.isoformat(),
            "proposed_by": proposal.proposed_by,
            "root": proposal.root.decode(),
            "files": {role: data.decode() for role, data in proposal.files.items()},
            "detail": dict(proposal.detail),
        }
        data = json.dumps(value).encode()
        if len(data) > PENDING_BYTES_MAX:
            raise RefusedError(
                f"the proposal has {len(data)} bytes, the limit is {PENDING_BYTES_MAX}"
            )
        write_durable(self._path, data, mode=0o600)

    def clear(self) -> None:
        """Forget the proposal."""
        self._path.unlink(missing_ok=True)

    def standing(self, proposal: Proposal) -> Standing:
        """Tell how far it is signed.

        Raises:
            RefusedError: It cannot follow what is stored, carries a signature that is not valid, or
                none that counts.
        """
        chain = self._repository.roots()
        is_stored = proposal.root == chain[-1]
        before = parse_root(chain[-2] if is_stored else chain[-1]).signed
        after, missing, signed = before, [], set()
        if proposal.root:
            metadata = parse_root(proposal.root, what="the proposed root")
            after = metadata.signed
            if not is_stored:
                if after.version != before.version + 1:
                    raise RefusedError(
                        f"root version {after.version} does not follow {before.version}: somebody"
                        " changed keys meanwhile; propose it again"
                    )
                if lacking := missing_signatures(before, metadata):
                    missing.append(lacking)
            check_root(after)
            allowed = {*before.roles[Root.type].keyids, *after.roles[Root.type].keyids}
            signed |= _valid_signers(metadata, (before, after), Root.type, allowed)
        if proposal.files:
            self._check_files(proposal.files)
            signers = _signers_of_all(proposal.files, (before, after))
            signed |= signers
            counted = signers & set(after.roles[Targets.type].keyids)
            threshold = after.roles[Targets.type].threshold
            if len(counted) < threshold:
                waiting = sorted(set(after.roles[Targets.type].keyids) - counted)
                missing.append(
                    f"{len(counted)} of {threshold} approvers signed, waiting for"
                    f" {threshold - len(counted)} of {name_keys(waiting)}"
                )
        if not signed:
            raise RefusedError("the proposal is signed by nobody whose key counts")
        return Standing(signed=tuple(sorted(signed)), missing="; ".join(missing))

    def put_in_force(self, proposal: Proposal) -> int:
        """Store its files and root; may be repeated after a cut; return the ``targets`` version."""
        repository = self._repository
        if proposal.files and self._follows_now(proposal.files):
            before = parse_root(repository.root()).signed
            if is_signed_under(before, {**repository.current_targets(), **proposal.files}):
                repository.store_targets(proposal.files)
        if proposal.root and proposal.root != repository.root():
            repository.store_root(proposal.root)
        if proposal.files and self._follows_now(proposal.files):
            repository.store_targets(proposal.files)
        return version_of(repository.current_targets())

    def _follows_now(self, files: Mapping[str, bytes]) -> bool:
        current = self._repository.current_targets()
        return version_of(files) == version_of(current) + 1

    def _check_files(self, files: Mapping[str, bytes]) -> None:
        try:
            current = self._repository.current_targets()
            read_targets({**current, **files})
            version, now = version_of(files), version_of(current)
        except (RepositoryError, ContractError, ValueError, KeyError) as error:
            raise RefusedError(f"the proposed target files are malformed: {error}") from error
        is_stored = current[Targets.type] == files[Targets.type]
        if version != now + 1 and not is_stored:
            raise RefusedError(
                f"the proposed targets are version {version}, in force is {now}: somebody approved"
                " meanwhile; propose it again"
            )


def _signers_of_all(files: Mapping[str, bytes], roots: tuple[Root, Root]) -> set[str]:
    """Give the approvers who signed every file."""
    allowed = {keyid for root in roots for keyid in root.roles[Targets.type].keyids}
    each = [
        _valid_signers(Metadata[Targets].from_bytes(data), roots, Targets.type, allowed)
        for data in files.values()
    ]
    return set.intersection(*each)


def _valid_signers(
    metadata: Metadata[Any], roots: tuple[Root, Root], role: str, allowed: set[str]
) -> set[str]:
    """Give who signed; one signature that is not valid or of a stranger refuses the whole."""
    valid: set[str] = set()
    for root in roots:
        result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        valid |= set(result.signed)
    strangers = set(metadata.signatures) - valid
    if strangers:
        word = "not valid" if strangers <= allowed else "of nobody this fleet knows"
        raise RefusedError(f"the proposal carries a signature of {min(strangers)[:12]}, {word}")
    return valid
