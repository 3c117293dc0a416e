"""``edgefleet group``: names for label queries."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from fleet_server.services.define_group import GroupView

app = typer.Typer(no_args_is_help=True, help="Groups of devices: ls, set, show.")

DEVICES_SHOWN = 50


@app.command("set")
def define(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, '.', '_' and '-'.")],
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="Such as: profile=camera and site!=lab")
    ] = None,
    where: Annotated[str, typer.Option(help="The query, as an option.")] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name a query over id, profile and labels; devices come and go as it says.

    Example: edgefleet group set cameras 'profile=camera and site!=lab'
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.errors import MisuseError
        from fleet_server.wiring.rollouts import build_group_desk

        if bool(query) == bool(where):
            raise MisuseError("give the query once: as the second argument or with --where")
        view = build_group_desk(open_fleet(workspace)).define(name, query or where)
        if as_json:
            print_json(_to_json(view))
            return
        say(f"group {name} means {len(view.devices):,} devices now")
        if not view.devices:
            say(
                "nobody yet; labels: edgefleet device show ID · edgefleet device label ID site=hall"
            )


@app.command("ls")
def list_groups(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List groups with the number of devices each means now.

    Example: edgefleet group ls
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.rollouts import build_group_desk

        views = build_group_desk(open_fleet(workspace)).list_all()
        if as_json:
            print_json([_to_json(view, is_short=True) for view in views])
            return
        rows = [(view.group.name, f"{len(view.devices):,}", view.group.query) for view in views]
        print_table("", ("group", "devices", "query"), rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    is_all: Annotated[bool, typer.Option("--all", help="Every device, not the first 50.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a group's query and its devices.

    Example: edgefleet group show cameras
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.rollouts import build_group_desk

        view = build_group_desk(open_fleet(workspace)).show(name)
        if as_json:
            print_json(_to_json(view))
            return
        shown = view.devices if is_all else view.devices[:DEVICES_SHOWN]
        rows = [
            (
                device.id,
                device.profile,
                ", ".join(f"{k}={v}" for k, v in sorted(device.labels.items())),
                "online" if device.is_online else "offline",
            )
            for device in shown
        ]
        print_table("", ("id", "profile", "labels", "state"), rows)
        say(f"{len(shown):,} of {len(view.devices):,} devices: {view.group.query}")


def _to_json(view: "GroupView", *, is_short: bool = False) -> dict[str, Any]:
    group = view.group
    said = {"name": group.name, "query": group.query, "count": len(view.devices)}
    return said if is_short else {**said, "devices": [device.id for device in view.devices]}
