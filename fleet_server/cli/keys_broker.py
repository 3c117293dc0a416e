"""``edgefleet keys broker-config``: what a broker elsewhere needs."""

from pathlib import Path
from typing import Annotated

import typer

from fleet_server.cli.output import WorkspaceOption, fleet_errors, say

PLACE_DEFAULT = Path("/etc/mosquitto/edgefleet")


def broker_config(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("broker-config"),
    place: Annotated[
        Path, typer.Option("--at", help="Where the files will lie on the broker's machine.")
    ] = PLACE_DEFAULT,
    workspace: WorkspaceOption = None,
) -> None:
    """Write the whole configuration of an external mosquitto: listeners, TLS, rules, secret hash.

    edgefleet.toml must name the broker: broker = "external", broker_host, server_host.

    Example: edgefleet keys broker-config --out broker-config
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.broker import write_broker_files

        for path in write_broker_files(open_fleet(workspace), out, place):
            typer.echo(path)
        say(f"copy the folder to the broker's machine as {place}; next: {out / 'README.md'}")
