"""A family goes out as one: each device takes the member that its label names."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import Session, select
from typer.testing import CliRunner

from fleet_server.adapters.database.engine import write_session
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
from fleet_server.cli.rollout import app
from fleet_server.core.rollout_limits import GatePolicy, RolloutPolicy
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.services.add_device import DeviceSpec
from fleet_server.services.plan_rollout import PlanRequest, RolloutPlan
from fleet_server.wiring.devices import build_device_desk
from fleet_server.wiring.rollouts import (
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


def plan(fleet: Fleet, *, is_only_better: bool = False, by: str = "line") -> RolloutPlan:
    request = PlanRequest(
        model=LINES,
        version=0,
        group="all",
        stages="100%",
        policy=RolloutPolicy(gate=GatePolicy(soak_s=0)),
        labels={"route": by},
        is_only_better=is_only_better,
    )
    return build_planner(fleet, actor="ann").plan(request)


def wanted(fleet: Fleet) -> dict[str, str]:
    with Session(fleet.engine) as session:
        rows = session.exec(
            select(DeviceRow.id, DesiredRow.target).where(DeviceRow.number == DesiredRow.device)
        )
        return dict(rows.all())


def let_devices_confirm(fleet: Fleet) -> None:
    """Every device takes what it is given, as their reports would say."""
    with write_session(fleet.engine) as session:
        for desired in session.exec(select(DesiredRow)).all():
            package = session.exec(
                select(ArtifactRow).where(ArtifactRow.target == desired.target)
            ).one()
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
            assignment = session.get_one(AssignmentRow, desired.device)
            assignment.is_stale, assignment.counter = False, assignment.counter + 1
            device = session.get_one(DeviceRow, desired.device)
            device.reported = json.dumps({"assignment_counter": assignment.counter})
            device.last_seen_at = device.reported_at = fleet.clock.now()


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
