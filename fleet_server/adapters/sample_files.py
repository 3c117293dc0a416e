"""Sampled rows as Parquet files below ``server/samples/MODEL/DAY/``; pyarrow stops here.

A file is written whole, synced and named by its own bytes. Columns of ours begin with ``_``; the
others have the names of the schema's columns, so that a spec can train on an export. A wide
feature is one column of lists. What was done to a column is told in its metadata (``redaction``).
"""

import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edge_agent.contract.answer_parts import parts_of
from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import SCHEMA, unpack_members
from edge_agent.contract.rows import (
    HASH_BYTES,
    Reason,
    Redaction,
    RowFeature,
    RowMessage,
    decode_rows,
    name_prediction,
)
from edge_agent.contract.schema import Dtype, Feature, ModelSchema, Task
from edge_agent.statistics.packed_texts import unpack_texts
from fleet_server.adapters.sample_columns import LABEL, PREDICTED, JoinedColumns
from fleet_server.durable_files import sync_directory, write_durable
from fleet_server.errors import FleetError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import PackageStore
from fleet_server.ports.samples import Exported, RowKey, RowLabel, SampleFile, StoredBatch

CSV_SUFFIX = ".csv"
COLUMNS_MAX = 4_096
"""A wider feature is one column of lists."""
SWEEP_AFTER_S = 3_600.0
UNLISTED = "(unlisted)"
"""A category the model's list does not hold; its text never reached the agent's rows."""
_PACKAGES_KEPT = 64
_KEY = ("_device", "_prediction_id", "_row")
_NEW_FILE = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class ParquetSampleFiles:
    """The ``SampleFiles`` of a workspace."""

    def __init__(self, directory: Path, packages: PackageStore, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._schema_of: Callable[[str], ModelSchema | None] = lru_cache(_PACKAGES_KEPT)(
            lambda sha256: _read_schema(packages, sha256)
        )

    def write(self, batches: Sequence[StoredBatch]) -> SampleFile:
        """Make one durable file of batches of one layout; see the port."""
        first = batches[0]
        table = pa.concat_tables([self._table_of(batch) for batch in batches])
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        content = buffer.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        folder = Path(first.model) / f"{first.received_at:%Y-%m-%d}"
        name = f"{first.version}-{first.received_at:%H%M%S}-{first.id}-{sha256[:12]}.parquet"
        path = folder / name
        try:
            write_durable(self._directory / path, content, mode=0o600)
            sync_directory(self._directory / first.model)
            sync_directory(self._directory)
        except OSError as error:
            raise FleetError(f"sampled rows cannot be written to {path}: {error}") from error
        return SampleFile(
            model=first.model,
            version=first.version,
            path=str(path),
            rows=table.num_rows,
            size_bytes=len(content),
            sha256=sha256,
            first_at=min(batch.received_at for batch in batches),
            last_at=max(batch.received_at for batch in batches),
        )

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        (self._directory / path).unlink(missing_ok=True)

    def sweep(self, known: Sequence[str]) -> int:
        """Remove old files that the ledger does not know, and empty folders."""
        wanted, removed = set(known), 0
        before_s = self._clock.now().timestamp() - SWEEP_AFTER_S
        for path in list(self._directory.glob("*/*/*")):
            is_old = path.is_file() and path.stat().st_mtime < before_s
            if is_old and str(path.relative_to(self._directory)) not in wanted:
                path.unlink(missing_ok=True)
                removed += 1
        for folder in list(self._directory.glob("*/*")):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return removed

    def find_versions(
        self,
        files: Sequence[SampleFile],
        batches: Sequence[StoredBatch],
        keys: Collection[RowKey],
    ) -> Mapping[RowKey, int]:
        """Return the version that answered each of those rows that are there; see the port."""
        found: dict[RowKey, int] = {}
        for table in self._tables(files, batches, columns=[*_KEY, "_version"]):
            rows = (table.column(name).to_pylist() for name in (*_KEY, "_version"))
            for device, prediction_id, row, version in zip(*rows, strict=True):
                if (device, prediction_id, row) in keys:
                    found[device, prediction_id, row] = version
        return found

    def export(
        self,
        out: Path,
        files: Sequence[SampleFile],
        batches: Sequence[StoredBatch],
        labels: Sequence[RowLabel],
    ) -> Exported:
        """Write rows with their labels into one file; see the port."""
        schemas = [self._open(file).schema_arrow for file in files]
        schemas += [self._table_of(batch).schema for batch in batches]
        if not schemas:
            raise RefusedError("there are no sampled rows to export")
        known = {_key(label): label.label for label in labels}
        joined = JoinedColumns.of(schemas)
        rows, temporary = 0, out.with_name(f".{out.name}.part")
        apart: Counter[str] = Counter()
        try:
            with (
                os.fdopen(os.open(temporary, _NEW_FILE, 0o600), "wb") as file,
                _open_writer(out, file, joined.schema) as writer,
            ):
                for table in self._tables(files, batches):
                    for name in joined.list_apart(table.schema):
                        apart[name] += table.num_rows
                    writer.write_table(joined.fit(_add_labels(table, known, joined.labels)))
                    rows += table.num_rows
            temporary.replace(out)
        except (OSError, pa.ArrowException) as error:
            raise FleetError(f"{out} cannot be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return Exported(rows=rows, apart=dict(sorted(apart.items())))

    def _tables(
        self,
        files: Sequence[SampleFile],
        batches: Sequence[StoredBatch],
        columns: list[str] | None = None,
    ) -> Iterator[pa.Table]:
        for file in files:
            yield self._open(file).read(columns=columns)
        for batch in batches:
            yield self._table_of(batch)

    def _open(self, file: SampleFile) -> pq.ParquetFile:
        path = self._directory / file.path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FleetError(f"sampled rows {path} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise FleetError(f"sampled rows {path} are not as they were written; remove the file")
        return pq.ParquetFile(pa.BufferReader(content))

    def _table_of(self, batch: StoredBatch) -> pa.Table:
        schema = self._schema_of(batch.sha256)
        message = decode_rows(batch.payload)
        fields: list[pa.Field] = []
        columns: list[pa.Array] = []
        for name, column in _own_columns(batch, message, schema):
            fields.append(pa.field(name, column.type))
            columns.append(column)
        declared = {feature.name: feature for feature in schema.features} if schema else {}
        for feature, values in zip(message.batch.features, message.batch.values, strict=True):
            known = declared.get(feature.name)
            if schema is not None and (known is None or known.width != feature.width):
                continue  # a device may send what it likes; no such column is exported
            told = {"redaction": _tell(feature)}
            for name, column in _feature_columns(feature, values, known):
                fields.append(pa.field(name, column.type, metadata=told))
                columns.append(column)
        classes = {part.name: part.classes for part in parts_of(schema)} if schema else {}
        about = {"classes": json.dumps(classes.pop("", ()))}
        if classes:
            about["part_classes"] = json.dumps(classes)
        return pa.table(columns, schema=pa.schema(fields, metadata=about))


def _open_writer(out: Path, file: Any, schema: pa.Schema) -> pq.ParquetWriter | pa.csv.CSVWriter:
    """Begin a table of the kind the name says; raises RefusedError for what CSV cannot hold."""
    if out.suffix.lower() != CSV_SUFFIX:
        return pq.ParquetWriter(file, schema, compression="zstd")
    nested = next((field.name for field in schema if pa.types.is_nested(field.type)), "")
    if nested:
        raise RefusedError(f"{nested} is a list in each row, which CSV cannot hold; write .parquet")
    return pa.csv.CSVWriter(file, schema)


def _own_columns(
    batch: StoredBatch, message: RowMessage, schema: ModelSchema | None
) -> Iterator[tuple[str, pa.Array]]:
    rows, own = message.batch.rows, message.batch
    count = len(rows)
    ids = [name_prediction(message.boot, own.stream, row.number) for row in rows]
    yield "_prediction_id", pa.array(ids, pa.string())
    yield "_row", pa.array([row.row for row in rows], pa.int32())
    yield "_device", pa.array([batch.device] * count, pa.string())
    yield "_version", pa.array([batch.version] * count, pa.int32())
    yield "_at", pa.array([row.at_ms for row in rows], pa.timestamp("ms", tz="UTC"))
    yield "_reason", pa.array([_REASONS[row.reason] for row in rows], pa.string())
    yield "_share", pa.array([own.share] * count, pa.float64())
    known = {part.name: part.classes for part in parts_of(schema)} if schema else None
    if not own.names:
        # An older agent says "not a number" where a row has several targets.
        single = known.get("", ()) if known is not None else ()
        is_class = schema is not None and schema.task is Task.CLASSIFICATION
        predicted = [row.predicted for row in rows]
        yield PREDICTED, _to_answers(predicted, single, is_class=is_class)
    for name, packed in zip(own.names, own.predicted, strict=True):
        classes = known.get(name) if known is not None else ()
        if classes is None:
            continue  # as of features: what the model does not answer with is no column
        answers = np.frombuffer(packed, "<f4").tolist()
        yield f"{PREDICTED}_{name}", _to_answers(answers, classes, is_class=bool(classes))
    if schema is not None and schema.task is Task.CLASSIFICATION:
        yield "_confidence", pa.array([row.confidence for row in rows], pa.float32())


def _to_answers(predicted: Sequence[float], classes: Sequence[str], *, is_class: bool) -> pa.Array:
    if is_class:
        return pa.array([_name_class(classes, value) for value in predicted], pa.string())
    return pa.array(predicted, pa.float64(), from_pandas=True)


_REASONS = {Reason.SHARE: "share", Reason.UNCERTAIN: "uncertain"}


def _feature_columns(
    feature: RowFeature, values: bytes, declared: Feature | None
) -> Iterator[tuple[str, pa.Array]]:
    if feature.redaction is Redaction.HASH:
        starts = range(0, len(values), HASH_BYTES)
        hashes = [values[at : at + HASH_BYTES].hex() for at in starts]
        yield feature.name, pa.array(hashes, pa.string())
        return
    numbers = np.frombuffer(values, "<f4").reshape(-1, feature.width)
    if declared and declared.is_text and declared.width == feature.width:
        yield feature.name, pa.array([_to_utf8(text) for text in unpack_texts(numbers)])
        return
    names = declared.columns if declared and declared.width == feature.width else ()
    if not names:
        names = (feature.name,) if feature.width == 1 else ()
    if names and feature.width <= COLUMNS_MAX:
        for name, column in zip(names, numbers.T, strict=True):
            yield name, _to_column(np.ascontiguousarray(column), feature, declared)
        return
    flat = pa.array(numbers.ravel(), pa.float32())
    yield feature.name, pa.FixedSizeListArray.from_arrays(flat, feature.width)


def _to_utf8(text: str | None) -> str | None:
    """Put a question mark in place of lone surrogates, which no file of texts can hold."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _to_column(
    numbers: NDArray[np.float32], feature: RowFeature, declared: Feature | None
) -> pa.Array:
    """Give categories and booleans as they are written in tables; empty where one is missing."""
    if feature.redaction is Redaction.KEEP and declared is not None:
        codes = [int(code) if math.isfinite(code) else None for code in numbers.tolist()]
        if declared.dtype == Dtype.CATEGORY:
            words = declared.categories
            known = [code is not None and 0 <= code < len(words) for code in codes]
            texts = [
                None if code is None else words[code] if is_known else UNLISTED
                for code, is_known in zip(codes, known, strict=True)
            ]
            return pa.array(texts, pa.string())
        if declared.dtype == Dtype.BOOL:
            return pa.array([None if code is None else bool(code) for code in codes], pa.bool_())
    return pa.array(numbers, pa.float32())


def _tell(feature: RowFeature) -> str:
    """Say what was done to a feature, as settings do."""
    if feature.redaction is Redaction.ROUND:
        return f"round {feature.step:g}"
    return feature.redaction.name.lower()


def _name_class(classes: Sequence[str], value: float) -> str | None:
    is_known = math.isfinite(value) and 0 <= value < len(classes)
    return classes[int(value)] if is_known else None


def _add_labels(
    table: pa.Table,
    known: dict[tuple[str, str, int, str], float],
    types: Mapping[str, pa.DataType],
) -> pa.Table:
    told = table.schema.metadata or {}
    classes = json.loads(told.get(b"part_classes", b"{}"))
    classes[""] = json.loads(told.get(b"classes", b"[]"))
    keys = list(zip(*(table.column(name).to_pylist() for name in _KEY), strict=True))
    for part, kind in types.items():
        found = [known.get((*key, part)) for key in keys]
        values: list[Any] = [
            _name_class(classes.get(part, ()), value)
            if value is not None and kind == pa.string()
            else value
            for value in found
        ]
        name = f"{LABEL}_{part}" if part else LABEL
        table = table.append_column(name, pa.array(values, kind))
    return table


def _key(label: RowLabel) -> tuple[str, str, int, str]:
    return label.device, label.prediction_id, label.row, label.part


def _read_schema(packages: PackageStore, sha256: str) -> ModelSchema | None:
    """Read a package's schema; None when the package is gone."""
    try:
        return ModelSchema.decode(unpack_members(packages.read(sha256))[SCHEMA])
    except (ContractError, FleetError):
        return None
