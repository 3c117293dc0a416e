"""Rollouts over a real control database: the stories, the refusals, the records."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col

from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import (
    AuditRow,
    DesiredRow,
    DeviceRow,
    DriftAlarmRow,
    RolloutDeviceRow,
)
from fleet_server.core.rollout_limits import GatePolicy, OnHalt, RolloutPolicy
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.targeting import Unfit
from fleet_server.errors import FleetError, MisuseError, NotFoundError, RefusedError
from fleet_server.services.plan_rollout import PlanRequest
from fleet_server.services.run_rollouts import RolloutMovedError
from tests.support.rollout_database import START, DatabaseFleet, name_of
from tests.support.rollouts import NEW, OLD, FakeDevice, fleet

REASON = "because the test says so"
REQUEST = PlanRequest(model="m", version=2, group="all", stages="100%", policy=RolloutPolicy())


@pytest.fixture
def world(tmp_path: Path) -> DatabaseFleet:
    return DatabaseFleet(tmp_path / "control.db", fleet(12))


def state_of(world: DatabaseFleet, number: int) -> RolloutState:
    return world.reader.show(number).rollout.state


def test_a_good_release_completes_and_everything_is_on_record(world: DatabaseFleet) -> None:
    number = world.start("25%,100%", in_flight_max=50)
    world.run(number, 60)
    assert state_of(world, number) is RolloutState.COMPLETED
    assert world.outcomes(number) == {"confirmed": 12}
    assert set(world.desired().values()) == {(NEW, number)}
    assert world.champion() == 2
    assert world.acts() == [
        "rollout.plan",
        "rollout.start",
        "rollout.stage_passed",
        "rollout.last_stage_passed",
        "model.champion",
    ]
    with read_session(world.engine) as session:
        rows = list(session.scalars(sa.select(AuditRow).order_by(col(AuditRow.id))))
    assert list(find_breaks(iter(rows))) == []
    explained = world.reader.explain(number)
    assert [e.decision.verdict for e in explained][-1] == "advance"
    assert all(e.replay is not None and e.replay.is_same for e in explained)


def test_a_bad_release_halts_and_the_devices_return(tmp_path: Path) -> None:
    devices = [
        FakeDevice(number=k, fails_with="probation-errors" if k % 2 else "") for k in range(1, 31)
    ]
    world = DatabaseFleet(tmp_path / "control.db", devices)
    number = world.start(in_flight_max=30)
    world.run(number, 80)
    assert state_of(world, number) is RolloutState.ROLLED_BACK
    assert world.outcomes(number) == {"failed": 15, "returned": 15}
    assert set(world.desired().values()) == {(OLD, 0)}
    assert world.champion() == 1
    view = world.reader.show(number)
    assert view.running == 0
    assert len(view.failures) == 5
    halt = [e for e in world.reader.explain(number) if e.decision.verdict == "halt"]
    assert halt[0].replay is not None
    assert halt[0].replay.is_same
    assert "evidence" in halt[0].replay.workings[1]


def test_nobody_beyond_the_first_stage_hears_of_a_release_that_halts(tmp_path: Path) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(40, fails_with="selftest-golden"))
    number = world.start("10%,100%")
    world.run(number, 60)
    offered = [
        d
        for d, device in world.devices.items()
        if device.assigned is not None and device.assigned.rollout
    ]
    assert len(world.reader.list_members(number, [Outcome.FAILED], 100)) == 4
    assert world.outcomes(number) == {"failed": 4, "pending": 36}
    assert len(offered) <= 4


def test_offline_devices_catch_up_after_completion(world: DatabaseFleet) -> None:
    for number in (1, 2, 3):
        world.devices[number].is_online = False
        world.set_device(number, is_online=False)
    rollout = world.start("50%,100%", in_flight_max=50)
    world.run(rollout, 60)
    assert state_of(world, rollout) is RolloutState.COMPLETED
    assert world.outcomes(rollout) == {"confirmed": 9, "silent_before": 3}
    for number in (1, 2, 3):
        world.devices[number].is_online = True
    for _ in range(8):
        world.tick()
    assert world.outcomes(rollout) == {"confirmed": 12}


def test_who_comes_back_while_a_stage_is_open_is_queued_in_it(world: DatabaseFleet) -> None:
    for number in (1, 2):
        world.devices[number].is_online = False
        world.set_device(number, is_online=False)
    rollout = world.start(in_flight_max=2)
    world.tick()
    world.tick()
    assert world.outcomes(rollout)["silent_before"] == 2
    world.devices[1].is_online = True
    world.tick()
    assert world.outcomes(rollout)["silent_before"] == 1


def test_a_network_failure_is_tried_again_under_a_higher_retry_number(tmp_path: Path) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(2, fails_with="fetch-timeout"))
    rollout = world.start(retry_delay_s=10, tries_max=2)
    for _ in range(12):
        world.tick()
    members = world.reader.list_members(rollout, [Outcome.FAILED], 9)
    assert [m.tries for m in members] == [2, 2]
    with read_session(world.engine) as session:
        assert set(session.scalars(sa.select(col(DesiredRow.retry)))) == {1}


def test_a_return_counts_when_it_was_signed_and_accepted(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=12)
    world.tick()
    world.tick()
    world.desk.roll_back(rollout, REASON)
    world.runner.run_once()
    world.runner.run_once()
    assert world.outcomes(rollout) == {"withdrawn": 12}
    world.sign()
    world.runner.run_once()
    assert world.outcomes(rollout) == {"withdrawn": 12}
    world.tick()
    assert world.outcomes(rollout) == {"returned": 12}


def test_what_a_person_assigned_is_left_alone(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=12, gate=GatePolicy(soak_s=10_000))
    for _ in range(6):
        world.tick()
    give(world, 3)
    for _ in range(6):
        world.tick()
    (refused,) = world.reader.list_members(rollout, [Outcome.REFUSED], 9)
    assert (refused.device, refused.code) == (name_of(3), "superseded")
    world.desk.roll_back(rollout, REASON)

    def give_then_open() -> Any:
        give(world, 4)
        return world.books.writing()

    replace(world.runner, books=_Meddled(world, give_then_open)).look_at(rollout)
    assert world.desired()[3] == world.desired()[4] == (OLD, 99)
    assert world.desired()[5] == (OLD, 0)


def give(world: DatabaseFleet, number: int) -> None:
    """Assign something else to a slot."""
    with write_session(world.engine) as session:
        session.execute(
            sa.update(DesiredRow)
            .where(col(DesiredRow.device) == number)
            .values(target=OLD, rollout=99)
        )


def test_a_champion_that_moved_on_is_not_restored(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=50)
    world.run(rollout, 30)
    with world.books.writing() as book:
        book.fleet.move_champion("m", 9)
    world.desk.roll_back(rollout, REASON)
    assert world.champion() == 9


def test_who_joins_later_is_queued(world: DatabaseFleet) -> None:
    rollout = world.start("25%,100%", in_flight_max=3)
    world.tick()
    world.add(FakeDevice(number=99))
    world.add(FakeDevice(number=98), enrolled_at=None, is_online=False)
    world.tick()
    assert sum(world.outcomes(rollout).values()) == 13
    world.run(rollout, 150)
    assert world.outcomes(rollout) == {"confirmed": 13}


def test_who_is_revoked_or_leaves_the_group_is_not_offered_anything(world: DatabaseFleet) -> None:
    world.groups.define("hall", "site=hall")
    for number in range(1, 9):
        world.set_device(number, labels='{"site": "hall"}')
    rollout = world.start(group="hall", in_flight_max=2)
    world.tick()
    left = [n for n, (target, _) in world.desired().items() if target == OLD and n <= 8]
    world.set_device(left[0], labels="{}")
    world.set_device(left[1], revoked_at=START)
    world.run(rollout, 120)
    refused = world.reader.list_members(rollout, [Outcome.REFUSED], 10)
    assert {(m.device, m.code) for m in refused} == {
        (name_of(left[0]), "left-group"),
        (name_of(left[1]), "revoked"),
    }
    assert world.desired()[left[0]] == (OLD, 0)
    assert state_of(world, rollout) is RolloutState.COMPLETED


def test_what_assigning_objects_to_is_a_refusal_and_not_an_offer(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=50)
    world.fitness.unfit = {name_of(4)}
    world.run(rollout, 40)
    (refused,) = world.reader.list_members(rollout, [Outcome.REFUSED], 10)
    assert (refused.device, refused.code) == (name_of(4), "misfit")
    assert "opset_max: needs 21, has at most 17" in refused.detail
    assert refused.offered_at is None
    assert world.desired()[4] == (OLD, 0)
    assert world.outcomes(rollout) == {"confirmed": 11, "refused": 1}


def test_a_device_that_had_nothing_loses_its_desired_row_and_keeps_its_package(
    tmp_path: Path,
) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(3, has_old=False))
    rollout = world.start(in_flight_max=9)
    world.run(rollout, 30)
    world.desk.roll_back(rollout, REASON)
    world.run(rollout, 30)
    assert state_of(world, rollout) is RolloutState.ROLLED_BACK
    assert world.desired() == {}


def test_a_return_to_a_package_that_may_not_run_any_more_is_not_wished_for(
    world: DatabaseFleet,
) -> None:
    rollout = world.start(in_flight_max=50)
    world.run(rollout, 30)
    del world.signed.targets[OLD]
    world.desk.roll_back(rollout, REASON)
    world.tick()
    assert world.desired() == {}
    (member, *_) = world.reader.list_members(rollout, [Outcome.WITHDRAWN], 20)
    assert "cannot return" in member.detail


def test_a_rejected_version_halts_a_running_rollout(world: DatabaseFleet) -> None:
    rollout = world.start()
    world.tick()
    world.set_version("rejected")
    world.run(rollout, 20)
    assert state_of(world, rollout) is RolloutState.ROLLED_BACK
    assert "no longer approved" in world.reader.show(rollout).rollout.sentence


def test_pause_resume_abort_say_what_they_do_and_do_it(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=4)
    world.tick()
    tried = world.desk.pause(rollout, REASON, is_dry_run=True)
    assert tried.effect == "8 devices not offered for now, 4 in flight finish"
    assert state_of(world, rollout) is RolloutState.RUNNING
    paused = world.desk.pause(rollout, REASON)
    assert paused.effect == tried.effect
    for _ in range(12):
        world.tick()
    assert world.outcomes(rollout) == {"confirmed": 4, "pending": 8}
    assert world.reader.show(rollout).rollout.sentence.startswith(f"Paused by ann: {REASON}.")
    world.desk.resume(rollout, REASON)
    world.tick()
    aborted = world.desk.abort(rollout, REASON)
    assert (
        aborted.effect == "4 devices never offered, 4 in flight taken back, 4 that run m 2 keep it"
    )
    for _ in range(8):
        world.tick()
    assert world.outcomes(rollout) == {"confirmed": 4, "returned": 4, "pending": 4}
    assert sorted(world.desired().values()) == [(OLD, 0)] * 8 + [(NEW, rollout)] * 4
    assert world.runner.run_once().rollouts == 0


def test_resuming_an_undecided_stage_lets_it_pass_and_records_who_did(tmp_path: Path) -> None:
    devices = fleet(10)
    devices[0].fails_with = "selftest-latency"
    world = DatabaseFleet(tmp_path / "control.db", devices)
    rollout = world.start(in_flight_max=50)
    world.run(rollout, 15)
    assert world.reader.show(rollout).rollout.is_undecided
    world.desk.resume(rollout, REASON)
    world.run(rollout, 5)
    assert state_of(world, rollout) is RolloutState.COMPLETED
    assert any("let pass by ann" in e.decision.sentence for e in world.reader.explain(rollout))


def test_rolling_back_a_completed_rollout_restores_the_champion(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=50)
    world.run(rollout, 30)
    assert world.champion() == 2
    world.desk.roll_back(rollout, REASON)
    assert world.champion() == 1
    world.run(rollout, 30)
    assert world.outcomes(rollout) == {"returned": 12}


@pytest.mark.parametrize(
    ("alarm", "is_held"),
    [
        pytest.param({}, True, id="device of the rollout"),
        pytest.param({"state": "closing"}, True, id="closing"),
        pytest.param({"opened_at": START - timedelta(hours=1)}, False, id="open before the start"),
        pytest.param({"opened_at": START + timedelta(seconds=20)}, False, id="before it confirmed"),
        pytest.param({"acknowledged_at": START}, False, id="acknowledged"),
        pytest.param({"state": "closed"}, False, id="closed"),
        pytest.param({"model": "other"}, False, id="another model"),
        pytest.param({"subject": "somebody-else"}, False, id="another device"),
        pytest.param({"level": "group", "subject": "all"}, True, id="its group"),
        pytest.param({"level": "group", "subject": "profile=camera"}, True, id="its profile"),
        pytest.param({"level": "group", "subject": "profile=gateway"}, False, id="other profile"),
        pytest.param({"level": "fleet", "subject": "all"}, True, id="the fleet"),
    ],
)
def test_which_drift_alarms_hold_a_stage(
    world: DatabaseFleet, alarm: dict[str, Any], is_held: bool
) -> None:
    rollout = world.start("100%", in_flight_max=11, gate=GatePolicy(soak_s=10_000))
    for _ in range(6):
        world.tick()
    confirmed = world.reader.list_members(rollout, [Outcome.CONFIRMED], 1)[0]
    add_alarm(world, **({"subject": confirmed.device} | alarm))
    with world.books.reading() as book:
        found = book.rollouts.find(rollout)
        assert found is not None
        assert bool(book.fleet.list_alarms(found)) is is_held
        policy = replace(found.policy, is_held_by_alarms=False)
        assert book.fleet.list_alarms(replace(found, policy=policy)) == []


def test_an_open_drift_alarm_holds_the_next_stage_until_it_is_acknowledged(
    world: DatabaseFleet,
) -> None:
    rollout = world.start("50%,100%", in_flight_max=50)
    world.tick()
    add_alarm(world, level="fleet", subject="all")
    for _ in range(9):
        world.tick()
    view = world.reader.show(rollout)
    assert view.rollout.stage == 0
    assert "Open drift alarms hold it: fleet all (alarm 1)" in view.rollout.sentence
    with write_session(world.engine) as session:
        session.execute(sa.update(DriftAlarmRow).values(acknowledged_at=START))
    world.tick()
    assert world.reader.show(rollout).rollout.stage == 1


def add_alarm(world: DatabaseFleet, **columns: Any) -> None:
    row = {
        "model": "m",
        "level": "device",
        "state": "open",
        "severity": "warning",
        "features": "[]",
        "sentence": "",
        "opened_at": START + timedelta(hours=1),
        "changed_at": START,
        **columns,
    }
    with write_session(world.engine) as session:
        session.add(DriftAlarmRow(**row))


def test_another_rollout_on_the_same_devices_is_refused_until_the_first_ends(
    world: DatabaseFleet,
) -> None:
    first = world.start(in_flight_max=1)
    second = world.planner.store(world.planner.plan(REQUEST))
    with pytest.raises(RefusedError, match=f"rollout {first} is under way on slot m of 12 devices"):
        world.desk.start(second)
    world.desk.abort(first, REASON)
    world.desk.start(second)
    assert state_of(world, second) is RolloutState.RUNNING


def test_an_operators_act_between_reading_and_writing_wins(
    world: DatabaseFleet,
) -> None:
    rollout = world.start()
    paused: list[object] = []

    def pause_then_read() -> Any:
        if not paused:
            paused.append(world.desk.pause(rollout, REASON))
        return world.books.writing()

    runner = replace(world.runner, books=_Meddled(world, pause_then_read))
    with pytest.raises(RolloutMovedError):
        runner.look_at(rollout)
    assert set(world.desired().values()) == {(OLD, 0)}
    assert state_of(world, rollout) is RolloutState.PAUSED


class _Meddled:
    """Books whose write transaction opens after somebody else has written."""

    def __init__(self, world: DatabaseFleet, before_writing: Any) -> None:
        self._world, self._before = world, before_writing

    def reading(self) -> Any:
        return self._world.books.reading()

    def writing(self, fence: Any = None) -> Any:
        del fence
        return self._before()


def test_the_plan_names_who_gets_what_and_what_cannot_be_honoured(world: DatabaseFleet) -> None:
    world.add(FakeDevice(number=20), enrolled_at=None)
    world.add(FakeDevice(number=21), revoked_at=START)
    world.add(FakeDevice(number=22), profile="iot-gateway")
    world.fitness.unfit = {name_of(3)}
    world.set_device(5, is_online=False)
    plan = world.planner.plan(replace(REQUEST, stages="10%,100%"))
    assert [len(stage.devices) for stage in plan.stages] == [2, 9]
    assert {left.device.id: left.reason for left in plan.left_out} == {
        name_of(20): Unfit.NEVER_ENROLLED,
        name_of(21): Unfit.REVOKED,
        name_of(22): Unfit.NO_ARTIFACT,
        name_of(3): Unfit.MISFIT,
    }
    assert plan.now_running == {OLD: 11}
    assert plan.notes == ("1 device offline now: held up for by nobody, served when back",)
    assert world.reader.list_newest(5) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "nope"}, NotFoundError, "no version 2 of model 'nope'"),
        ({"version": 9}, NotFoundError, "no version 9"),
        ({"group": "nope"}, NotFoundError, "no group 'nope'"),
        ({"group": "empty"}, RefusedError, "group empty has no devices"),
        ({"group": "old"}, RefusedError, "nobody in group old .* 1 never-enrolled"),
        ({"stages": "5%"}, MisuseError, "11 of 12 devices are in no stage"),
        ({"stages": "x y"}, MisuseError, "for example: 5%,25%,100%"),
        ({"stages": "nope,100%"}, NotFoundError, "no group 'nope'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_the_next_step(
    world: DatabaseFleet, change: dict[str, Any], error: type[FleetError], message: str
) -> None:
    world.groups.define("empty", "site=nowhere")
    world.groups.define("old", "site=old")
    if change.get("group") == "old":
        world.add(FakeDevice(number=30), enrolled_at=None, labels='{"site": "old"}')
    with pytest.raises(error, match=message):
        world.planner.plan(replace(REQUEST, **change))


def test_an_unapproved_version_is_refused(world: DatabaseFleet) -> None:
    world.set_version("registered")
    with pytest.raises(RefusedError, match=r"m 2 is registered, not approved.*model approve m 2"):
        world.planner.plan(REQUEST)
    world.set_version("approved")
    del world.signed.targets[NEW]
    with pytest.raises(RefusedError, match="an approver's signature"):
        world.planner.plan(REQUEST)


@pytest.mark.parametrize("reason", ["", "short", "x" * 401])
def test_an_act_needs_a_reason(world: DatabaseFleet, reason: str) -> None:
    rollout = world.start()
    for act in (world.desk.pause, world.desk.resume, world.desk.abort, world.desk.roll_back):
        with pytest.raises(MisuseError, match="8 to 400"):
            act(rollout, reason)


def test_acts_that_the_state_does_not_know_are_refused(world: DatabaseFleet) -> None:
    rollout = world.start()
    with pytest.raises(
        RefusedError, match=f"rollout {rollout}: a rollout that is running cannot start"
    ):
        world.desk.start(rollout)
    with pytest.raises(NotFoundError, match=f"no rollout 77; the newest is {rollout}"):
        world.desk.pause(77, REASON)


def test_groups_are_defined_by_queries_and_read_back(world: DatabaseFleet) -> None:
    world.set_device(1, labels=json.dumps({"site": "hall"}))
    view = world.groups.define("hall", "site=hall")
    assert [d.id for d in view.devices] == [name_of(1)]
    world.groups.define("hall", "site=lab")
    assert world.groups.show("hall").devices == ()
    assert [(g.group.name, len(g.devices)) for g in world.groups.list_all()] == [
        ("all", 12),
        ("hall", 0),
    ]
    for name in ("All", "all", "rest", "", "a b", "x" * 64):
        with pytest.raises(MisuseError, match="group name"):
            world.groups.define(name, "all")
    with pytest.raises(MisuseError, match=r"expected .*; for example: profile=camera"):
        world.groups.define("bad", "site=")
    with pytest.raises(NotFoundError, match="there are: hall"):
        world.groups.show("nope")


def test_only_a_stage_returns_when_the_policy_says_so(world: DatabaseFleet) -> None:
    rollout = world.start("50%,100%", in_flight_max=50, on_halt=OnHalt.ROLL_BACK_STAGE)
    with read_session(world.engine) as session:
        query = sa.select(col(RolloutDeviceRow.device)).where(col(RolloutDeviceRow.stage) == 1)
        second = set(session.scalars(query))
    for number in second:
        world.devices[number].fails_with = "selftest-crash"
    world.run(rollout, 80)
    assert state_of(world, rollout) is RolloutState.ROLLED_BACK
    kept = {n for n, (target, _) in world.desired().items() if target == NEW}
    assert kept == set(world.devices) - second


def test_a_soaking_rollout_writes_nothing_while_nothing_changes(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=50, gate=GatePolicy(soak_s=10_000))
    for _ in range(10):
        world.tick()
    before = world.reader.show(rollout).rollout
    assert "Soaking" in before.sentence
    for _ in range(5):
        world.tick()
    assert world.reader.show(rollout).rollout.revision == before.revision


def test_a_halt_tells_the_devices_to_return_at_once(tmp_path: Path) -> None:
    devices = fleet(6)
    for device in devices[:4]:
        device.fails_with = "selftest-crash"
    world = DatabaseFleet(tmp_path / "control.db", devices)
    rollout = world.start(in_flight_max=50)
    while "rollout.halt" not in world.acts():
        assert state_of(world, rollout) is RolloutState.RUNNING
        world.tick()
    assert state_of(world, rollout) is RolloutState.ROLLING_BACK
    assert set(world.desired().values()) == {(OLD, 0)}


def test_settled_rollouts_are_looked_at_no_more(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=50)
    world.run(rollout, 40)
    world.tick()
    assert world.runner.run_once().rollouts == 0
    with write_session(world.engine) as session:
        session.execute(sa.update(DeviceRow).values(is_online=False))
        assert session.scalar(sa.select(sa.func.count()).select_from(DesiredRow)) == 12
