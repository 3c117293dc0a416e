"""``edgefleet profile``: kinds of devices, the shipped ones and the fleet's own."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
)
from fleet_server.errors import MisuseError, NotFoundError

if TYPE_CHECKING:
    from device_profiles.profile import DeviceProfile

app = typer.Typer(no_args_is_help=True, help="Device profiles: list and show.")


@app.command("ls")
def list_all(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the device profiles; a workspace's own are in its folder profiles/.

    Example: edgefleet profile ls
    """
    with fleet_errors():
        from device_profiles.catalog import list_profiles

        folder = _own_profiles(workspace)
        profiles = [_load(name, folder) for name in list_profiles(folder)]
        if as_json:
            print_json([_values(profile) for profile in profiles])
            return
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
        values = _values(_load(profile_id, _own_profiles(workspace)))
        if as_json:
            print_json(values)
            return
        rows = []
        for key, value in values.items():
            if isinstance(value, dict):
                rows += [(f"{key}.{inner}", _say(v)) for inner, v in value.items()]
            else:
                rows.append((key, _say(value)))
        print_table("", ("key", "value"), rows)


def _values(profile: "DeviceProfile") -> dict[str, Any]:
    """Give every key as the file has it."""
    values = {field.name: getattr(profile, field.name) for field in fields(profile)}
    return {**values, "telemetry": asdict(profile.telemetry), "labels": dict(profile.labels)}


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


def _say(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
