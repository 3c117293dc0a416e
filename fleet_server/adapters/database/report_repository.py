"""Devices and slots as their reports have them, and the directory of who may speak.

Everything goes through Core statements in batches; the ORM would cost ten times as much.
Invariant: a slot's ``changed_at`` moves only when something it says changed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, and_, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from edge_agent.contract.messages import SlotReport
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.identity_notes import IdentityNotes
from fleet_server.adapters.database.shadow_rows import write_shadows
from fleet_server.adapters.database.tables import DeviceRow, SlotRow
from fleet_server.core.clone_watch import BootMemory
from fleet_server.errors import UnreachableError
from fleet_server.ports.gateway import DeviceChange, DeviceState

_IN_MAX = 500
_SLOT_FIELDS = (
    "state",
    "running_target",
    "running_sha256",
    "confirmed_target",
    "confirmed_sha256",
    "desired_target",
    "code",
    "detail",
    "rollout",
)
_SlotKey = tuple[int, str]


class SqlReportRepository:
    """The ``ReportRepository`` over the control database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._notes = IdentityNotes()

    def load_states(self, devices: Collection[int]) -> dict[int, DeviceState]:
        """Return what is stored of these devices."""
        states: dict[int, DeviceState] = {}
        with _translated(), read_session(self._engine) as session:
            for some in _slices(devices):
                found = session.connection().execute(
                    select(
                        col(DeviceRow.number),
                        col(DeviceRow.boot),
                        col(DeviceRow.report_sequence),
                        col(DeviceRow.is_online),
                        col(DeviceRow.boots),
                    ).where(col(DeviceRow.number).in_(some))
                )
                states |= {
                    number: DeviceState(
                        boot=boot,
                        sequence=sequence,
                        is_online=is_online,
                        boots=BootMemory.decode(boots),
                    )
                    for number, boot, sequence, is_online, boots in found
                    if number is not None
                }
        return states

    def save_changes(self, changes: Sequence[DeviceChange], *, at: datetime) -> None:
        """Store changes in one transaction."""
        with _translated(), write_session(self._engine) as session:
            self._notes.write(session, changes, at=at)  # compares with the reports of before
            for is_report in (False, True):
                some = [c for c in changes if (c.report is not None) is is_report]
                if some:
                    _update_devices(session, some, at)
            reports = {c.device: c.report.slots for c in changes if c.report is not None}
            _replace_slots(session, reports, at)
            write_shadows(session, reports, at)

    def save_last_seen(self, devices: Collection[int], *, at: datetime) -> None:
        """Note that these devices were heard."""
        if not devices:
            return
        with _translated(), write_session(self._engine) as session:
            statement = (
                update(DeviceRow)
                .where(col(DeviceRow.number) == bindparam("device"))
                .values(last_seen_at=bindparam("at"))
            )
            session.connection().execute(statement, [{"device": d, "at": at} for d in devices])

    def mark_silent_offline(self, *, unseen_since: datetime) -> int:
        """Set devices offline that count as online but were not heard since."""
        with _translated(), write_session(self._engine) as session:
            result = session.connection().execute(
                update(DeviceRow)
                .where(col(DeviceRow.is_online), col(DeviceRow.last_seen_at) < unseen_since)
                .values(is_online=False)
            )
            return result.rowcount


class SqlDeviceDirectory:
    """Numbers of enrolled devices, remembered until ``refresh``; a revoked one has none.

    An unknown id is looked up at once: a device that joined a moment ago is not turned away.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers: dict[str, int] = {}

    def find(self, device_id: str) -> int | None:
        """Return the number of an enrolled device, None when unknown or revoked."""
        number = self._numbers.get(device_id)
        if number is not None:
            return number
        with _translated(), read_session(self._engine) as session:
            found = session.connection().execute(
                select(col(DeviceRow.number)).where(
                    col(DeviceRow.id) == device_id, col(DeviceRow.revoked_at).is_(None)
                )
            )
            number = found.scalar_one_or_none()
        if number is not None:
            self._numbers[device_id] = number
        return number

    def refresh(self) -> None:
        """Forget devices that were revoked or deleted; read every few seconds."""
        with _translated(), read_session(self._engine) as session:
            found = session.connection().execute(
                select(col(DeviceRow.id), col(DeviceRow.number)).where(
                    col(DeviceRow.revoked_at).is_(None)
                )
            )
            self._numbers = {name: number for name, number in found if number is not None}


def _update_devices(session: Session, changes: Sequence[DeviceChange], at: datetime) -> None:
    values: dict[str, Any] = {
        "boot": bindparam("new_boot"),
        "report_sequence": bindparam("new_sequence"),
        "is_online": bindparam("new_online"),
        "boots": bindparam("new_boots"),
        "last_seen_at": bindparam("at"),
    }
    if changes[0].report is not None:
        values |= {"reported": bindparam("new_reported"), "reported_at": bindparam("at")}
    statement = update(DeviceRow).where(col(DeviceRow.number) == bindparam("device")).values(values)
    session.connection().execute(
        statement,
        [
            {
                "device": change.device,
                "new_boot": change.state.boot,
                "new_sequence": change.state.sequence,
                "new_online": change.state.is_online,
                "new_boots": _boots_text(change.state.boots),
                "at": at,
                **({"new_reported": change.report.text} if change.report else {}),
            }
            for change in changes
        ],
    )


def _boots_text(boots: BootMemory) -> str:
    return boots.encode() if boots != BootMemory() else ""


def _replace_slots(
    session: Session, reports: Mapping[int, Mapping[str, SlotReport]], at: datetime
) -> None:
    stored: dict[_SlotKey, tuple[Any, ...]] = {}
    columns = [col(getattr(SlotRow, name)) for name in _SLOT_FIELDS]
    for some in _slices(reports):
        found = session.connection().execute(
            select(col(SlotRow.device), col(SlotRow.slot), *columns).where(
                col(SlotRow.device).in_(some)
            )
        )
        stored |= {(row[0], row[1]): tuple(row[2:]) for row in found}
    said = {
        (device, name): _slot_values(slot)
        for device, slots in reports.items()
        for name, slot in slots.items()
    }
    changed = [
        {
            "device": device,
            "slot": name,
            "changed_at": at,
            **dict(zip(_SLOT_FIELDS, values, strict=True)),
        }
        for (device, name), values in said.items()
        if stored.get((device, name)) != values
    ]
    if changed:
        statement = insert(SlotRow)
        updated = {name: statement.excluded[name] for name in (*_SLOT_FIELDS, "changed_at")}
        session.connection().execute(
            statement.on_conflict_do_update(index_elements=["device", "slot"], set_=updated),
            changed,
        )
    gone = [{"d": device, "s": name} for device, name in stored.keys() - said.keys()]
    if gone:
        session.connection().execute(
            delete(SlotRow).where(
                and_(col(SlotRow.device) == bindparam("d"), col(SlotRow.slot) == bindparam("s"))
            ),
            gone,
        )


def _slot_values(slot: SlotReport) -> tuple[Any, ...]:
    """Order as ``_SLOT_FIELDS``."""
    running, confirmed, desired = slot.running, slot.confirmed, slot.desired
    return (
        str(slot.state),
        running.target if running else "",
        running.sha256 if running else "",
        confirmed.target if confirmed else "",
        confirmed.sha256 if confirmed else "",
        desired.target if desired else "",
        slot.code or "",
        slot.detail,
        slot.rollout,
    )


def _slices(numbers: Collection[int]) -> Iterator[list[int]]:
    """Cut a collection to what one statement may name."""
    ordered = sorted(numbers)
    for start in range(0, len(ordered), _IN_MAX):
        yield ordered[start : start + _IN_MAX]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise UnreachableError(f"control database: {error}") from error
