"""The ledger of sampled rows in the control database.

A device numbers its batches within a boot and sends the next only when the last was acknowledged,
so one number a boot says what has been taken. It moves in the transaction that takes. Invariants:
a batch is taken once, whatever is sent again; a row is in one batch or one file, never in both;
marks of a device are bounded, and so is what waits (``sample_room.py``).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from edge_agent.contract.rows import RowMessage, name_prediction
from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.sample_labels import add_labels
from fleet_server.adapters.database.sample_room import SampleRoom, find_label_excess
from fleet_server.adapters.database.sample_tables import (
    SampleBatchRow,
    SampleFileRow,
    SampleLabelRow,
    SampleMarkRow,
)
from fleet_server.adapters.database.tables import ArtifactRow, DeviceRow
from fleet_server.errors import FleetError
from fleet_server.ports.samples import (
    NewLabel,
    RowLabel,
    SampleFile,
    SampleSum,
    SampleView,
    StoredBatch,
    Taken,
)

MARKS_MAX = 16
"""Boots of a device whose marks are kept, the newest."""
BATCHES_AT_ONCE = 20_000
ARTIFACT_DIGITS = 16


class DatabaseSampleBook:
    """The ``SampleBook`` of a workspace."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._room = engine, SampleRoom()

    def take(self, device: int, message: RowMessage, payload: bytes, *, at: datetime) -> Taken:
        """Keep a message once; see the port."""
        try:
            with write_session(self._engine) as session:
                return _take(session, self._room, device, message, payload, at)
        except SQLAlchemyError as error:
            self._room.forget()
            raise FleetError(f"sampled rows cannot be kept: {error}") from error

    def list_waiting(self, *, bytes_max: int) -> list[StoredBatch]:
        """Return batches that are in no file yet, oldest first."""
        with read_session(self._engine) as session:
            return _read_batches(session, _waiting(), bytes_max)[0]

    def weigh_waiting(self) -> tuple[int, int, datetime | None]:
        """Return how many batches wait for a file, their bytes and the arrival of the oldest."""
        batch = SampleBatchRow
        size = func.sum(func.length(col(batch.payload)))
        with read_session(self._engine) as session:
            query = select(func.count(), func.coalesce(size, 0), func.min(col(batch.received_at)))
            count, size_bytes, oldest_at = session.execute(query).one()
        return int(count), int(size_bytes), oldest_at

    def look_at(
        self, model: str, version: int | None, since_at: datetime | None, *, bytes_max: int
    ) -> SampleView:
        """Return a model's files and waiting batches at one moment."""
        files, batches = _files().where(col(SampleFileRow.model) == model), _waiting()
        batches = batches.where(col(SampleBatchRow.model) == model)
        if version is not None:
            files = files.where(col(SampleFileRow.version) == version)
            batches = batches.where(col(SampleBatchRow.version) == version)
        if since_at is not None:
            files = files.where(col(SampleFileRow.last_at) >= since_at)
            batches = batches.where(col(SampleBatchRow.received_at) >= since_at)
        with read_session(self._engine) as session:
            found, is_whole = _read_batches(session, batches, bytes_max)
            return SampleView(_read_files(session, files), found, is_whole)

    def note_file(self, file: SampleFile, batches: Sequence[int]) -> bool:
        """Let a file stand for batches; see the port."""
        self._room.forget()
        with write_session(self._engine) as session:
            wanted = col(SampleBatchRow.id).in_(batches)
            there = session.scalar(select(func.count()).select_from(SampleBatchRow).where(wanted))
            if there != len(batches):
                return False
            session.execute(delete(SampleBatchRow).where(wanted))
            session.add(
                SampleFileRow(
                    model=file.model,
                    version=file.version,
                    path=file.path,
                    rows=file.rows,
                    size_bytes=file.size_bytes,
                    sha256=file.sha256,
                    first_at=file.first_at,
                    last_at=file.last_at,
                )
            )
        return True

    def list_files(self) -> list[SampleFile]:
        """Return files, oldest first."""
        with read_session(self._engine) as session:
            return _read_files(session, _files())

    def drop(self, paths: Sequence[str], *, before_at: datetime) -> None:
        """Forget files, and marks, labels and batches from before."""
        self._room.forget()
        with write_session(self._engine) as session:
            session.execute(delete(SampleFileRow).where(col(SampleFileRow.path).in_(paths)))
            for table, column in (
                (SampleMarkRow, col(SampleMarkRow.seen_at)),
                (SampleLabelRow, col(SampleLabelRow.received_at)),
                (SampleBatchRow, col(SampleBatchRow.received_at)),
            ):
                session.execute(delete(table).where(column < before_at))

    def list_labels(self, model: str, version: int | None = None) -> list[RowLabel]:
        """Return the labels of single rows."""
        query = (
            select(SampleLabelRow, col(DeviceRow.id))
            .join(DeviceRow, col(DeviceRow.number) == col(SampleLabelRow.device))
            .where(col(SampleLabelRow.model) == model)
        )
        if version is not None:
            query = query.where(col(SampleLabelRow.version) == version)
        with read_session(self._engine) as session:
            return [
                RowLabel(device, row.prediction_id, row.row, row.label, row.part)
                for row, device in session.execute(query)
            ]

    def add_labels(
        self, model: str, labels: Sequence[NewLabel], *, path: str, actor: str, at: datetime
    ) -> None:
        """Keep labels that people found out; see the port."""
        with write_session(self._engine) as session:
            add_labels(session, model, labels, at=at)
            append_audit(
                session,
                at=at,
                actor=actor,
                act="labels.import",
                object=f"samples/{model}",
                detail={"labels": len(labels), "path": path},
            )

    def add_up(self, model: str | None = None) -> list[SampleSum]:
        """Sum up by model and version."""
        batch, file, label = SampleBatchRow, SampleFileRow, SampleLabelRow
        waiting = select(
            col(batch.model),
            col(batch.version),
            func.sum(col(batch.rows)),
            func.min(col(batch.received_at)),
            func.max(col(batch.received_at)),
        ).group_by(col(batch.model), col(batch.version))
        filed = select(
            col(file.model),
            col(file.version),
            func.sum(col(file.rows)),
            func.min(col(file.first_at)),
            func.max(col(file.last_at)),
            func.count(),
            func.sum(col(file.size_bytes)),
        ).group_by(col(file.model), col(file.version))
        labelled = select(col(label.model), col(label.version), func.count()).group_by(
            col(label.model), col(label.version)
        )
        sums: dict[tuple[str, int], dict[str, int]] = {}
        times: dict[tuple[str, int], list[datetime]] = {}
        with read_session(self._engine) as session:
            for name, version, rows, first_at, last_at in session.execute(waiting):
                place = sums.setdefault((name, version), {})
                place["rows"] = place["waiting"] = int(rows)
                times.setdefault((name, version), []).extend((first_at, last_at))
            for name, version, rows, first_at, last_at, files, size in session.execute(filed):
                place = sums.setdefault((name, version), {})
                place["rows"] = place.get("rows", 0) + int(rows)
                place["files"], place["size_bytes"] = int(files), int(size)
                times.setdefault((name, version), []).extend((first_at, last_at))
            for name, version, labels in session.execute(labelled):
                sums.setdefault((name, version), {})["labels"] = int(labels)
        return [
            SampleSum(
                model=name,
                version=version,
                first_at=min(times.get((name, version), []), default=None),
                last_at=max(times.get((name, version), []), default=None),
                **sums[name, version],
            )
            for name, version in sorted(sums, key=lambda place: (place[0], -place[1]))
            if model in (None, name)
        ]

    def note_export(self, model: str, *, rows: int, path: str, actor: str, at: datetime) -> None:
        """Write down that somebody took rows out."""
        with write_session(self._engine) as session:
            append_audit(
                session,
                at=at,
                actor=actor,
                act="samples.export",
                object=f"samples/{model}",
                detail={"rows": rows, "path": path},
            )


def _files() -> Select[Any]:
    return select(SampleFileRow).order_by(col(SampleFileRow.last_at), col(SampleFileRow.id))


def _waiting() -> Select[SampleBatchRow, str]:
    return (
        select(SampleBatchRow, col(DeviceRow.id))
        .join(DeviceRow, col(DeviceRow.number) == col(SampleBatchRow.device))
        .order_by(col(SampleBatchRow.id))
    )


def _read_files(session: Session, query: Select[Any]) -> list[SampleFile]:
    return [
        SampleFile(
            model=row.model,
            version=row.version,
            path=row.path,
            rows=row.rows,
            size_bytes=row.size_bytes,
            sha256=row.sha256,
            first_at=row.first_at,
            last_at=row.last_at,
        )
        for row in session.scalars(query)
    ]


def _read_batches(
    session: Session, query: Select[SampleBatchRow, str], bytes_max: int
) -> tuple[list[StoredBatch], bool]:
    """Read batches up to a bound, one at least; tell whether these are all."""
    found: list[StoredBatch] = []
    size = 0
    for row, device in session.execute(query).yield_per(100):
        size += len(row.payload)
        if found and (size > bytes_max or len(found) >= BATCHES_AT_ONCE):
            return found, False
        number = int(row.id)
        place = (row.model, row.version, row.sha256)
        found.append(StoredBatch(number, *place, device, row.payload, row.received_at))
    return found, True


def _take(
    session: Session,
    room: SampleRoom,
    device: int,
    message: RowMessage,
    payload: bytes,
    at: datetime,
) -> Taken:
    if _is_taken(session, device, message.boot, message.sequence, at):
        return Taken(is_duplicate=True)
    digits = func.substr(col(ArtifactRow.sha256), 1, ARTIFACT_DIGITS)
    batch = message.batch
    package = session.scalars(
        select(ArtifactRow).where(digits == batch.artifact.hex()).limit(1)
    ).first()
    if package is None:
        return Taken(is_unknown=True)
    rows, labels = batch.rows, batch.labels
    reasons = []
    if rows and (why := room.find_excess(session, package.model, device, len(payload), at=at)):
        rows, reasons = (), [why]
    if labels and (why := find_label_excess(session, device, len(labels))):
        labels, reasons = (), [*reasons, why]
    dropped = "; ".join(reasons)
    if dropped:
        room.note(session, package.model, device, dropped, at=at)
    if rows:
        session.add(
            SampleBatchRow(
                model=package.model,
                version=package.version,
                sha256=package.sha256,
                device=device,
                rows=len(rows),
                payload=payload,
                received_at=at,
            )
        )
    for label in labels:
        session.merge(
            SampleLabelRow(
                device=device,
                prediction_id=name_prediction(message.boot, batch.stream, label.number),
                row=label.row,
                part=batch.names[label.name] if batch.names else "",
                model=package.model,
                version=package.version,
                label=label.label,
                received_at=at,
            )
        )
    return Taken(rows=len(rows), labels=len(labels), dropped=dropped)


def _is_taken(session: Session, device: int, boot: int, sequence: int, at: datetime) -> bool:
    """Tell whether the number was taken before, and note it when not."""
    name = f"{boot:016x}"
    mark = session.get(SampleMarkRow, (device, name))
    if mark is None:
        old = session.scalars(
            select(SampleMarkRow)
            .where(col(SampleMarkRow.device) == device)
            .order_by(col(SampleMarkRow.seen_at).desc())
            .offset(MARKS_MAX - 1)
        )
        for row in list(old):
            session.delete(row)
        session.add(SampleMarkRow(device=device, boot=name, highest=sequence, seen_at=at))
        session.flush()
        return False
    is_taken = sequence <= mark.highest
    mark.highest, mark.seen_at = max(mark.highest, sequence), at
    return is_taken
