"""``edgefleet up``: broker, API and controllers of one workspace."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fleet_server.cli.output import WorkspaceOption, fleet_errors, say

if TYPE_CHECKING:
    from fleet_server.workers.supervisor import Supervisor
    from fleet_server.workspace import Workspace

READY_S_MAX = 60.0


def up(workspace: WorkspaceOption = None) -> None:
    """Run broker, API, gateway and controllers until Ctrl-C or SIGTERM.

    What ends is started again; a second `up` on the same workspace is refused.

    Example: edgefleet up -w fleet
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.workspace import broker_of, ensure_certificates
        from fleet_server.workers.supervisor import Supervisor, WorkspaceLock, stop_on_signals

        fleet = open_fleet(workspace)
        with WorkspaceLock(fleet.workspace):
            fleet.engine.dispose()  # the schema is current before any worker looks
            authority = ensure_certificates(fleet.workspace, fleet.clock)
            supervisor = Supervisor(
                fleet.workspace,
                broker_of(fleet.workspace, fleet.clock),
                fleet.clock,
                say=say,
                watched=authority.files.crl,
            )
            stop_on_signals(supervisor.stop)
            try:
                supervisor.start()
                _say_ready(supervisor, fleet.workspace, fleet.clock.monotonic)
                supervisor.run()
            finally:
                say("stopping")
                supervisor.shut_down()
        say("stopped")


def _say_ready(
    supervisor: "Supervisor", workspace: "Workspace", seconds: Callable[[], float]
) -> None:
    """Wait for the API, the gateway and the controller to answer, then say where they are."""
    started = seconds()
    while not supervisor.stop.wait(0.1):
        late = [name for name, is_up in readiness(workspace).items() if not is_up]
        if not late:
            config = workspace.config
            say(
                f"ready in {seconds() - started:.1f} s: broker {config.public_host}:"
                f"{config.broker_port}, API https://{config.public_host}:{config.api_port}"
            )
            return
        supervisor.look()
        if seconds() - started > READY_S_MAX:
            say(f"{', '.join(late)} not at work after {READY_S_MAX:g} s; read {workspace.log_dir}")
            return


def readiness(workspace: "Workspace") -> dict[str, bool]:
    """Tell which workers have said that they are at work since this start."""
    from fleet_server.run_state import read_heartbeat
    from fleet_server.workers.supervisor import WORKERS, read_run_file

    pids = read_run_file(workspace.run_file).get("children", {})
    return {
        name: read_heartbeat(workspace.server_dir, name).get("pid") == pids.get(name, 0)
        for name in WORKERS
    }
