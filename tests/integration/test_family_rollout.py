"""A family goes out as one: each device takes the member that its label names."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlmodel import Session, col, select
from typer.testing import CliRunner

from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.rollout_repository import RolloutRepository
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    AssignmentRow,
    AuditRow,
    DesiredRow,
    DeviceRow,
    ModelRow,
    SlotRow,
)
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.cli.device import app as device_app
from fleet_server.cli.rollout import app
from fleet_server.core.member_gate import ExcludedMember
from fleet_server.core.rollout_limits import GatePolicy, OnHalt, RolloutPolicy
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.services.add_device import DeviceSpec
from fleet_server.services.plan_rollout import PlanRequest, RolloutPlan
from fleet_server.services.read_rollouts import RolloutView
from fleet_server.wiring.devices import build_device_desk
from fleet_server.wiring.rollouts import (
    build_move_teller,
    build_planner,
    build_rollout_desk,
    build_rollout_reader,
    build_runner,
)
from fleet_server.wiring.training import build_family_browser
from fleet_server.wiring.trust import build_approver
from tests.support.clock import FakeClock
from tests.support.families import LINES, register_member
from tests.support.trust_fleet import make_fleet

A, B, POOLED = (f"line-{name}/1/camera.tar" for name in ("a", "b", "pooled"))
SLOT = "line"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Routes A and B and a fallback, approved; cameras of A, B, of C, and one without a label."""
    directory = tmp_path_factory.mktemp("template") / "fleet"
    fleet = make_fleet(directory, FakeClock(datetime.now(UTC)))
    for route in ("a", "b"):
        register_member(fleet, route)
    register_member(fleet, "pooled", is_fallback=True)
    build_device_desk(fleet, actor="ann").add_many(
        [
            DeviceSpec(id=f"cam-{n}", profile="camera", labels={"line": line} if line else {})
            for n, line in enumerate(("A", "b", "c", ""))
        ]
    )
    with write_session(fleet.engine) as session:
        for device in session.exec(select(DeviceRow)):
            device.enrolled_at, device.is_online = fleet.clock.now(), True
            session.add(device)
    release = build_family_browser(fleet).view(LINES).to_approve()
    build_approver(fleet, actor="ann").approve_release(release, slot=SLOT)
    fleet.engine.dispose()
    return directory


@pytest.fixture
def fleet(template: Path, tmp_path: Path) -> Iterator[Fleet]:
    copy = shutil.copytree(template, tmp_path / "fleet")
    fleet = open_fleet(copy, FakeClock(datetime.now(UTC)))
    yield fleet
    fleet.engine.dispose()


def plan(
    fleet: Fleet,
    *,
    is_only_better: bool = False,
    by: str = "line",
    member_alpha: float = 0.05,
    policy: RolloutPolicy | None = None,
) -> RolloutPlan:
    request = PlanRequest(
        model=LINES,
        version=0,
        group="all",
        stages="100%",
        policy=policy or RolloutPolicy(gate=GatePolicy(soak_s=0)),
        labels={"route": by},
        is_only_better=is_only_better,
        member_alpha=member_alpha,
    )
    return build_planner(fleet, actor="ann").plan(request)


def wanted(fleet: Fleet) -> dict[str, str]:
    with Session(fleet.engine) as session:
        rows = session.exec(
            select(DeviceRow.id, DesiredRow.target).where(DeviceRow.number == DesiredRow.device)
        )
        return dict(rows.all())


def let_devices_confirm(fleet: Fleet, failing: str = "") -> None:
    """Every device takes what it is given, as their reports would say; one target fails."""
    with write_session(fleet.engine) as session:
        for desired in session.exec(select(DesiredRow)).all():
            package = session.exec(
                select(ArtifactRow).where(ArtifactRow.target == desired.target)
            ).one()
            if desired.target == failing:
                failed = SlotRow(
                    device=desired.device,
                    slot=SLOT,
                    state="failed",
                    code="self-test-mismatch",
                    rollout=desired.rollout,
                    changed_at=fleet.clock.now(),
                )
                session.merge(failed)
                _hear(session, fleet, desired.device)
                continue
            session.merge(
                SlotRow(
                    device=desired.device,
                    slot=SLOT,
                    state="confirmed",
                    running_target=desired.target,
                    running_sha256=package.sha256,
                    confirmed_target=desired.target,
                    confirmed_sha256=package.sha256,
                    rollout=desired.rollout,
                    changed_at=fleet.clock.now(),
                )
            )
            _hear(session, fleet, desired.device)


def _hear(session: Session, fleet: Fleet, device: int) -> None:
    assignment = session.get_one(AssignmentRow, device)
    assignment.is_stale, assignment.counter = False, assignment.counter + 1
    row = session.get_one(DeviceRow, device)
    row.reported = json.dumps({"assignment_counter": assignment.counter})
    row.last_seen_at = row.reported_at = fleet.clock.now()


def complete(fleet: Fleet) -> int:
    """Roll the family out to everybody."""
    number = build_planner(fleet, actor="ann").store(plan(fleet))
    build_rollout_desk(fleet, actor="ann").start(number)
    build_runner(fleet).run_once()
    let_devices_confirm(fleet)
    build_runner(fleet).run_once()
    assert show(fleet, number).rollout.state is RolloutState.COMPLETED
    return number


def show(fleet: Fleet, number: int) -> RolloutView:
    return build_rollout_reader(fleet).show(number)


def moves(fleet: Fleet) -> list[dict[str, list[str]]]:
    with Session(fleet.engine) as session:
        acts = session.exec(select(AuditRow).where(AuditRow.act == "rollout.move")).all()
    return [json.loads(row.detail)["devices"] for row in acts]


def champions(fleet: Fleet) -> dict[str, int]:
    with Session(fleet.engine) as session:
        return {row.name: row.champion for row in session.exec(select(ModelRow))}


def test_devices_take_the_member_their_label_names_or_the_fallback(fleet: Fleet) -> None:
    found = plan(fleet)
    assert found.request.slot == SLOT
    assert found.targets == {"cam-0": A, "cam-1": B, "cam-2": POOLED}
    (left,) = found.left_out
    assert (left.device.id, str(left.reason)) == ("cam-3", "no-member")
    assert "it has no label line, which says its route" in left.detail
    assert "2 devices get a member of their own, 1 the fallback" in " ".join(found.notes)
    number = build_planner(fleet, actor="ann").store(found)
    build_rollout_desk(fleet, actor="ann").start(number)
    runner = build_runner(fleet)
    runner.run_once()
    assert wanted(fleet) == {"cam-0": A, "cam-1": B, "cam-2": POOLED}
    let_devices_confirm(fleet)
    runner.run_once()
    view = build_rollout_reader(fleet).show(number)
    assert view.rollout.state is RolloutState.COMPLETED, view.rollout.sentence
    assert view.running == 3
    assert view.rollout.release == LINES
    assert champions(fleet) == {"line-a": 1, "line-b": 1, "line-pooled": 1}
    build_rollout_desk(fleet, actor="ann").roll_back(number, "noise at night")
    assert champions(fleet) == {"line-a": 0, "line-b": 0, "line-pooled": 0}
    with Session(fleet.engine) as session:
        acts = session.exec(select(AuditRow).where(AuditRow.act == "model.champion")).all()
    assert [json.loads(row.detail)["members"]["line-a"] for row in acts] == [[0, 1], [1, 0]]


def test_without_a_fallback_a_value_that_has_no_member_is_refused(fleet: Fleet) -> None:
    build_approver(fleet, actor="ann").reject("line-pooled", 1, "too coarse")
    found = plan(fleet)
    assert found.targets == {"cam-0": A, "cam-1": B}
    why = {left.device.id: left.detail for left in found.left_out}
    assert why["cam-2"] == "the family has no approved member for route c, and no fallback"


def test_a_member_without_an_approved_version_keeps_the_one_in_service(fleet: Fleet) -> None:
    with write_session(fleet.engine) as session:
        for name in ("line-a", "line-b"):
            session.get_one(ModelRow, name).champion = 1
    register_member(fleet, "a", 2, gain=0.5)
    register_member(fleet, "b", 2, gain=0.0)
    assert plan(fleet).targets["cam-0"] == A
    release = build_family_browser(fleet).view(LINES).to_approve()
    build_approver(fleet, actor="ann").approve_release(release, slot=SLOT)
    assert plan(fleet).targets["cam-1"] == "line-b/2/camera.tar"
    better = plan(fleet, is_only_better=True).targets
    assert (better["cam-0"], better["cam-1"]) == ("line-a/2/camera.tar", B)


def test_what_a_plan_of_a_family_cannot_be_is_said(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="nobody in group all can be given"):
        plan(fleet, by="bus")
    for name in ("line-a", "line-b", "line-pooled"):
        build_approver(fleet, actor="ann").reject(name, 1, "not good enough")
    with pytest.raises(RefusedError, match="no member of line-"):
        plan(fleet)
    with pytest.raises(MisuseError, match="say which version of line-a"):
        build_planner(fleet).plan(
            PlanRequest(model="line-a", version=0, group="all", stages="1", policy=RolloutPolicy())
        )


def test_people_plan_a_family_by_its_name(fleet: Fleet) -> None:
    workspace = str(fleet.workspace.root)
    arguments = ["plan", LINES, "--group", "all", "--by", "route=line", "--json", "-w", workspace]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["slot"], said["targets"]["cam-1"]) == (SLOT, B)
    result = CliRunner().invoke(app, [*arguments[:4], "--by", "stop=line", "-w", workspace])
    assert result.exit_code == 2
    assert "has no column 'stop'" in " ".join(result.stderr.split())


def test_the_plan_is_kept_with_the_rollout(fleet: Fleet) -> None:
    found = plan(fleet)
    assert RolloutPolicy.from_json(json.loads(json.dumps(found.request.policy.to_json()))) == (
        found.request.policy
    )


def test_a_device_follows_its_label_after_the_rollout_without_another(fleet: Fleet) -> None:
    number = complete(fleet)
    clock = cast("FakeClock", fleet.clock)
    clock.advance(90 * 86_400)
    build_runner(fleet).run_once()
    assert moves(fleet) == []
    arguments = ["label", "cam-0", "line=B", "-w", str(fleet.workspace.root)]
    result = CliRunner().invoke(device_app, arguments)
    said = " ".join(result.stderr.split())
    assert f"slot line goes from line-a/1 to line-b/1 (rollout {number}), tested there" in said
    build_runner(fleet).run_once()
    assert wanted(fleet)["cam-0"] == B
    assert moves(fleet) == [{"cam-0": [A, B]}]
    with Session(fleet.engine) as session:
        numbers = {row.id: row.number for row in session.exec(select(DeviceRow))}
        desired = session.get_one(DesiredRow, (numbers["cam-0"], SLOT))
        policy = RolloutPolicy().probation.to_json()
        assert json.loads(desired.probation) == policy, "a move passes probation as planned"
        assert session.get_one(AssignmentRow, numbers["cam-0"]).is_stale, "it is to be signed"
    assert show(fleet, number).count(Outcome.OFFERED) == 1
    let_devices_confirm(fleet)
    build_runner(fleet).run_once()
    view = show(fleet, number)
    assert (view.count(Outcome.CONFIRMED), view.rollout.state) == (3, RolloutState.COMPLETED)
    build_runner(fleet).run_once()
    assert len(moves(fleet)) == 1, "once is enough"


def test_a_move_that_fails_on_the_device_is_seen_and_not_tried_for_ever(fleet: Fleet) -> None:
    number = complete(fleet)
    build_device_desk(fleet, actor="ann").label("cam-0", {"line": "B"})
    build_runner(fleet).run_once()
    let_devices_confirm(fleet, failing=B)
    for _ in range(2):
        cast("FakeClock", fleet.clock).advance(1)
        build_runner(fleet).run_once()
    failed = {member.device: member.code for member in show(fleet, number).failures}
    assert failed["cam-0"] == "self-test-mismatch"
    assert len(moves(fleet)) == 1


def test_a_label_moves_nobody_to_a_package_that_is_not_approved_any_more(fleet: Fleet) -> None:
    number = complete(fleet)
    build_approver(fleet, actor="ann").reject("line-b", 1, "wrong at night")
    build_device_desk(fleet, actor="ann").label("cam-0", {"line": "B"})
    cast("FakeClock", fleet.clock).advance(1)
    for _ in range(2):
        build_runner(fleet).run_once()
    assert wanted(fleet)["cam-0"] == A
    assert moves(fleet) == [], "the audit log tells what was done"
    assert show(fleet, number).count(Outcome.REFUSED) == 1
    build_rollout_desk(fleet, actor="ann").roll_back(number, "wrong by day, too")
    for _ in range(2):
        build_runner(fleet).run_once()
    assert "cam-0" not in wanted(fleet), "a rollback reaches it all the same"


def test_labels_that_name_no_member_leave_a_device_as_it_is(fleet: Fleet) -> None:
    build_approver(fleet, actor="ann").reject("line-pooled", 1, "too coarse")
    number = complete(fleet)
    desk = build_device_desk(fleet, actor="ann")
    teller = build_move_teller(fleet)
    found = desk.label("cam-0", {"line": "Z"})
    (said,) = teller.tell("cam-0", found.labels)
    assert f"keeps {A} (rollout {number}): the family has no approved member" in said
    assert (
        "it has no label line"
        in teller.tell("cam-0", desk.label("cam-0", {"line": None}).labels)[0]
    )
    assert teller.tell("cam-1", {"line": "b"}) == []
    build_runner(fleet).run_once()
    assert (wanted(fleet)["cam-0"], moves(fleet)) == (A, [])


def test_a_slot_that_was_given_something_else_since_does_not_follow(fleet: Fleet) -> None:
    complete(fleet)
    with write_session(fleet.engine) as session:
        for desired in session.exec(select(DesiredRow)):
            desired.rollout = 0
            session.add(desired)
    build_device_desk(fleet, actor="ann").label("cam-0", {"line": "B"})
    build_runner(fleet).run_once()
    assert wanted(fleet)["cam-0"] == A


def add_cameras(fleet: Fleet, line: str, count: int) -> list[str]:
    names = [f"{line}-{n:02}" for n in range(count)]
    build_device_desk(fleet, actor="ann").add_many(
        [DeviceSpec(id=name, profile="camera", labels={"line": line}) for name in names]
    )
    with write_session(fleet.engine) as session:
        for device in session.exec(select(DeviceRow).where(col(DeviceRow.id).in_(names))):
            device.enrolled_at, device.is_online = fleet.clock.now(), True
            session.add(device)
    return names


def start_with_a_bad_member(fleet: Fleet, **policy: Any) -> int:
    """Line A fails on all of its four cameras, line B on none of its twenty-one."""
    add_cameras(fleet, "a", 3)
    add_cameras(fleet, "b", 20)
    limits = RolloutPolicy(gate=GatePolicy(soak_s=0), in_flight_max=100, **policy)
    found = plan(fleet, policy=limits)
    number = build_planner(fleet, actor="ann").store(found)
    build_rollout_desk(fleet, actor="ann").start(number)
    runner = build_runner(fleet)
    runner.run_once()
    let_devices_confirm(fleet, failing=A)
    cast("FakeClock", fleet.clock).advance(1)
    runner.run_once()
    return number


def test_a_bad_member_is_taken_out_and_its_devices_take_the_fallback(fleet: Fleet) -> None:
    number = start_with_a_bad_member(fleet)
    view = show(fleet, number)
    (out,) = view.rollout.excluded
    assert (out.model, out.finished, out.failed) == ("line-a", 4, 4)
    assert view.rollout.state is RolloutState.RUNNING
    assert {wanted(fleet)[name] for name in ("cam-0", "a-00", "a-01", "a-02")} == {POOLED}
    assert wanted(fleet)["b-00"] == B
    let_devices_confirm(fleet)
    build_runner(fleet).run_once()
    view = show(fleet, number)
    assert view.rollout.state is RolloutState.COMPLETED, view.rollout.sentence
    assert "Taken out: line-a." in view.rollout.sentence
    assert champions(fleet) == {"line-a": 0, "line-b": 1, "line-pooled": 1}
    workspace = str(fleet.workspace.root)
    shown = CliRunner().invoke(app, ["show", str(number), "-w", workspace]).stdout
    assert "members: 1 of 3 failed somewhere, 1 taken out" in shown
    told = CliRunner().invoke(app, ["explain", str(number), "--json", "-w", workspace])
    (verdict,) = [one for one in json.loads(told.stdout) if one["verdict"] == "exclude"]
    assert verdict["is_same"] is True
    assert "line-a: 4 of 4 failed: 100 %" in verdict["sentence"]
    assert "Its devices take the fallback line-pooled." in verdict["sentence"]
    (figure,) = json.loads(
        CliRunner().invoke(app, ["show", str(number), "--json", "-w", workspace]).stdout
    )["members"]
    assert (figure["model"], figure["failed"]) == ("line-a", 4)
    with Session(fleet.engine) as session:
        acts = [row.act for row in session.exec(select(AuditRow))]
    assert acts.count("rollout.exclude_member") == 1


def test_without_a_fallback_devices_of_a_bad_member_return(fleet: Fleet) -> None:
    build_approver(fleet, actor="ann").reject("line-pooled", 1, "too coarse")
    number = start_with_a_bad_member(fleet)
    assert "cam-0" not in wanted(fleet), "it ran nothing before"
    assert show(fleet, number).rollout.state is RolloutState.COMPLETED


def test_where_a_halt_lets_devices_stay_those_of_a_bad_member_do(fleet: Fleet) -> None:
    number = start_with_a_bad_member(fleet, on_halt=OnHalt.STAY)
    assert wanted(fleet)["cam-0"] == A
    assert [one.model for one in show(fleet, number).rollout.excluded] == ["line-a"]


def test_members_are_judged_in_the_sum_alone_where_that_is_asked_for(fleet: Fleet) -> None:
    found = plan(fleet, member_alpha=0.0)
    assert found.request.policy.members is None
    assert any("single members are not judged" in note for note in found.notes)
    with pytest.raises(MisuseError, match=r"--member-false-alarms: .* got 0\.7"):
        plan(fleet, member_alpha=0.7)


def test_a_device_follows_its_label_while_the_rollout_runs(fleet: Fleet) -> None:
    policy = RolloutPolicy(gate=GatePolicy(soak_s=3600))
    number = build_planner(fleet, actor="ann").store(plan(fleet, policy=policy))
    build_rollout_desk(fleet, actor="ann").start(number)
    runner, desk = build_runner(fleet), build_device_desk(fleet, actor="ann")
    runner.run_once()
    desk.label("cam-0", {"line": "B"})
    runner.run_once()
    assert wanted(fleet)["cam-0"] == A, "what is under way there is judged first"
    let_devices_confirm(fleet)
    runner.run_once()
    view = show(fleet, number)
    assert view.rollout.state is RolloutState.RUNNING
    assert (wanted(fleet)["cam-0"], view.count(Outcome.OFFERED)) == (B, 1)
    assert not view.failures, "to run something else when told to is no failure"


def test_thousands_of_members_that_were_taken_out_can_be_asked_for(fleet: Fleet) -> None:
    number = complete(fleet)
    out = [
        ExcludedMember(model=f"line-{n}", finished=3, failed=3, at=fleet.clock.now())
        for n in range(3_000)
    ]
    with write_session(fleet.engine) as session:
        for slot in session.exec(select(SlotRow)):
            slot.changed_at = fleet.clock.now() - timedelta(days=1)
            session.add(slot)
        session.flush()
        store = RolloutRepository(session)
        found = store.find(number)
        assert found is not None
        assert not store.load_members(replace(found, excluded=tuple(out)))
        assert store.load_members(replace(found, excluded=(*out, replace(out[0], model="line-a"))))


def test_a_rollback_gives_a_moved_device_what_its_new_label_had_before(fleet: Fleet) -> None:
    complete(fleet)
    for route in ("a", "b"):
        register_member(fleet, route, 2)
    release = build_family_browser(fleet).view(LINES).to_approve()
    build_approver(fleet, actor="ann").approve_release(release, slot=SLOT)
    number = complete(fleet)
    assert wanted(fleet)["cam-0"] == "line-a/2/camera.tar"
    build_device_desk(fleet, actor="ann").label("cam-0", {"line": "B"})
    build_runner(fleet).run_once()
    let_devices_confirm(fleet)
    build_runner(fleet).run_once()
    assert wanted(fleet)["cam-0"] == "line-b/2/camera.tar"
    build_rollout_desk(fleet, actor="ann").roll_back(number, "noise at night")
    build_runner(fleet).run_once()
    assert wanted(fleet)["cam-0"] == B
