"""``edgefleet up``: broker, API and controllers of one workspace."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from fleet_server.cli.output import WorkspaceOption, fleet_errors, say

if TYPE_CHECKING:
    from fleet_server.workers.supervisor import Supervisor
    from fleet_server.workspace import Workspace

READY_S_MAX = 60.0
INSECURE = (
    "INSECURE: no TLS. Whoever is on this machine may read everything, and pose as any device."
    " Signatures of packages and assignments are checked as always. For tests only; the next"
    " `edgefleet up` speaks TLS again."
)


def up(
    is_insecure: Annotated[
        bool,
        typer.Option(
            "--insecure-loopback",
            help="No TLS, on 127.0.0.1 alone, for tests on one machine; packages are checked all"
            " the same.",
        ),
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Run broker, API, gateway and controllers until Ctrl-C or SIGTERM.

    What ends is started again; a second `up` on the same workspace is refused. An external broker
    (`broker = "external"` in edgefleet.toml) is used, not started.

    Example: edgefleet up -w fleet
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.identity import restore_revocation_list
        from fleet_server.wiring.workspace import (
            check_insecure,
            ensure_certificates,
            supervised_broker,
        )
        from fleet_server.workers.supervisor import Supervisor, WorkspaceLock, stop_on_signals

        fleet = open_fleet(workspace)
        if is_insecure:
            check_insecure(fleet.workspace.config)
            say(INSECURE)
        with WorkspaceLock(fleet.workspace):
            fleet.engine.dispose()  # the schema is current before any worker looks
            restore_revocation_list(fleet)
            authority = ensure_certificates(fleet.workspace, fleet.clock)
            supervisor = Supervisor(
                fleet.workspace,
                supervised_broker(fleet.workspace, fleet.clock, say=say, is_insecure=is_insecure),
                fleet.clock,
                say=say,
                watched=authority.files.crl,
                restarting=authority.files.at_start,
                is_insecure=is_insecure,
            )
            stop_on_signals(supervisor.stop)
            try:
                supervisor.start()
                _say_ready(
                    supervisor, fleet.workspace, fleet.clock.monotonic, is_insecure=is_insecure
                )
                supervisor.run()
            finally:
                say("stopping")
                supervisor.shut_down()
        say("stopped")


def _say_ready(
    supervisor: "Supervisor",
    workspace: "Workspace",
    seconds: Callable[[], float],
    *,
    is_insecure: bool,
) -> None:
    """Wait for the API, the gateway and the controller to answer, then say where they are."""
    started = seconds()
    while not supervisor.stop.wait(0.1):
        late = [name for name, is_up in readiness(workspace).items() if not is_up]
        if not late:
            config = workspace.config
            say(
                f"ready in {seconds() - started:.1f} s: broker {config.mqtt_host}:"
                f"{config.broker_port}, API {'http' if is_insecure else 'https'}://"
                f"{config.public_host}:{config.api_port}{' (INSECURE)' if is_insecure else ''}"
            )
            return
        supervisor.look()
        if seconds() - started > READY_S_MAX:
            say(f"{', '.join(late)} not at work after {READY_S_MAX:g} s; read {workspace.log_dir}")
            return


def readiness(workspace: "Workspace") -> dict[str, bool]:
    """Tell which workers have said that they are at work since this start."""
    from fleet_server.run_state import read_heartbeat, read_run_file
    from fleet_server.workers.supervisor import WORKERS

    pids = read_run_file(workspace.run_file).get("children", {})
    return {
        name: read_heartbeat(workspace.server_dir, name).get("pid") == pids.get(name, 0)
        for name in WORKERS
    }
