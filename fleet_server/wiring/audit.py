"""The audit log of a workspace and the places that remember its head."""

from fleet_server.adapters.audit_head import FILE_NAME, HeadFile
from fleet_server.adapters.database.audit_log import AuditLog
from fleet_server.bootstrap import Fleet
from fleet_server.services.verify_audit import AuditDesk, HeadFollower


def build_audit_desk(fleet: Fleet, *, is_operator: bool) -> AuditDesk:
    """Return what lists and checks the log.

    Args:
        fleet: The workspace.
        is_operator: The operator asks: their folder remembers the head, too. The server itself
            does not look there.
    """
    keepers = [HeadFile(fleet.workspace.server_dir / FILE_NAME)]
    if is_operator and fleet.workspace.operator_dir.is_dir():
        keepers.append(HeadFile(fleet.workspace.operator_dir / FILE_NAME))
    return AuditDesk(reader=AuditLog(fleet.engine), keepers=keepers)


def build_head_follower(fleet: Fleet) -> HeadFollower:
    """Return what lets the server's folder remember the head: call ``follow`` now and then."""
    return HeadFollower(
        reader=AuditLog(fleet.engine), keeper=HeadFile(fleet.workspace.server_dir / FILE_NAME)
    )
