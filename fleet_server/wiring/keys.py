"""Keys of a workspace: who signs what, until when, and what changes them."""

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from tuf.api.metadata import Root, Targets

from edge_agent.contract.assignment import DIRECTOR_ROLE
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.key_files import (
    UNLOCK_VARIABLE,
    Ask,
    create_key,
    load_public_key,
    public_pem,
    retired_paths,
)
from fleet_server.adapters.online_keys import OnlineKeys
from fleet_server.adapters.operator_folder import (
    APPROVER_KEY,
    APPROVER_PUBLIC,
    KEY_FILES,
    OperatorFolder,
)
from fleet_server.adapters.root_ceremony import RootCeremony
from fleet_server.adapters.root_edits import view_chain
from fleet_server.adapters.token_signer import describe_token
from fleet_server.bootstrap import Fleet
from fleet_server.durable_files import write_durable
from fleet_server.errors import RefusedError
from fleet_server.ports.keys import RootView
from fleet_server.services.change_keys import KeyDesk
from fleet_server.wiring.devices import build_authority
from fleet_server.wiring.trust import build_operator, build_pending, build_repository, user_name
from fleet_server.wiring.workspace import ensure_certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleView:
    """One role of trust for a person to read.

    Attributes:
        name: root, targets (the approvers), snapshot, timestamp, director.
        keyids: Of the keys that count.
        threshold: How many of them must sign.
        version: Of its metadata; 0 for the director, who has none.
        expires_at: Of its metadata, aware UTC; None for the director.
        file: Where the key lies when it is here.
        is_here: Whether this process can open it.
        retired: Former keys that still lie beside it, to be destroyed.
    """

    name: str
    keyids: tuple[str, ...]
    threshold: int
    version: int
    expires_at: datetime | None
    file: Path
    is_here: bool
    retired: tuple[Path, ...] = ()


def build_key_desk(fleet: Fleet, *, ask: Ask | None = None, actor: str | None = None) -> KeyDesk:
    """Return what changes keys.

    Args:
        fleet: The opened workspace.
        ask: Asks a person for the passphrase or PIN of what is named; None when nobody is there.
        actor: For the audit log; None takes the name of the user.
    """
    repository, operator = build_repository(fleet), build_operator(fleet, ask)
    who = actor or user_name()
    return KeyDesk(
        ledgers=ledgers_of(fleet.engine),
        packages=repository,
        pending=build_pending(fleet),
        ceremony=RootCeremony(
            operator,
            OnlineKeys(fleet.workspace.keys_dir),
            repository,
            clock=fleet.clock,
            actor=who,
            authority=build_authority(fleet),
            serve_newest=partial(ensure_certificates, fleet.workspace, fleet.clock, is_newest=True),
        ),
        approver=operator,
        republish=repository.republish_online,
        clock=fleet.clock,
        actor=who,
    )


def list_roles(fleet: Fleet) -> list[RoleView]:
    """Return the roles of trust in the order root, targets, snapshot, timestamp, director."""
    roles = build_repository(fleet).roles()
    root, targets = roles["root"], roles["targets"]
    assert isinstance(root, Root)  # noqa: S101 - roles() names them so
    assert isinstance(targets, Targets)  # noqa: S101
    delegated = (targets.delegations.roles if targets.delegations else None) or {}
    director = {DIRECTOR_ROLE: delegated[DIRECTOR_ROLE]} if DIRECTOR_ROLE in delegated else {}
    whose = [*((name, root.roles[name]) for name in roles), *director.items()]
    return [
        RoleView(
            name=name,
            keyids=tuple(role.keyids),
            threshold=role.threshold,
            version=roles[name].version if name in roles else 0,
            expires_at=roles[name].expires if name in roles else None,
            file=(file := _key_file(fleet, name)),
            is_here=os.access(file, os.R_OK),
            retired=tuple(retired_paths(file)) if file.parent.is_dir() else (),
        )
        for name, role in whose
    ]


def list_roots(fleet: Fleet) -> list[RootView]:
    """Return the whole chain of roots, the first one first."""
    chain = build_repository(fleet).roots()
    return view_chain(chain, [hashlib.sha256(data).hexdigest() for data in chain])


def create_approver(
    directory: Path, *, token: str = "", slot: int, module: Path | None, ask: Ask | None
) -> tuple[str, Path]:
    """Make a second person's key and the public file to pass on; return key id and that file.

    Args:
        directory: The person's own folder; made when missing.
        token: Label of a PKCS#11 token that shall hold the key; empty for a file.
        slot: Id of the key on the token.
        module: The token's PKCS#11 library.
        ask: Asks for a passphrase or PIN.

    Raises:
        RefusedError: There is a key already, or the token refuses.
    """
    path = directory / APPROVER_KEY
    if OperatorFolder(directory).has_key(Targets.type):
        raise RefusedError(f"{directory} holds an approver's key already; it is never replaced")
    if token:
        described = path.with_suffix(".toml")
        key = describe_token(described, label=token, slot=slot, module=module, ask=ask)
    else:
        text = os.environ.get(UNLOCK_VARIABLE, "") or (
            ask(f"new passphrase for {path} (empty: none)") if ask else ""
        )
        key = create_key(path, text.encode() or None).public_key
    public = directory / APPROVER_PUBLIC
    write_durable(public, public_pem(key))
    return load_public_key(public).keyid, public


def read_public_key(path: Path) -> tuple[str, bytes]:
    """Read a public key file; return its id and PEM. Raises NotFoundError or RefusedError."""
    key = load_public_key(path)
    return key.keyid, public_pem(key)


def pin_root(fleet: Fleet, sha256: str) -> int:
    """Take the fleet's root over into the operator's folder; return the version followed to."""
    folder = OperatorFolder(fleet.workspace.operator_dir)
    return int(folder.pin_root(build_repository(fleet).roots(), sha256).version)


def _key_file(fleet: Fleet, role: str) -> Path:
    workspace = fleet.workspace
    if role in KEY_FILES:
        return OperatorFolder(workspace.operator_dir).key_path(role)
    return workspace.keys_dir / f"{role}.pem"
