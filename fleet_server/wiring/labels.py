"""Late labels of a workspace: what counts them, and what people look at."""

from datetime import timedelta

from fleet_server.adapters.database.drift_repository import DatabaseDriftCatalog
from fleet_server.adapters.database.label_book import DatabaseLabelBook
from fleet_server.adapters.package_parts import StoredPackageParts
from fleet_server.bootstrap import Fleet
from fleet_server.services.read_labels import LabelReader


def build_label_book(fleet: Fleet) -> DatabaseLabelBook:
    """Return what counts labels."""
    return DatabaseLabelBook(
        fleet.engine,
        retention=timedelta(days=fleet.workspace.config.retention_days),
        parts=StoredPackageParts(fleet.objects),
    )


def build_label_reader(fleet: Fleet) -> LabelReader:
    """Return what sums up labels."""
    return LabelReader(
        book=build_label_book(fleet),
        catalog=DatabaseDriftCatalog(fleet.engine),
        parts=StoredPackageParts(fleet.objects),
    )
