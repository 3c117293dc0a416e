"""Sampled rows of a workspace: the ledger, the files, what people do with both."""

from datetime import timedelta

from fleet_server.adapters.database.sample_book import DatabaseSampleBook
from fleet_server.adapters.sample_files import ParquetSampleFiles
from fleet_server.bootstrap import Fleet
from fleet_server.services.export_samples import SampleDesk
from fleet_server.services.file_samples import FileSamples


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


def _build_files(fleet: Fleet) -> ParquetSampleFiles:
    return ParquetSampleFiles(fleet.workspace.samples_dir, fleet.objects, fleet.clock)
