"""A fleet in a real control database: rows as the gateway and the signer would write them."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import col

from device_profiles.catalog import load_profile
from device_profiles.compatibility import Misfit
from device_profiles.profile import DeviceProfile
from edge_agent.contract.assignment import target_path
from edge_agent.contract.messages import SlotReport, SlotState
from edge_agent.contract.package import TargetCustom
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.lease import DatabaseLease
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.model_repository import DatabaseModelRegistry
from fleet_server.adapters.database.rollout_book import RolloutBooks
from fleet_server.adapters.database.shadow_rows import write_shadows
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    AssignmentRow,
    AuditRow,
    DesiredRow,
    DeviceRow,
    ModelRow,
    SlotRow,
    VersionRow,
)
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_outcome import SlotFacts
from fleet_server.core.rollout_state import Desired
from fleet_server.ports.devices import DeviceRecord
from fleet_server.ports.trust import SignedTarget
from fleet_server.services.assign_devices import Assigner
from fleet_server.services.browse_family import BrowseFamily
from fleet_server.services.define_group import GroupDesk
from fleet_server.services.plan_rollout import PlanRequest, RolloutPlanner
from fleet_server.services.read_rollouts import RolloutReader
from fleet_server.services.run_rollouts import RolloutRunner
from fleet_server.services.steer_rollout import RolloutDesk
from tests.support.clock import FakeClock
from tests.support.rollouts import NEW, NEW_SHA, OLD, OLD_SHA, FakeDevice

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
PERIOD_S = 10.0
SHA_OF = {OLD: OLD_SHA, NEW: NEW_SHA}


@dataclass
class FakeSignedPackages:
    """Approvals without keys; what is not asked of them here is not there."""

    targets: dict[str, SignedTarget] = field(default_factory=dict)

    def approved(self) -> Mapping[str, SignedTarget]:
        return self.targets

    def current_targets(self) -> Mapping[str, bytes]:
        raise NotImplementedError

    def store_targets(self, files: Mapping[str, bytes]) -> int:
        raise NotImplementedError

    def refresh_online(self) -> bool:
        raise NotImplementedError

    def bundle(self) -> dict[str, bytes]:
        raise NotImplementedError


@dataclass
class FakeFitness:
    """Finds unfit the devices it was told to."""

    unfit: set[str] = field(default_factory=set)

    def find_misfits(self, target: SignedTarget, device: DeviceRecord) -> list[Misfit]:
        del target
        if device.id in self.unfit:
            return [Misfit(field="opset_max", need="21", have="at most 17")]
        return []


class OneProfile:
    """Knows the camera."""

    def load_all(self) -> Mapping[str, DeviceProfile]:
        return {"camera": load_profile("camera")}


def make_target(model: str, version: int, profile: str, sha256: str) -> SignedTarget:
    path = target_path(model, version, profile)
    custom = TargetCustom(
        model=model,
        version=version,
        profile=profile,
        slot="",
        schema="0" * 64,
        chunks="0" * 64,
    )
    return SignedTarget(path=path, sha256=sha256, size_bytes=10, custom=custom)


class DatabaseFleet:
    """Cameras that run ``m`` 1, and ``m`` 2 approved."""

    def __init__(self, path: Path, devices: Iterable[FakeDevice] = ()) -> None:
        self.path = path
        is_new = not path.exists()
        if is_new:
            path.write_bytes(_empty_database())
        self.engine = open_engine(path)
        self.clock = FakeClock(START)
        self.books = RolloutBooks(self.engine)
        self.signed = FakeSignedPackages()
        self.fitness = FakeFitness()
        self.profiles = OneProfile()
        for version, sha256 in ((1, OLD_SHA), (2, NEW_SHA)):
            target = make_target("m", version, "camera", sha256)
            self.signed.targets[target.path] = target
        self.devices: dict[int, FakeDevice] = {}
        if is_new:
            self._add_model()
        for device in devices:
            self.add(device)

    # What the services are made of -----------------------------------------------------------

    def make_assigner(self) -> Assigner:
        return Assigner(self.signed, self.fitness, self.clock)

    @property
    def runner(self) -> RolloutRunner:
        return RolloutRunner(
            books=self.books,
            make_assigner=self.make_assigner,
            profiles=self.profiles,
            clock=self.clock,
        )

    @property
    def planner(self) -> RolloutPlanner:
        return RolloutPlanner(
            books=self.books,
            make_assigner=self.make_assigner,
            profiles=self.profiles,
            clock=self.clock,
            actor="ann",
            families=BrowseFamily(registry=DatabaseModelRegistry(self.engine)),
        )

    @property
    def desk(self) -> RolloutDesk:
        return RolloutDesk(books=self.books, clock=self.clock, actor="ann")

    @property
    def groups(self) -> GroupDesk:
        return GroupDesk(books=self.books, clock=self.clock, actor="ann")

    @property
    def reader(self) -> RolloutReader:
        return RolloutReader(books=self.books, profiles=self.profiles, clock=self.clock)

    def lease(self, owner: str, lasts_s: float = 6.0) -> DatabaseLease:
        return DatabaseLease(
            self.engine, self.clock, name="controller", owner=owner, lasts_s=lasts_s
        )

    # The world -------------------------------------------------------------------------------

    def add(self, device: FakeDevice, **columns: Any) -> None:
        """Add a device, enrolled unless told otherwise."""
        self.devices[device.number] = device
        with write_session(self.engine) as session:
            session.add(
                DeviceRow(
                    **{
                        "number": device.number,
                        "id": name_of(device.number),
                        "profile": "camera",
                        "created_at": START,
                        "enrolled_at": START,
                        "is_online": device.is_online,
                        **columns,
                    }
                )
            )
            session.flush()
            if device.has_old:
                session.add(
                    DesiredRow(device=device.number, slot="m", target=OLD, changed_at=START)
                )
                session.add(AssignmentRow(device=device.number))
            if device.slot.state:
                row = _slot_columns(device.number, device.slot)
                session.connection().execute(_UPSERT_SLOT, [row])

    def start(self, stages: str = "100%", *, group: str = "all", **policy: Any) -> int:
        """Plan and start a rollout of ``m`` 2."""
        plan = self.planner.plan(
            PlanRequest(
                model="m", version=2, group=group, stages=stages, policy=RolloutPolicy(**policy)
            )
        )
        number = self.planner.store(plan)
        self.desk.start(number)
        return number

    def act(self) -> None:
        """Let time pass, sign what changed, and let devices hear and report."""
        self.clock.advance(PERIOD_S)
        now = self.clock.now()
        self.sign()
        with write_session(self.engine) as session:
            desired = {row.device: row for row in session.scalars(sa.select(DesiredRow))}
            counters = dict(
                session.execute(
                    sa.select(col(AssignmentRow.device), col(AssignmentRow.counter))
                ).all()
            )
            said, slots = [], []
            shadows: dict[int, dict[str, SlotReport]] = {}
            for number, device in self.devices.items():
                before, row = device.slot, desired.get(number)
                device.tick(_desired(row) if row else None, now)
                if device.slot != before:
                    slots.append(_slot_columns(number, device.slot))
                if device.shadow is not None:
                    shadows[number] = {"m": _shadow_report(device)}
                is_heard = device.is_online and not device.is_dead_after_offer
                said.append(
                    {
                        "b_number": number,
                        "b_online": device.is_online,
                        "b_at": now if is_heard else None,
                        "b_reported": json.dumps({"assignment_counter": counters.get(number, 0)}),
                    }
                )
            session.connection().execute(_HEAR, said)
            if slots:
                session.connection().execute(_UPSERT_SLOT, slots)
            write_shadows(session, shadows, now)

    def sign(self) -> None:
        """Sign what changed."""
        with write_session(self.engine) as session:
            session.execute(
                sa.update(AssignmentRow)
                .where(col(AssignmentRow.is_stale))
                .values(is_stale=False, counter=AssignmentRow.counter + 1)
            )

    def tick(self) -> None:
        """Let devices act, then look once, a little later."""
        self.act()
        self.clock.advance(0.5)
        self.runner.run_once()

    def run(self, rollout_id: int, ticks: int) -> None:
        """Tick until the rollout is over, at most so often."""
        for _ in range(ticks):
            self.tick()
            if self.reader.show(rollout_id).rollout.finished_at is not None:
                return

    # What is stored --------------------------------------------------------------------------

    def outcomes(self, rollout_id: int) -> dict[str, int]:
        view = self.reader.show(rollout_id)
        found: dict[str, int] = {}
        for stage in view.stages:
            for outcome, count in stage.outcomes.items():
                found[str(outcome)] = found.get(str(outcome), 0) + count
        return found

    def desired(self) -> dict[int, tuple[str, int]]:
        with read_session(self.engine) as session:
            rows = session.scalars(sa.select(DesiredRow))
            return {row.device: (row.target, row.rollout) for row in rows}

    def champion(self) -> int:
        with read_session(self.engine) as session:
            return session.get_one(ModelRow, "m").champion

    def acts(self) -> list[str]:
        with read_session(self.engine) as session:
            return list(session.scalars(sa.select(col(AuditRow.act)).order_by(col(AuditRow.id))))

    def set_device(self, number: int, **columns: Any) -> None:
        with write_session(self.engine) as session:
            session.execute(
                sa.update(DeviceRow).where(col(DeviceRow.number) == number).values(columns)
            )

    def set_version(self, state: str, version: int = 2) -> None:
        with write_session(self.engine) as session:
            session.get_one(VersionRow, ("m", version)).state = state

    def _add_model(self) -> None:
        with write_session(self.engine) as session:
            session.add(ModelRow(name="m", task="classification", created_at=START, champion=1))
            session.flush()
            for version in (1, 2):
                session.add(
                    VersionRow(model="m", number=version, state="approved", created_at=START)
                )
                target = target_path("m", version, "camera")
                session.add(
                    ArtifactRow(
                        model="m",
                        version=version,
                        profile="camera",
                        target=target,
                        sha256=SHA_OF[target],
                        size_bytes=10,
                        precision="fp32",
                        schema_sha256="0" * 64,
                        chunks_sha256="0" * 64,
                        reference_hash="0" * 16,
                        latency_ms_p95=1.0,
                        label_flips=0.0,
                        max_abs_error=0.0,
                        created_at=START,
                    )
                )


@cache
def _empty_database() -> bytes:
    """Migrate once a process: every test starts from a copy."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "control.db"
        migrate(path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return path.read_bytes()


def name_of(number: int) -> str:
    return f"cam-{number:04d}"


def _desired(row: DesiredRow) -> Desired:
    return Desired(
        target=row.target, rollout=row.rollout, retry=row.retry, is_shadowed=bool(row.shadow)
    )


def _shadow_report(device: FakeDevice) -> SlotReport:
    rollout = device.assigned.rollout if device.assigned else 0
    return SlotReport(state=SlotState.SHADOWING, rollout=rollout, shadow=device.shadow)


def _slot_columns(number: int, slot: SlotFacts) -> dict[str, Any]:
    return {
        "device": number,
        "slot": "m",
        "state": slot.state,
        "running_target": slot.running_target,
        "running_sha256": slot.running_sha256,
        "confirmed_target": slot.confirmed_target,
        "confirmed_sha256": slot.confirmed_sha256,
        "code": slot.code,
        "detail": slot.detail,
        "rollout": slot.rollout,
        "changed_at": slot.changed_at or START,
    }


_HEARD = sa.bindparam("b_at", type_=DeviceRow.__table__.c.last_seen_at.type)  # type: ignore[attr-defined]
_HEAR = (
    sa.update(DeviceRow)
    .where(col(DeviceRow.number) == sa.bindparam("b_number"))
    .values(
        is_online=sa.bindparam("b_online"),
        last_seen_at=sa.func.coalesce(_HEARD, DeviceRow.last_seen_at),
        reported_at=sa.func.coalesce(_HEARD, DeviceRow.reported_at),
        reported=sa.case(
            (_HEARD.is_(None), col(DeviceRow.reported)), else_=sa.bindparam("b_reported")
        ),
    )
)
_INSERT_SLOT = insert(SlotRow)
_UPSERT_SLOT = _INSERT_SLOT.on_conflict_do_update(
    index_elements=["device", "slot"],
    set_={
        name: _INSERT_SLOT.excluded[name]
        for name in _slot_columns(0, SlotFacts())
        if name not in ("device", "slot")
    },
)
