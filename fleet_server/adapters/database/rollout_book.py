"""One transaction over the control database, as rollouts and groups see it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, select

from fleet_server.adapters.database.assignment_repository import AssignmentRepository
from fleet_server.adapters.database.device_repository import DeviceRepository
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.group_repository import GroupRepository
from fleet_server.adapters.database.lease import check_fence
from fleet_server.adapters.database.ledger import AuditTrail
from fleet_server.adapters.database.rollout_repository import RolloutRepository
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    DeviceRow,
    DriftAlarmRow,
    ModelRow,
    RolloutDeviceRow,
    VersionRow,
)
from fleet_server.core.drift_alarm import AlarmState
from fleet_server.core.drift_policy import FLEET_SUBJECT, Level
from fleet_server.core.label_query import LabelQuery, device_facts
from fleet_server.core.rollout_outcome import EXPOSED, Outcome
from fleet_server.core.rollout_state import Rollout
from fleet_server.core.targeting import Candidate, Package
from fleet_server.errors import UnreachableError
from fleet_server.ports.rollouts import Book, Fence

ALARMS_MAX = 20
MEMBERS_PER_QUERY = 500


class RolloutBook:
    """The ``Book`` over one session."""

    def __init__(self, session: Session) -> None:
        self.rollouts = RolloutRepository(session)
        self.fleet = FleetRepository(session)
        self.groups = GroupRepository(session)
        self.devices = DeviceRepository(session)
        self.assignments = AssignmentRepository(session)
        self.audit = AuditTrail(session)


class RolloutBooks:
    """The ``Books`` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def reading(self) -> Iterator[Book]:
        """Open one that sees one state and writes nothing."""
        with _translated(), read_session(self._engine) as session:
            yield RolloutBook(session)

    @contextmanager
    def writing(self, fence: Fence | None = None) -> Iterator[Book]:
        """Open one that commits at its end; checks the fence under the write lock."""
        with _translated(), write_session(self._engine) as session:
            if fence is not None:
                check_fence(session, fence)
            yield RolloutBook(session)


@contextmanager
def _translated() -> Iterator[None]:
    """Say that the database is away or busy in the product's own error."""
    try:
        yield
    except OperationalError as error:
        raise UnreachableError(f"control database: {error.orig}") from error


class FleetRepository:
    """The ``FleetView`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list_candidates(self) -> list[Candidate]:
        """Return every device by id."""
        rows = self._session.exec(select(DeviceRow).order_by(col(DeviceRow.id)))
        return [_candidate(row) for row in rows]

    def list_outsiders(self, rollout_id: int, query: LabelQuery) -> list[Candidate]:
        """Return enrolled devices that a query means and that have no part in a rollout."""
        members = select(RolloutDeviceRow.device).where(col(RolloutDeviceRow.rollout) == rollout_id)
        row = DeviceRow
        columns = (col(row.number), col(row.id), col(row.profile), col(row.labels))
        found = self._session.execute(
            sa.select(*columns).where(
                col(DeviceRow.number).not_in(members),
                col(DeviceRow.enrolled_at).is_not(None),
                col(DeviceRow.revoked_at).is_(None),
            )
        )
        meant = [
            number
            for number, name, profile, labels in found
            if query.is_match(device_facts(name, profile, json.loads(labels)))
        ]
        rows = [self._session.get_one(DeviceRow, number) for number in meant]
        return [_candidate(row) for row in rows]

    def find_version_state(self, model: str, version: int) -> str | None:
        """Return a version's state; None when there is no such version."""
        query = select(VersionRow.state).where(
            col(VersionRow.model) == model, col(VersionRow.number) == version
        )
        return self._session.exec(query).first()

    def find_task(self, model: str) -> str | None:
        """Return what a model does; None when there is no such model."""
        return self._session.exec(select(ModelRow.task).where(col(ModelRow.name) == model)).first()

    def list_packages(self, model: str, version: int) -> dict[str, Package]:
        """Return a version's packages by profile."""
        query = select(ArtifactRow.profile, ArtifactRow.target, ArtifactRow.sha256).where(
            col(ArtifactRow.model) == model, col(ArtifactRow.version) == version
        )
        return {
            profile: Package(profile=profile, target=target, sha256=sha256)
            for profile, target, sha256 in self._session.exec(query)
        }

    def list_member_packages(
        self, members: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], dict[str, Package]]:
        """Return the packages of these versions, by model and version, then by profile."""
        row = ArtifactRow
        found: dict[tuple[str, int], dict[str, Package]] = {}
        columns = (col(row.model), col(row.version), col(row.profile))
        for part in _parts(members):
            query = sa.select(*columns, col(row.target), col(row.sha256)).where(
                col(row.model).in_([model for model, _ in part])
            )
            for model, version, profile, target, sha256 in self._session.execute(query):
                if (model, version) in part:
                    package = Package(profile=profile, target=target, sha256=sha256)
                    found.setdefault((model, version), {})[profile] = package
        return found

    def count_in_state(self, members: Sequence[tuple[str, int]], state: str) -> int:
        """Count those of these versions that are in a state."""
        count = 0
        for part in _parts(members):
            query = select(VersionRow.model, VersionRow.number).where(
                col(VersionRow.model).in_([model for model, _ in part]), VersionRow.state == state
            )
            count += sum((model, number) in part for model, number in self._session.exec(query))
        return count

    def list_alarms(self, rollout: Rollout) -> list[str]:
        """Name open, unacknowledged drift alarms that arose among its devices since its start."""
        if rollout.started_at is None or not rollout.policy.is_held_by_alarms:
            return []
        member = RolloutDeviceRow
        is_device = (
            sa.select(col(member.device))
            .join(DeviceRow, col(DeviceRow.number) == col(member.device))
            .where(
                col(member.rollout) == rollout.id,
                col(member.outcome) == str(Outcome.CONFIRMED),
                col(member.changed_at) <= col(DriftAlarmRow.opened_at),
                col(DeviceRow.id) == col(DriftAlarmRow.subject),
            )
            .exists()
        )
        groups = [rollout.group, *self._profile_groups(rollout)]
        family = rollout.policy.family
        models = [m.model for m in family.all_members] if family else [rollout.model]
        query = (
            select(DriftAlarmRow)
            .where(
                col(DriftAlarmRow.model).in_(models),
                col(DriftAlarmRow.state).in_([str(AlarmState.OPEN), str(AlarmState.CLOSING)]),
                col(DriftAlarmRow.opened_at) >= rollout.started_at,
                col(DriftAlarmRow.acknowledged_at).is_(None),
                ((col(DriftAlarmRow.level) == str(Level.DEVICE)) & is_device)
                | (
                    (col(DriftAlarmRow.level) == str(Level.GROUP))
                    & col(DriftAlarmRow.subject).in_(groups)
                )
                | (
                    (col(DriftAlarmRow.level) == str(Level.FLEET))
                    & (col(DriftAlarmRow.subject) == FLEET_SUBJECT)
                ),
            )
            .order_by(col(DriftAlarmRow.id))
            .limit(ALARMS_MAX)
        )
        return [f"{row.level} {row.subject} (alarm {row.id})" for row in self._session.exec(query)]

    def find_champion(self, model: str) -> int:
        """Return the version in service, 0 when none."""
        query = select(ModelRow.champion).where(col(ModelRow.name) == model)
        return self._session.exec(query).first() or 0

    def move_champion(self, model: str, version: int) -> None:
        """Put a version in service; 0 for none."""
        self._session.execute(
            update(ModelRow).where(col(ModelRow.name) == model).values(champion=version)
        )

    def _profile_groups(self, rollout: Rollout) -> list[str]:
        """Name the groups that drift judges for every profile, where this rollout has devices."""
        query = (
            select(DeviceRow.profile)
            .join(RolloutDeviceRow, col(RolloutDeviceRow.device) == col(DeviceRow.number))
            .where(
                col(RolloutDeviceRow.rollout) == rollout.id,
                col(RolloutDeviceRow.outcome).in_([str(outcome) for outcome in EXPOSED]),
            )
            .distinct()
        )
        return [f"profile={profile}" for profile in self._session.exec(query)]


def _parts(members: Sequence[tuple[str, int]]) -> Iterator[set[tuple[str, int]]]:
    """Give versions in parts that a query takes."""
    for start in range(0, len(members), MEMBERS_PER_QUERY):
        yield set(members[start : start + MEMBERS_PER_QUERY])


def _candidate(row: DeviceRow) -> Candidate:
    assert row.number is not None  # noqa: S101 - the primary key of a stored row
    return Candidate(
        number=row.number,
        id=row.id,
        profile=row.profile,
        labels=json.loads(row.labels),
        is_enrolled=row.enrolled_at is not None,
        is_revoked=row.revoked_at is not None,
        is_online=row.is_online,
        capabilities=_capabilities(row.reported),
    )


def _capabilities(reported: str) -> dict[str, object] | None:
    """Read what a device said it is; None when it said nothing readable."""
    try:
        said = json.loads(reported) if reported else None
    except ValueError:
        return None
    found = said.get("capabilities") if isinstance(said, dict) else None
    return found if isinstance(found, dict) and found else None
