"""Trust of a workspace: signed metadata, the approver, and what must be signed anew in time."""

import getpass
from collections.abc import Callable

from fleet_server.adapters.approver_keys import OperatorKeys
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.key_files import Ask
from fleet_server.adapters.pending_file import PendingFile
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.bootstrap import Fleet
from fleet_server.services.approve_model import ApprovalDesk


def build_repository(fleet: Fleet) -> TufRepository:
    """Return the signed metadata: ``bundle()`` for ``meta/current``, ``approved()`` by path."""
    workspace = fleet.workspace
    return TufRepository(workspace.tuf_dir, workspace.keys_dir, fleet.clock)


def build_operator(fleet: Fleet, ask: Ask | None = None) -> OperatorKeys:
    """Return the operator's keys; they are opened when they sign and follow the server's root."""
    chain = build_repository(fleet).roots
    return OperatorKeys(fleet.workspace.operator_dir, fleet.clock, ask, chain=chain)


def build_pending(fleet: Fleet) -> PendingFile:
    """Return what waits for another person's signature."""
    return PendingFile(fleet.workspace.server_dir / "pending.json", build_repository(fleet))


def build_approver(
    fleet: Fleet, *, ask: Ask | None = None, actor: str | None = None
) -> ApprovalDesk:
    """Return what approves and rejects versions.

    ``prepare(model, version) -> list[SignedTarget]`` hashes and shows without signing;
    ``approve(model, version, reason="", *, slot=None, show=None) -> Approval``;
    ``reject(model, version, reason) -> Approval``;
    ``cosign(decision, model, version) -> Approval``. All raise FleetError with the next step.

    Args:
        fleet: The opened workspace.
        ask: Asks a person for the passphrase of the named file; None when nobody is there
            (the environment is asked first).
        actor: For the audit log; None takes the name of the user.
    """
    return ApprovalDesk(
        ledgers=ledgers_of(fleet.engine),
        packages=build_repository(fleet),
        pending=build_pending(fleet),
        objects=fleet.objects,
        approver=build_operator(fleet, ask),
        clock=fleet.clock,
        actor=actor or user_name(),
    )


def build_upkeep(fleet: Fleet) -> Callable[[], bool]:
    """Return what the controller calls now and then: it signs anew what would run out.

    Snapshot and timestamp; cheap when nothing is due; tells whether anything was signed, so that
    the metadata is published again. The revocation list: ``wiring.identity``.
    """
    return build_repository(fleet).refresh_online


def user_name() -> str:
    """Return the name of the user for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "operator"
