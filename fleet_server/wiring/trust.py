"""Trust of a workspace: signed metadata, the approver, and what must be signed anew in time."""

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root, Targets

from fleet_server.adapters.approver_keys import APPROVER_KEY, ROOT_KEY, Ask, OperatorKeys
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.bootstrap import Fleet
from fleet_server.services.approve_model import ApprovalDesk


def build_repository(fleet: Fleet) -> TufRepository:
    """Return the signed metadata: ``bundle()`` for ``meta/current``, ``approved()`` by path."""
    workspace = fleet.workspace
    return TufRepository(workspace.tuf_dir, workspace.keys_dir, fleet.clock)


def build_operator(fleet: Fleet, ask: Ask | None = None) -> OperatorKeys:
    """Return the operator's keys; they are opened when they sign."""
    return OperatorKeys(fleet.workspace.operator_dir, fleet.clock, ask)


def build_approver(
    fleet: Fleet, *, ask: Ask | None = None, actor: str | None = None
) -> ApprovalDesk:
    """Return what approves and rejects versions.

    ``prepare(model, version) -> list[SignedTarget]`` hashes and shows without signing;
    ``approve(model, version, reason="", *, slot=None, show=None) -> Approval``;
    ``reject(model, version, reason) -> Approval``. All raise FleetError with the next step.

    Args:
        fleet: The opened workspace.
        ask: Asks a person for the passphrase of the named file; None when nobody is there
            (the environment is asked first).
        actor: For the audit log; None takes the name of the user.
    """
    return ApprovalDesk(
        ledgers=ledgers_of(fleet.engine),
        packages=build_repository(fleet),
        objects=fleet.objects,
        approver=build_operator(fleet, ask),
        clock=fleet.clock,
        actor=actor or user_name(),
    )


def build_upkeep(fleet: Fleet) -> Callable[[], bool]:
    """Return what the controller calls now and then: it signs anew what would run out.

    Snapshot, timestamp and the revocation list; cheap when nothing is due; tells whether
    anything was signed, so that the metadata is published again.
    """
    repository = build_repository(fleet)
    authority = CertificateAuthority(fleet.workspace.keys_dir, fleet.clock)

    def refresh() -> bool:
        authority.refresh_crl()
        return repository.refresh_online()

    return refresh


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
    """

    name: str
    keyids: tuple[str, ...]
    threshold: int
    version: int
    expires_at: datetime | None
    file: Path
    is_here: bool


def list_roles(fleet: Fleet) -> list[RoleView]:
    """Return the roles of trust in the order root, targets, snapshot, timestamp, director."""
    roles = build_repository(fleet).roles()
    root, targets = roles["root"], roles["targets"]
    assert isinstance(root, Root)  # noqa: S101 - roles() names them so
    assert isinstance(targets, Targets)  # noqa: S101
    delegated = (targets.delegations.roles if targets.delegations else None) or {}
    whose = [*((name, root.roles[name]) for name in roles), *delegated.items()]
    return [
        RoleView(
            name=name,
            keyids=tuple(role.keyids),
            threshold=role.threshold,
            version=roles[name].version if name in roles else 0,
            expires_at=roles[name].expires if name in roles else None,
            file=(file := _key_file(fleet, name)),
            is_here=os.access(file, os.R_OK),
        )
        for name, role in whose
    ]


def renew_signatures(
    fleet: Fleet, *, is_root: bool, ask: Ask | None = None, actor: str | None = None
) -> list[RoleView]:
    """Sign ``targets``, and the root when asked, once more with a new date; return them."""
    repository, operator = build_repository(fleet), build_operator(fleet, ask)
    names = {"targets"}
    if is_root:
        repository.store_root(operator.sign_root(repository.root()))
        names.add("root")
    files = operator.sign_targets(repository.current_targets(), add=[], withdraw=[])
    operator.remember(repository.store_targets(files))
    with ledgers_of(fleet.engine)() as ledger:
        ledger.audit.append(
            at=fleet.clock.now(),
            actor=actor or user_name(),
            act="keys.renew",
            subject=" and ".join(sorted(names)),
        )
    return [role for role in list_roles(fleet) if role.name in names]


def _key_file(fleet: Fleet, role: str) -> Path:
    workspace = fleet.workspace
    operators = {"root": ROOT_KEY, "targets": APPROVER_KEY}
    if role in operators:
        return workspace.operator_dir / operators[role]
    return workspace.keys_dir / f"{role}.pem"


def user_name() -> str:
    """Return the name of the user for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "operator"
