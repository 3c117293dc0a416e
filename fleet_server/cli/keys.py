"""``edgefleet keys``: who signs what, until when; changing it is ``keys_change``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli import keys_broker, keys_change
from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.cli.signing_views import pending_to_json, say_pending
from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from pathlib import Path

    from fleet_server.bootstrap import Fleet
    from fleet_server.ports.keys import RootView
    from fleet_server.wiring.keys import RoleView

app = typer.Typer(
    no_args_is_help=True,
    help="Signing keys: show them, rotate them, choose who approves.",
)


@app.command("ls")
def list_keys(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the roles of trust: key, threshold, version, expiry, and where the key lies.

    Example: edgefleet keys ls
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.keys import list_roles

        fleet = open_fleet(workspace)
        roles = list_roles(fleet)
        if as_json:
            print_json([_role_to_json(role) for role in roles])
            return
        _print_roles(fleet, roles)


@app.command()
def show(
    role: Annotated[
        str, typer.Argument(help="root, targets, snapshot, timestamp or director; default all.")
    ] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show keys in full, the fingerprint devices pin, the chain of roots, and what waits.

    Example: edgefleet keys show targets
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.keys import list_roles, list_roots
        from fleet_server.wiring.trust import build_pending

        fleet = open_fleet(workspace)
        known = list_roles(fleet)
        roles = [one for one in known if not role or one.name == role]
        if not roles:
            names = ", ".join(one.name for one in known)
            raise MisuseError(f"no role {role!r}; there are {names}")
        roots, store = list_roots(fleet), build_pending(fleet)
        proposal = store.load()
        if as_json:
            print_json(
                {
                    "root_sha256": roots[-1].sha256,
                    "roles": [_role_to_json(one) for one in roles],
                    "roots": [_root_to_json(root) for root in roots],
                    "pending": pending_to_json(proposal, store.standing(proposal))
                    if proposal
                    else None,
                }
            )
            return
        _print_roles(fleet, roles, is_full=True)
        if role in ("", "root"):
            _print_chain(roots)
        for path in (path for one in roles for path in one.retired):
            say(f"former key {path}: destroy it (shred -u) once a backup of the new one exists")
        if proposal is not None:
            say_pending(proposal, store.standing(proposal), fleet.clock.now())


def _print_roles(fleet: "Fleet", roles: "list[RoleView]", *, is_full: bool = False) -> None:
    now_at, root = fleet.clock.now(), fleet.workspace.root
    print_table(
        "",
        ("role", "key", "threshold", "version", "expires", "key file"),
        [
            (
                role.name,
                ", ".join(keyid if is_full else keyid[:12] for keyid in role.keyids),
                f"{role.threshold} of {len(role.keyids)}",
                role.version or "",
                f"{role.expires_at:%Y-%m-%d} ({(role.expires_at - now_at).days} d)"
                if role.expires_at
                else "",
                _shorten(role.file, root) + ("" if role.is_here else "  (not here)"),
            )
            for role in roles
        ],
    )


def _print_chain(roots: "list[RootView]") -> None:
    print_table(
        "roots",
        ("version", "sha256", "expires", "root keys", "approvers"),
        [
            (
                root.version,
                root.sha256,
                f"{root.expires_at:%Y-%m-%d}",
                _tell_holders(root, "root"),
                _tell_holders(root, "targets"),
            )
            for root in roots
        ],
    )


def _tell_holders(root: "RootView", role: str) -> str:
    view = root.roles[role]
    keys = ", ".join(keyid[:12] for keyid in view.keyids)
    return f"{view.threshold} of {len(view.keyids)}: {keys}"


def _shorten(path: "Path", root: "Path") -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _role_to_json(role: "RoleView") -> dict[str, Any]:
    return {
        "role": role.name,
        "keyids": list(role.keyids),
        "threshold": role.threshold,
        "version": role.version,
        "expires_at": role.expires_at.isoformat() if role.expires_at else None,
        "file": str(role.file),
        "is_here": role.is_here,
        "retired_files": [str(path) for path in role.retired],
    }


def _root_to_json(root: "RootView") -> dict[str, Any]:
    return {
        "version": root.version,
        "sha256": root.sha256,
        "expires_at": root.expires_at.isoformat(),
        "roles": {
            name: {"keyids": list(view.keyids), "threshold": view.threshold}
            for name, view in root.roles.items()
        },
    }


for _command in (
    keys_change.rotate,
    keys_change.renew,
    keys_change.threshold,
    keys_change.cosign,
    keys_change.pin,
):
    app.command()(_command)
app.command("create-approver")(keys_change.create_approver_key)
app.command("add-approver")(keys_change.add_approver)
app.command("remove-approver")(keys_change.remove_approver)
app.command("forget-pending")(keys_change.forget_pending)
app.command("broker-config")(keys_broker.broker_config)
