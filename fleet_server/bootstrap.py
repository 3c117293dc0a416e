"""Open a workspace's databases and stores; areas are joined in ``wiring/``."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine

from fleet_server.adapters.database.engine import open_engine
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.object_store import ObjectStore
from fleet_server.adapters.system_clock import SystemClock
from fleet_server.errors import MisuseError
from fleet_server.ports.clock import Clock
from fleet_server.workspace import Workspace, open_workspace


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """An opened workspace: what every use case needs."""

    workspace: Workspace
    clock: Clock

    @cached_property
    def engine(self) -> Engine:
        """The control database at the newest schema."""
        if not self.workspace.server_dir.is_dir():
            raise MisuseError(
                f"{self.workspace.root} has no server folder; run `edgefleet init` to repair it"
            )
        migrate(self.workspace.control_db)
        return open_engine(self.workspace.control_db)

    @cached_property
    def objects(self) -> ObjectStore:
        """The package store."""
        return ObjectStore(self.workspace.objects_dir)


def open_fleet(workspace: Workspace | Path | None = None, clock: Clock | None = None) -> Fleet:
    """Open a workspace by value, by folder, or the one found upward from here."""
    if not isinstance(workspace, Workspace):
        workspace = open_workspace(workspace)
    return Fleet(workspace=workspace, clock=clock or SystemClock())
