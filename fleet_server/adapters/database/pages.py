"""Pages of what there is, for programs that list it: the next page begins behind the last key.

Each page is one indexed query, whatever the size of the fleet: nothing is loaded to be thrown
away, and no page holds the write lock.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, not_, true
from sqlmodel import Session, col, func, select

from fleet_server.adapters.database.device_repository import DeviceRepository
from fleet_server.adapters.database.drift_repository import DatabaseDriftStore
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.group_repository import GroupRepository
from fleet_server.adapters.database.model_repository import DatabaseModelRegistry
from fleet_server.adapters.database.rollout_repository import RolloutRepository
from fleet_server.adapters.database.tables import (
    DeviceRow,
    DriftAlarmRow,
    GroupRow,
    ModelRow,
    RolloutRow,
    VersionRow,
)
from fleet_server.core.drift_alarm import AlarmState
from fleet_server.core.rollout_state import Rollout
from fleet_server.ports.drift import StoredAlarm
from fleet_server.ports.registry import Model
from fleet_server.ports.rollouts import Group
from fleet_server.services.list_devices import DeviceView, view_device


class FleetPages:
    """Reads pages of one fleet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def devices(
        self, *, after: str, limit: int, profile: str = "", state: str = ""
    ) -> tuple[list[DeviceView], int]:
        """Return devices by id, those behind ``after``, and how many there are in all.

        Args:
            after: Id of the last device of the page before, or empty.
            limit: Most devices returned.
            profile: Only devices of it, unless empty.
            state: One of ``list_devices.STATES``, or empty for all.
        """
        wanted = and_(
            col(DeviceRow.profile) == profile if profile else true(),
            _is_state(state) if state else true(),
        )
        with read_session(self._engine) as session:
            ids = session.exec(
                select(DeviceRow.id)
                .where(wanted, col(DeviceRow.id) > after)
                .order_by(col(DeviceRow.id))
                .limit(limit)
            ).all()
            total = session.exec(select(func.count()).select_from(DeviceRow).where(wanted)).one()
            store = DeviceRepository(session)
            records = store.find_many(ids)
            slots = store.slots([record.number for record in records.values()])
        found = (records[device_id] for device_id in ids)
        return [view_device(record, slots.get(record.number, [])) for record in found], total

    def models(self, *, after: str, limit: int) -> list[Model]:
        """Return models by name, those behind ``after``."""
        names = self._keys(
            select(ModelRow.name)
            .where(col(ModelRow.name) > after)
            .order_by(col(ModelRow.name))
            .limit(limit)
        )
        registry = DatabaseModelRegistry(self._engine)
        return [model for name in names if (model := registry.find_model(name)) is not None]

    def versions(self, model: str, *, before: int, limit: int) -> list[tuple[int, str]]:
        """Return numbers and states of a model's versions, the newest below ``before`` first."""
        query = (
            select(VersionRow.number, VersionRow.state)
            .where(VersionRow.model == model, col(VersionRow.number) < before)
            .order_by(col(VersionRow.number).desc())
            .limit(limit)
        )
        with read_session(self._engine) as session:
            return [(number, state) for number, state in session.exec(query)]

    def groups(self, *, after: str, limit: int) -> list[Group]:
        """Return groups by name, those behind ``after``; without ``all``, which is no row."""
        query = (
            select(GroupRow.name)
            .where(col(GroupRow.name) > after)
            .order_by(col(GroupRow.name))
            .limit(limit)
        )
        with read_session(self._engine) as session:
            store = GroupRepository(session)
            found = [store.find(name) for name in session.exec(query).all()]
        return [group for group in found if group is not None]

    def rollouts(self, *, before: int, limit: int) -> list[Rollout]:
        """Return rollouts, the newest below number ``before`` first."""
        query = (
            select(RolloutRow.id)
            .where(col(RolloutRow.id) < before)
            .order_by(col(RolloutRow.id).desc())
            .limit(limit)
        )
        with read_session(self._engine) as session:
            store = RolloutRepository(session)
            found = [store.find(number or 0) for number in session.exec(query).all()]
        return [rollout for rollout in found if rollout is not None]

    def alarms(
        self, *, before: int, limit: int, model: str = "", is_closed_shown: bool = False
    ) -> list[StoredAlarm]:
        """Return drift alarms, the newest below number ``before`` first.

        Pending ones are no alarms yet and are left out.
        """
        hidden = [str(AlarmState.PENDING)]
        if not is_closed_shown:
            hidden.append(str(AlarmState.CLOSED))
        query = (
            select(DriftAlarmRow.id)
            .where(
                col(DriftAlarmRow.id) < before,
                col(DriftAlarmRow.state).not_in(hidden),
                col(DriftAlarmRow.model) == model if model else true(),
            )
            .order_by(col(DriftAlarmRow.id).desc())
            .limit(limit)
        )
        store = DatabaseDriftStore(self._engine)
        found = [store.find_alarm(number) for number in self._keys(query)]
        return [alarm for alarm in found if alarm is not None]

    def _keys(self, query: Any) -> Sequence[Any]:
        with read_session(self._engine) as session:
            return _all(session, query)


def _all(session: Session, query: Any) -> Sequence[Any]:
    return list(session.exec(query).all())


def _is_state(state: str) -> ColumnElement[bool]:
    """Say in SQL what ``list_devices.state_of`` says of one device."""
    revoked = col(DeviceRow.revoked_at).is_not(None)
    joined = and_(not_(revoked), col(DeviceRow.enrolled_at).is_not(None))
    online = col(DeviceRow.is_online)
    seen = col(DeviceRow.last_seen_at).is_not(None)
    return {
        "revoked": revoked,
        "not joined": and_(not_(revoked), col(DeviceRow.enrolled_at).is_(None)),
        "online": and_(joined, online),
        "offline": and_(joined, not_(online), seen),
        "never seen": and_(joined, not_(online), not_(seen)),
    }[state]
