"""The agent's shell brings a candidate through its shadow: real core and disk, a played world."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotReport
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.contract.shadow import ShadowPolicy, ShadowState
from edge_agent.ports import Lane
from tests.support.agent import GOOD_STATS, ChunkServer, a_package
from tests.support.agent_world import SLOT, World

SHADOW = ShadowPolicy(duration_s=30, rows_min=100, timeout_s=600)
ONE, TWO = a_package("one"), a_package("two")
SHA = {blob: ChunkServer(blob).sha256 for blob in (ONE, TWO)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.connect()
    world.assign(ONE, 1)
    world.run(65)
    assert world.slot().phase is Phase.CONFIRMED
    world.assign(TWO, 2, shadow=SHADOW)
    world.work()
    return world


def said(world: World) -> SlotReport:
    return world.reports[-1].slots[SLOT]


def test_a_candidate_is_compared_then_answers_then_is_confirmed(world: World) -> None:
    order = world.shadows.orders[SLOT]
    assert (order.package.sha256, order.beside.sha256) == (SHA[TWO], SHA[ONE])
    assert order.policy == SHADOW
    world.run(2)
    assert said(world).state is Phase.SHADOWING
    world.run(27)
    assert world.inference.served == {SLOT: SHA[ONE]}
    world.run(5)
    assert world.shadows.orders == {}
    assert world.inference.served == {SLOT: SHA[TWO]}
    assert said(world).state is Phase.PROBATION
    world.run(65)
    found = said(world)
    assert found.state is Phase.CONFIRMED
    assert found.shadow is not None
    assert (found.shadow.state, found.shadow.rows) == (ShadowState.OVER, 200)


def test_a_shadow_that_crashes_fails_the_update_and_nothing_else(world: World) -> None:
    world.run(2)
    world.shadows.code = Code.SHADOW_CRASH
    world.run(3)
    assert (said(world).state, said(world).code) == (Phase.FAILED, "shadow-crash")
    assert world.inference.activated == [SHA[ONE]]
    assert world.shadows.orders == {}
    assert not (world.directory / "blobs" / SHA[TWO]).exists()


def test_a_power_cut_begins_the_comparing_anew(world: World) -> None:
    world.run(20)
    world.cut_power()
    world.connect()
    world.work()
    assert world.inference.served == {SLOT: SHA[ONE]}
    assert SLOT in world.shadows.orders
    world.run(25)
    assert world.slot().phase is Phase.SHADOWING
    world.run(10)
    assert world.slot().phase is Phase.PROBATION


def test_counts_that_grow_cause_a_report_only_as_they_double(world: World) -> None:
    world.run(5)
    before = len(world.reports)
    for rows in range(20, 90, 10):
        world.shadows.rows = rows
        world.run(2)
    assert len(world.reports) - before == 3  # 20, 40 and 80 rows


def test_comparing_is_begun_in_the_order_of_loading(world: World) -> None:
    """What stops a shadow runs before what lets the candidate answer."""
    world.inference.stats = replace(GOOD_STATS)
    world.run(29)
    lanes: list[Lane] = []
    submit = world.jobs.submit

    def note(lane: Lane, job: object) -> None:
        lanes.append(lane)
        submit(lane, job)  # type: ignore[arg-type]  # as it came

    world.jobs.submit = note  # type: ignore[method-assign]  # to look at the order
    world.run(5)
    assert lanes[:2] == [Lane.SERVE, Lane.SERVE]
