"""Trust of a workspace: signed metadata, the approver, and what must be signed anew in time."""

import getpass
from collections.abc import Callable

from fleet_server.adapters.approver_keys import Ask, OperatorKeys
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


def user_name() -> str:
    """Return the name of the user for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "operator"
