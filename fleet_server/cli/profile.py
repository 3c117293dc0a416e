"""``edgefleet profile``: kinds of devices, the shipped ones and the fleet's own; what fits them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli.output import (
    EXIT_MISUSE,
    EXIT_REFUSED,
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.errors import FleetError, MisuseError, NotFoundError

if TYPE_CHECKING:
    from device_profiles.profile import DeviceProfile

app = typer.Typer(no_args_is_help=True, help="Device profiles: list, show, check.")
ROWS_SHOWN = 50


@app.command("ls")
def list_all(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the device profiles; a workspace's own are in its folder profiles/.

    A file that cannot be used is named with line and key, and the exit code is 2.

    Example: edgefleet profile ls
    """
    with fleet_errors():
        from device_profiles.catalog import list_profiles
        from device_profiles.errors import ProfileError

        folder = _own_profiles(workspace)
        profiles, wrong = [], []
        try:
            names = list_profiles(folder)
        except ProfileError as error:
            raise MisuseError(str(error)) from error
        for name in names:
            try:
                profiles.append(_load(name, folder))
            except FleetError as error:
                wrong.append(str(error))
        if as_json:
            print_json([profile.to_table() for profile in profiles])
        else:
            print_table(
                "",
                ("profile", "arch", "RAM MiB", "package bytes", "p95 ms", "precisions", "what"),
                [
                    (
                        profile.id,
                        ", ".join(profile.arch),
                        f"{profile.ram_bytes // 1_048_576:,}",
                        f"{profile.package_bytes_max:,}",
                        f"{profile.latency_ms_p95_max:g}",
                        ", ".join(profile.precisions),
                        profile.description,
                    )
                    for profile in profiles
                ],
            )
        for problem in wrong:
            say(f"left out: {problem}")
        if wrong:
            raise typer.Exit(EXIT_MISUSE)


@app.command()
def show(
    profile_id: Annotated[str, typer.Argument(metavar="ID", help="The profile.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every value of one device profile.

    Example: edgefleet profile show camera
    """
    with fleet_errors():
        values = _load(profile_id, _own_profiles(workspace)).to_table()
        if as_json:
            print_json(values)
            return
        rows = []
        for key, value in values.items():
            if isinstance(value, dict) and value:
                rows += [(f"{key}.{inner}", _say(v)) for inner, v in value.items()]
            else:
                rows.append((key, _say(value)))
        print_table("", ("key", "value"), rows)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[int | None, typer.Argument(min=1, help="Default: the newest.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help=f"More than {ROWS_SHOWN} rows.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which profiles and devices a version fits, why the others not, and how fast it is.

    A latency with ~ is an estimate; the exit code is 1 when a device cannot run what was built
    for its profile.

    Example: edgefleet profile check digits 3
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.cli.profile_views import check_to_json, print_check
        from fleet_server.wiring.profiles import build_profile_check

        found = build_profile_check(open_fleet(workspace)).check(model, version)
        if as_json:
            print_json(check_to_json(found))
        else:
            print_check(found, rows_max=None if is_all else ROWS_SHOWN)
        if any(device.misfits for device in found.devices):
            raise typer.Exit(EXIT_REFUSED)


def _load(profile_id: str, folder: Path | None) -> "DeviceProfile":
    from device_profiles.catalog import load_profile
    from device_profiles.errors import ProfileError, UnknownProfileError

    try:
        return load_profile(profile_id, folder)
    except UnknownProfileError as error:
        raise NotFoundError(str(error)) from error
    except ProfileError as error:
        raise MisuseError(str(error)) from error


def _own_profiles(workspace: Path | None) -> Path | None:
    """Find the workspace's folder of profiles; outside a workspace the shipped ones are shown."""
    from fleet_server.workspace import open_workspace

    try:
        opened = open_workspace(workspace)
    except NotFoundError:
        if workspace is not None:
            raise
        return None
    from fleet_server.wiring.training import profiles_dir

    return profiles_dir(opened)


def _say(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
