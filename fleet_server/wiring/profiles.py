"""Device profiles of a workspace: what fits which."""

from datetime import timedelta

from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.package_facts import PackageEvidence
from fleet_server.adapters.reported_latency import WindowLatencies
from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.bootstrap import Fleet
from fleet_server.services.check_profiles import CheckProfiles
from fleet_server.wiring.rollouts import build_profiles
from fleet_server.wiring.training import build_browser


def build_profile_check(fleet: Fleet) -> CheckProfiles:
    """Return what says which profiles and devices a version fits: ``check(model, number)``."""
    retention = timedelta(days=fleet.workspace.config.retention_days)
    windows = SqliteWindowStore(fleet.workspace.telemetry_db, retention=retention)
    return CheckProfiles(
        browser=build_browser(fleet),
        packages=PackageEvidence(fleet.objects),
        load_profiles=build_profiles(fleet).load_all,
        ledgers=ledgers_of(fleet.engine),
        latencies=WindowLatencies(windows, fleet.objects, fleet.clock),
    )
