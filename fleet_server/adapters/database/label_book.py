"""Counts of late labels in the control database.

A device numbers its labels within a boot and sends the next message only when the last was
acknowledged, so one number a boot says what has been counted. It moves in the transaction that
counts. Invariants: a label is counted once, whatever is sent again; marks of a device are bounded;
names are those of packages, so a device cannot make rows by inventing some.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from edge_agent.contract.answer_parts import AnswerPart
from edge_agent.contract.labels import LabelRow
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    DeviceRow,
    LabelCountRow,
    LabelMarkRow,
)
from fleet_server.errors import FleetError
from fleet_server.ports.labels import (
    ClassCell,
    Counted,
    DeviceLabels,
    LabelledPart,
    LabelledVersion,
    PackageParts,
)

MARKS_MAX = 16
"""Boots of a device whose marks are kept, the newest."""
AHEAD_MAX = timedelta(days=1)
ARTIFACT_DIGITS = 16
VALUE = -1
"""Stands for both classes in the row of a regression."""

_Place = tuple[str, int, int, datetime, int, int, str]
"""Model, version, device, hour, predicted, label, part: the primary key."""


class _Cell(NamedTuple):
    """Sums over devices and hours."""

    part: str
    predicted: int
    label: int
    rows: int
    error: float
    absolute: float
    squared: float


class _Package(NamedTuple):
    model: str
    version: int
    sha256: str


@dataclass(slots=True)
class _Sums:
    rows: int = 0
    error: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0


class DatabaseLabelBook:
    """The ``LabelBook`` of a workspace."""

    def __init__(
        self, engine: Engine, *, retention: timedelta, parts: PackageParts | None = None
    ) -> None:
        """Open.

        Args:
            engine: Of the control database.
            retention: How old an answer may be.
            parts: Tells what packages answer with; without it labels that have a name are not
                counted, and all others are as they come.
        """
        self._engine, self._retention, self._parts = engine, retention, parts

    def add(self, messages: Sequence[DeviceLabels], *, at: datetime) -> Counted:
        """Count each label once; see the port."""
        try:
            with read_session(self._engine) as session:
                packages = self._find_packages(session, messages)
            # Packages are opened before anything is locked.
            parts = {name: self._find_parts(package.sha256) for name, package in packages.items()}
            with write_session(self._engine) as session:
                return self._add(session, messages, packages, parts, at)
        except SQLAlchemyError as error:
            raise FleetError(f"labels cannot be counted: {error}") from error

    def drop_before(self, at: datetime) -> int:
        """Forget old hours, and marks nobody has moved since."""
        with write_session(self._engine) as session:
            session.execute(delete(LabelMarkRow).where(col(LabelMarkRow.seen_at) < at))
            gone = session.execute(
                delete(LabelCountRow).where(col(LabelCountRow.hour_at) < at - timedelta(hours=1))
            )
            return int(getattr(gone, "rowcount", 0))

    def read(
        self, model: str, *, since_at: datetime, device: str | None = None
    ) -> list[LabelledVersion]:
        """Add up a model's labels by version, newest version first."""
        count = LabelCountRow
        where = [col(count.model) == model, col(count.hour_at) >= since_at]
        if device is not None:
            number = select(col(DeviceRow.number)).where(col(DeviceRow.id) == device)
            where.append(col(count.device).in_(number))
        cell = (col(count.version), col(count.part), col(count.predicted), col(count.label))
        summed = (count.rows, count.error_sum, count.absolute_sum, count.squared_sum)
        sums = select(*cell, *(func.sum(col(column)) for column in summed))
        hour = col(count.hour_at)
        devices = func.count(col(count.device).distinct())
        spans = select(col(count.version), devices, func.min(hour), func.max(hour))
        by_version: dict[int, list[_Cell]] = defaultdict(list)
        with read_session(self._engine) as session:
            for version, *found in session.execute(sums.where(*where).group_by(*cell)):
                by_version[version].append(_Cell(*found))
            told = session.execute(spans.where(*where).group_by(col(count.version))).all()
        return [
            LabelledVersion(
                version=version,
                devices=devices,
                first_at=first_at,
                last_at=last_at,
                parts=_add_up(by_version[version]),
            )
            for version, devices, first_at, last_at in sorted(told, reverse=True)
        ]

    def _find_parts(self, sha256: str) -> Mapping[str, AnswerPart]:
        found = self._parts.find(sha256) if self._parts is not None else ()
        return {part.name: part for part in found}

    def _add(
        self,
        session: Session,
        messages: Sequence[DeviceLabels],
        packages: Mapping[str, _Package],
        parts: Mapping[str, Mapping[str, AnswerPart]],
        at: datetime,
    ) -> Counted:
        sums: dict[_Place, _Sums] = defaultdict(_Sums)
        duplicates = unknown = undated = unfit = counted = 0
        for device, message in messages:
            highest = self._move_mark(session, device, message.boot, message.rows[-1].sequence, at)
            for row in message.rows:
                package = packages.get(row.artifact.hex())
                if row.sequence <= highest:
                    duplicates += 1
                elif package is None:
                    unknown += 1
                elif not _is_fit(row, parts[row.artifact.hex()]):
                    unfit += 1
                elif (hour_at := self._hour_of(row, at)) is None:
                    undated += 1
                else:
                    counted += 1
                    _count(sums, (package.model, package.version, device, hour_at), row)
        for place, sum_ in sums.items():
            _store(session, place, sum_)
        return Counted(
            counted=counted,
            duplicates=duplicates,
            unknown=unknown,
            undated=undated,
            unfit=unfit,
        )

    def _find_packages(
        self, session: Session, messages: Sequence[DeviceLabels]
    ) -> Mapping[str, _Package]:
        wanted = {row.artifact.hex() for _, message in messages for row in message.rows}
        digits = func.substr(col(ArtifactRow.sha256), 1, ARTIFACT_DIGITS)
        columns = col(ArtifactRow.model), col(ArtifactRow.version), col(ArtifactRow.sha256)
        query = select(digits, *columns).where(digits.in_(sorted(wanted)))
        return {name: _Package(*found) for name, *found in session.execute(query)}

    def _move_mark(self, session: Session, device: int, boot: int, last: int, at: datetime) -> int:
        """Return the highest number counted before, and note the new one."""
        name = f"{boot:016x}"
        mark = session.get(LabelMarkRow, (device, name))
        if mark is None:
            self._trim_marks(session, device)
            session.add(LabelMarkRow(device=device, boot=name, highest=last, seen_at=at))
            session.flush()
            return 0
        before = mark.highest
        mark.highest, mark.seen_at = max(before, last), at
        return before

    def _trim_marks(self, session: Session, device: int) -> None:
        boots = session.scalars(
            select(col(LabelMarkRow.boot))
            .where(col(LabelMarkRow.device) == device)
            .order_by(col(LabelMarkRow.seen_at).desc())
            .offset(MARKS_MAX - 1)
        )
        for boot in list(boots):
            session.execute(
                delete(LabelMarkRow).where(
                    col(LabelMarkRow.device) == device, col(LabelMarkRow.boot) == boot
                )
            )

    def _hour_of(self, row: LabelRow, now: datetime) -> datetime | None:
        oldest, newest = now - self._retention, now + AHEAD_MAX
        if not oldest.timestamp() <= row.at_ms / 1e3 <= newest.timestamp():
            return None
        at = datetime.fromtimestamp(row.at_ms // 1_000, UTC)
        return at.replace(minute=0, second=0, microsecond=0)


def _is_fit(row: LabelRow, parts: Mapping[str, AnswerPart]) -> bool:
    """Tell whether a package answers so; of one that is gone only a single answer can be told."""
    if not parts:
        return not row.name
    part = parts.get(row.name)
    if part is None or part.is_class != row.is_class:
        return False
    return not row.is_class or max(row.predicted, row.label) < len(part.classes)


def _count(sums: dict[_Place, _Sums], place: tuple[str, int, int, datetime], row: LabelRow) -> None:
    if row.is_class:
        sums[*place, int(row.predicted), int(row.label), row.name].rows += 1
        return
    error = row.predicted - row.label
    found = sums[*place, VALUE, VALUE, row.name]
    found.rows += 1
    found.error += error
    found.absolute += abs(error)
    found.squared += error * error


def _store(session: Session, place: _Place, sums: _Sums) -> None:
    stored = session.get(LabelCountRow, place)
    if stored is None:
        model, version, device, hour_at, predicted, label, part = place
        stored = LabelCountRow(
            model=model,
            version=version,
            device=device,
            hour_at=hour_at,
            predicted=predicted,
            label=label,
            part=part,
        )
        session.add(stored)
    stored.rows += sums.rows
    stored.error_sum += sums.error
    stored.absolute_sum += sums.absolute
    stored.squared_sum += sums.squared


def _add_up(cells: Sequence[_Cell]) -> list[LabelledPart]:
    by_part: dict[str, list[_Cell]] = defaultdict(list)
    for cell in sorted(cells):
        by_part[cell.part].append(cell)
    return [
        LabelledPart(
            name=name,
            cells=[ClassCell(*cell[1:4]) for cell in own if cell.predicted != VALUE],
            rows=sum(cell.rows for cell in own),
            absolute_sum=sum(cell.absolute for cell in own),
            squared_sum=sum(cell.squared for cell in own),
            error_sum=sum(cell.error for cell in own),
        )
        for name, own in by_part.items()
    ]
