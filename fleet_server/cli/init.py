"""``edgefleet init``: a workspace without ceremony."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fleet_server.cli.output import fleet_errors, say

PortOption = Annotated[int | None, typer.Option(min=1, max=65_535, help="Default: a free port.")]


def init(
    directory: Annotated[Path, typer.Argument(help="Folder of the workspace.")] = Path(),
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "fleet-1",
    host: Annotated[
        str, typer.Option(help="Name or address under which devices reach this server.")
    ] = "127.0.0.1",
    bind: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: 0.0.0.0 unless local.")
    ] = None,
    broker_port: PortOption = None,
    server_port: PortOption = None,
    api_port: PortOption = None,
) -> None:
    """Make a workspace: keys, certificates, databases and edgefleet.toml.

    A passphrase in EDGEFLEET_PASSPHRASE encrypts the operator's keys.

    Example: edgefleet init fleet --host fleet.example.net
    """
    with fleet_errors():
        from fleet_server.adapters.key_files import UNLOCK_VARIABLE
        from fleet_server.wiring.workspace import choose_ports, init_workspace
        from fleet_server.workspace import Config

        is_local = host in ("127.0.0.1", "localhost", "::1")
        bind_host = bind or ("127.0.0.1" if is_local else "0.0.0.0")  # noqa: S104 - devices are elsewhere
        config = choose_ports(
            Config(fleet=fleet, public_host=host, bind_host=bind_host),
            (broker_port, server_port, api_port),
        )
        passphrase = os.environ.get(UNLOCK_VARIABLE, "").encode() or None
        made = init_workspace(directory, config, passphrase=passphrase)
        workspace = made.workspace
        say(f"workspace      {workspace.root}")
        say(f"operator keys  {workspace.operator_dir}  (root and approver: keep a copy offline)")
        say(f"root sha256    {made.root_sha256}")
        say(f"API token      {made.token_file}")
        say(f"broker {config.broker_port}, API {config.api_port} on {config.public_host}")
        where = "" if workspace.root == Path.cwd() else f" -w {directory}"
        say(f"next: edgefleet up{where}")
