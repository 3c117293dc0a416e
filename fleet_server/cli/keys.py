"""``edgefleet keys``: who signs what, until when, and dates renewed in time."""

from typing import Annotated

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)

app = typer.Typer(no_args_is_help=True, help="Signing keys: list them, renew what expires.")


@app.command("ls")
def list_keys(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the roles of trust: key, threshold, version, expiry, and where the key lies.

    Example: edgefleet keys ls
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.trust import list_roles

        fleet = open_fleet(workspace)
        roles = list_roles(fleet)
        if as_json:
            print_json(
                [
                    {
                        "role": role.name,
                        "keyids": list(role.keyids),
                        "threshold": role.threshold,
                        "version": role.version,
                        "expires_at": role.expires_at.isoformat() if role.expires_at else None,
                        "file": str(role.file),
                        "is_here": role.is_here,
                    }
                    for role in roles
                ]
            )
            return
        now_at, root = fleet.clock.now(), fleet.workspace.root
        print_table(
            "",
            ("role", "key", "threshold", "version", "expires", "key file"),
            [
                (
                    role.name,
                    ", ".join(keyid[:12] for keyid in role.keyids),
                    role.threshold,
                    role.version or "",
                    f"{role.expires_at:%Y-%m-%d} ({(role.expires_at - now_at).days} d)"
                    if role.expires_at
                    else "",
                    str(
                        role.file.relative_to(root) if role.file.is_relative_to(root) else role.file
                    )
                    + ("" if role.is_here else "  (not here)"),
                )
                for role in roles
            ],
        )


@app.command()
def renew(
    is_root: Annotated[
        bool, typer.Option("--root", help="Sign the root anew as well (needs its key).")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Sign what approvers signed once more, with a new date; nothing else changes.

    Approvals hold 180 days from the newest one, the root two years. After that devices keep
    running what they run, but install nothing.

    Example: edgefleet keys renew --root
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.passphrase import ask_passphrase
        from fleet_server.wiring.trust import renew_signatures

        fleet = open_fleet(workspace)
        for role in renew_signatures(fleet, is_root=is_root, ask=ask_passphrase()):
            say(f"{role.name}: version {role.version}, holds until {role.expires_at:%Y-%m-%d}")
