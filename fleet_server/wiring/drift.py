"""Drift of a workspace: what the controller runs and what people look at."""

from datetime import timedelta

from fleet_server.adapters.database.drift_repository import DatabaseDriftCatalog, DatabaseDriftStore
from fleet_server.adapters.package_references import PackageReferences
from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.bootstrap import Fleet
from fleet_server.core.drift_policy import DriftPolicy
from fleet_server.ports.drift import WindowReader
from fleet_server.services.watch_drift import DriftDesk, DriftWatch


def build_drift_watch(fleet: Fleet, windows: WindowReader | None = None) -> DriftWatch:
    """Return what judges drift: call ``run_once()`` every ``drift_period_s``.

    Args:
        fleet: The workspace.
        windows: A window store that is already open; by default one is opened.
    """
    config = fleet.workspace.config
    return DriftWatch(
        windows=windows
        or SqliteWindowStore(
            fleet.workspace.telemetry_db, retention=timedelta(days=config.retention_days)
        ),
        references=PackageReferences(fleet.objects),
        catalog=DatabaseDriftCatalog(fleet.engine),
        store=build_drift_store(fleet),
        clock=fleet.clock,
        policy=DriftPolicy(false_alarms_per_day=config.false_alarms_per_day),
    )


def build_drift_store(fleet: Fleet) -> DatabaseDriftStore:
    """Return what reads verdicts."""
    return DatabaseDriftStore(fleet.engine)


def build_drift_desk(fleet: Fleet) -> DriftDesk:
    """Return what acknowledges alarms."""
    return DriftDesk(store=build_drift_store(fleet), clock=fleet.clock)
