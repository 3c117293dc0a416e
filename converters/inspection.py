"""Compare the answers of two model files, for ``edge-convert parity``."""

from pathlib import Path
from typing import Any

import numpy as np

from converters.file_requests import FileSource, open_source
from converters.from_file import ForeignModel
from converters.parity import Parity, compare_outputs
from converters.source_files import is_package, load_package
from converters.tables import Table
from device_profiles.profile import DeviceProfile
from edge_agent.contract.package import SCHEMA
from edge_agent.contract.schema import ModelSchema


def compare_files(
    source_path: Path,
    shipped_path: Path,
    table: Table,
    *,
    target: str | None,
    profile: DeviceProfile,
    tolerance: float,
) -> Parity:
    """Compare the answers of two model files on the rows of a table.

    Raises:
        ConversionError: A file cannot be read or run.
    """
    schema = None
    if is_package(shipped_path):
        schema = ModelSchema.decode(load_package(shipped_path)[SCHEMA])
    source = open_source(
        source_path, table, target=target, name="source", schema=schema, profile=profile
    )
    shipped = open_source(
        shipped_path, table, target=target, name="shipped", schema=source.schema, profile=profile
    )
    rows = table.read_numbers(source.schema.columns).astype(np.float32)
    return compare_outputs(
        source.schema.task,
        _answer(source, rows),
        _answer(shipped, rows),
        tolerance,
        rows=rows,
        columns=source.schema.columns,
    )


def _answer(source: FileSource, rows: Any) -> Any:
    if isinstance(source.model, ForeignModel):
        return source.model.answer(rows)
    from converters.sources import make_source

    return make_source(source.model, source.schema).answer(rows)
