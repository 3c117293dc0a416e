"""The controller and what devices found in shadow, over a real control database."""

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlmodel import col

from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import DesiredRow, ModelRow
from fleet_server.cli.rollout_views import list_shadows, render_line, render_watch
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.shadow_limits import DisagreementTest
from fleet_server.errors import MisuseError
from fleet_server.services.plan_rollout import PlanRequest
from tests.support.rollout_database import DatabaseFleet
from tests.support.rollouts import NEW, OLD, fleet

SHADOW = ShadowPolicy(duration_s=30, rows_min=200, timeout_s=900)
LIMITS = DisagreementTest()


def asked_shadows(world: DatabaseFleet) -> list[str]:
    with read_session(world.engine) as session:
        query = sa.select(col(DesiredRow.shadow)).where(col(DesiredRow.target) == NEW)
        return list(session.scalars(query))


def test_the_controller_stops_a_candidate_in_shadow_and_stores_why(tmp_path: Path) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(12, differs=30))
    number = world.start("50%,100%", shadow=SHADOW, disagreement=LIMITS)
    seen: set[str] = set()
    for _ in range(20):
        world.tick()
        view = world.reader.show(number)
        if "shadow" in world.outcomes(number):
            seen.add(render_line(view))
            assert "in shadow" in "\n".join(render_watch(view, width=100, is_plain=True))
            assert {'"held": true' in text for text in asked_shadows(world)} == {True}
        assert all(d.slot.running_target == OLD for d in world.devices.values())
        if view.rollout.finished_at is not None:
            break
    view = world.reader.show(number)
    assert view.rollout.state is RolloutState.ROLLED_BACK
    assert any("5 in shadow" in line for line in seen)
    assert "rows on 5 devices differ: 30 %" in view.rollout.stop_reason
    (line,) = list_shadows(view, 200)
    assert line.startswith("in shadow, stage 1: 150 of 500 rows")
    shown = view.to_json()["stages"][0]["shadow"]
    assert (shown["devices"], shown["rows"], shown["differing"]) == (5, 500, 150)
    (halt,) = [e for e in world.reader.explain(number) if e.decision.verdict == "halt"]
    assert halt.replay is not None
    assert halt.replay.is_same
    assert halt.decision.inputs["shadow"]["counts"]["compared"] == [[100, 30, 5]]


def test_devices_are_let_go_once_their_stage_has_passed(tmp_path: Path) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(4, differs=0))
    number = world.start(shadow=SHADOW, disagreement=LIMITS)
    world.run(number, 40)
    assert world.reader.show(number).rollout.state is RolloutState.COMPLETED
    assert world.outcomes(number) == {"confirmed": 4}
    assert asked_shadows(world) == ["", "", "", ""]
    assert all(d.shadow is not None and d.shadow.rows == 300 for d in world.devices.values())
    assert all(e.replay and e.replay.is_same for e in world.reader.explain(number))


def test_an_undecided_candidate_answers_when_a_person_lets_it(tmp_path: Path) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(1, differs=5))
    number = world.start(shadow=SHADOW, disagreement=LIMITS)
    world.run(number, 9)
    view = world.reader.show(number)
    assert view.rollout.is_undecided
    assert "all are through, the evidence decides neither" in view.rollout.sentence
    assert world.devices[1].slot.running_target == OLD
    world.desk.resume(number, "five per cent is what we wanted")
    world.run(number, 40)
    view = world.reader.show(number)
    assert view.rollout.state is RolloutState.COMPLETED
    assert view.rollout.stages[0].shadow is not None
    assert view.rollout.stages[0].shadow.basis == "operator"


def test_labels_of_a_regression_cannot_be_judged(tmp_path: Path) -> None:
    world = DatabaseFleet(tmp_path / "control.db", fleet(2))
    with write_session(world.engine) as session:
        session.get_one(ModelRow, "m").task = "regression"
    policy = RolloutPolicy(shadow=SHADOW, disagreement=LIMITS)
    request = PlanRequest(model="m", version=2, group="all", stages="100%", policy=policy)
    with pytest.raises(MisuseError, match=r"--disagree-by 0\.01"):
        world.planner.plan(request)
    limits = replace(LIMITS, difference_min=0.01)
    plan = world.planner.plan(replace(request, policy=replace(policy, disagreement=limits)))
    assert plan.devices == 2
