"""An external broker: its files, and whether it answers."""

from pathlib import Path

from fleet_server.adapters.authority_files import CertificateFiles
from fleet_server.adapters.broker_export import ExportPlan, export_broker
from fleet_server.adapters.broker_process import load_server_secret
from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.external_broker import check_broker
from fleet_server.bootstrap import Fleet
from fleet_server.errors import MisuseError
from fleet_server.wiring.trust import user_name
from fleet_server.wiring.workspace import ensure_certificates, find_broker_door
from fleet_server.workspace import CONFIG_NAME, EXTERNAL


def write_broker_files(fleet: Fleet, out: Path, place: Path) -> list[Path]:
    """Write what an external mosquitto needs; return the files.

    Args:
        fleet: The opened workspace, whose configuration names the broker.
        out: Folder to write now.
        place: Where the files will lie on the broker's machine.

    Raises:
        MisuseError: The broker is managed, or a path cannot be used.
    """
    config, workspace = fleet.workspace.config, fleet.workspace
    if not config.is_broker_external:
        raise MisuseError(
            f"{workspace.root / CONFIG_NAME} says that `edgefleet up` runs the broker; for another"
            f' set there: broker = "{EXTERNAL}", broker_host = "where devices find it",'
            ' server_host = "where this server finds it"'
        )
    ensure_certificates(workspace, fleet.clock)
    workspace.broker_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    plan = ExportPlan(
        directory=out,
        place=place,
        config=config,
        secret=load_server_secret(workspace.broker_dir, is_created=True),
    )
    written = export_broker(plan, CertificateFiles(workspace.keys_dir))
    with ledgers_of(fleet.engine)() as ledger:
        ledger.audit.append(
            at=fleet.clock.now(),
            actor=user_name(),
            act="keys.broker_config",
            subject=config.mqtt_host,
            detail={"folder": str(out)},
        )
    return written


def check_external_broker(fleet: Fleet) -> None:
    """Ask an external broker's two listeners; raises what ``check_broker`` raises."""
    check_broker(find_broker_door(fleet.workspace))
