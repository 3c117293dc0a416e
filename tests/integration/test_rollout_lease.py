"""The controller's lease: one holder, and no stale write after a take-over."""

from pathlib import Path

import pytest

from fleet_server.adapters.database.lease import LeaseLostError
from tests.support.rollout_database import DatabaseFleet
from tests.support.rollouts import OLD, fleet


@pytest.fixture
def world(tmp_path: Path) -> DatabaseFleet:
    return DatabaseFleet(tmp_path / "control.db", fleet(3))


def test_one_holds_it_and_renews_it_at_the_same_generation(world: DatabaseFleet) -> None:
    ann, bob = world.lease("ann"), world.lease("bob")
    first = ann.acquire()
    assert first is not None
    assert bob.acquire() is None
    world.clock.advance(5.999)
    assert bob.acquire() is None
    assert ann.acquire() == first
    world.clock.advance(5.999)
    assert bob.acquire() is None


def test_another_takes_over_when_it_has_run_out_or_was_given_up(world: DatabaseFleet) -> None:
    ann, bob = world.lease("ann"), world.lease("bob")
    first = ann.acquire()
    world.clock.advance(6)
    second = bob.acquire()
    assert first is not None
    assert second is not None
    assert second.generation == first.generation + 1
    ann.release()
    assert ann.acquire() is None
    bob.release()
    third = ann.acquire()
    assert third is not None
    assert third.generation == second.generation + 1


def test_a_holder_that_slept_through_a_take_over_writes_nothing(world: DatabaseFleet) -> None:
    rollout = world.start(in_flight_max=9)
    ann, bob = world.lease("ann"), world.lease("bob")
    stale = ann.acquire()
    world.clock.advance(6)
    fresh = bob.acquire()
    assert stale is not None
    with pytest.raises(LeaseLostError, match=r"went from ann \(generation 1\) to bob"):
        world.runner.run_once(stale)
    assert set(world.desired().values()) == {(OLD, 0)}
    assert world.outcomes(rollout) == {"pending": 3}
    assert world.runner.run_once(fresh).offers == 3


def test_even_the_same_owner_needs_the_newest_generation(world: DatabaseFleet) -> None:
    world.start()
    ann, bob = world.lease("ann"), world.lease("bob")
    stale = ann.acquire()
    ann.release()
    bob.acquire()
    bob.release()
    assert ann.acquire() is not None
    with pytest.raises(LeaseLostError):
        world.runner.run_once(stale)
