"""Late labels of a workspace: what people look at."""

from datetime import timedelta

from fleet_server.adapters.database.drift_repository import DatabaseDriftCatalog
from fleet_server.adapters.database.label_book import DatabaseLabelBook
from fleet_server.adapters.package_references import PackageReferences
from fleet_server.bootstrap import Fleet
from fleet_server.services.read_labels import LabelReader


def build_label_reader(fleet: Fleet) -> LabelReader:
    """Return what sums up labels."""
    retention = timedelta(days=fleet.workspace.config.retention_days)
    return LabelReader(
        book=DatabaseLabelBook(fleet.engine, retention=retention),
        catalog=DatabaseDriftCatalog(fleet.engine),
        references=PackageReferences(fleet.objects),
    )
