"""Sampled rows of a workspace: the ledger, the files, what people do with both."""

from datetime import timedelta

from fleet_server.adapters.database.drift_repository import DatabaseDriftCatalog
from fleet_server.adapters.database.sample_book import DatabaseSampleBook
from fleet_server.adapters.package_parts import StoredPackageParts
from fleet_server.adapters.sample_files import ParquetSampleFiles
from fleet_server.bootstrap import Fleet
from fleet_server.services.export_samples import SampleDesk
from fleet_server.services.file_samples import FileSamples
from fleet_server.services.import_labels import LabelImport


def build_sample_keeper(fleet: Fleet) -> FileSamples:
    """Return what makes files and lets go of old ones."""
    config = fleet.workspace.config
    return FileSamples(
        book=DatabaseSampleBook(fleet.engine),
        files=_build_files(fleet),
        clock=fleet.clock,
        keep=timedelta(days=config.samples_days),
        bytes_max=config.samples_bytes_max,
    )


def build_sample_desk(fleet: Fleet, *, actor: str) -> SampleDesk:
    """Return what sums up and gives out."""
    return SampleDesk(
        book=DatabaseSampleBook(fleet.engine),
        files=_build_files(fleet),
        clock=fleet.clock,
        actor=actor,
    )


def build_label_import(fleet: Fleet, *, actor: str) -> LabelImport:
    """Return what takes labels of sampled rows from files."""
    return LabelImport(
        book=DatabaseSampleBook(fleet.engine),
        files=_build_files(fleet),
        catalog=DatabaseDriftCatalog(fleet.engine),
        parts=StoredPackageParts(fleet.objects),
        clock=fleet.clock,
        actor=actor,
    )


def _build_files(fleet: Fleet) -> ParquetSampleFiles:
    return ParquetSampleFiles(fleet.workspace.samples_dir, fleet.objects, fleet.clock)
