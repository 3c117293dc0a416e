"""Kill the agent at every file-system call of an update, start it again, reach a good state.

The calls are those of ``adapters/files.py``, the one module with file effects. At each the agent
dies before it or after it; half of a write may be on disk. Before any repair the state must be
readable and what it confirms must be whole; afterwards the update must come to its end.

Deaths are played and files are in memory: hundreds of lives would wait for the disk otherwise.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.state_store import FileStateStore
from edge_agent.commits import restore_state
from edge_agent.contract.messages import SlotState
from edge_agent.contract.topics import Channel
from tests.support.agent import ChunkServer, a_package
from tests.support.agent_world import World
from tests.support.dying_calls import Killed, Killer, killing
from tests.support.power_cut_search import ram_directory

V1, V2 = a_package("one"), a_package("two", padding=300_000)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with ram_directory() as root:
        yield root


def prepare(directory: Path) -> World:
    world = World(directory)
    world.connect()
    world.assign(V1, 1)
    world.run(65, step_s=5)
    return world


def update(world: World) -> None:
    world.assign(V2, 2)
    world.run(65, step_s=5)


def check_boots(directory: Path) -> None:
    """What a power cut returns to is whole, before anything is repaired."""
    slot = restore_state(FileStateStore(directory)).slots["plant"]
    confirmed = slot.banks.confirmed_package
    assert confirmed is not None
    data = (directory / "blobs" / confirmed.sha256).read_bytes()
    assert ChunkServer(data).sha256 == confirmed.sha256
    assert data in (V1, V2)


def test_count_of_calls_is_what_the_loop_below_covers(tmp_path: Path) -> None:
    world, killer = prepare(tmp_path), Killer(None)
    with killing(killer):
        update(world)
    assert world.slot().phase is SlotState.CONFIRMED
    assert 60 <= killer.count <= 250, killer.count


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_file_system_call_leaves_a_way_on(tmp_path: Path, after: bool) -> None:
    at, was_killed = 0, True
    while was_killed:
        at += 1
        directory = tmp_path / str(at)
        world = prepare(directory)
        envelope = world.offer(V2, 2)
        was_killed = False
        with killing(Killer(at, after=after)):
            try:
                world.send_metadata()
                world.say(Channel.DESIRED, envelope)
                world.run(65, step_s=5)
            except Killed:
                was_killed = True
        check_boots(directory)
        world.cut_power()
        world.run(2)
        assert world.inference.served, f"nothing answers after a kill at call {at}"
        world.connect()
        world.send_metadata()
        world.say(Channel.DESIRED, envelope)
        world.run(80, step_s=5)
        assert world.slot().phase is SlotState.CONFIRMED, f"stuck after a kill at call {at}"
        assert world.inference.served == {"plant": ChunkServer(V2).sha256}
        assert world.slot().bad == ()
    assert at > 60


def test_a_cut_after_every_commit_before_its_effects_leaves_a_way_on(tmp_path: Path) -> None:
    """The other order of loss: the state is on disk, nothing it asked for has begun."""
    for commits in range(1, 12):
        directory = tmp_path / str(commits)
        world = prepare(directory)
        left = [commits]
        save = world.store.save

        def save_and_die(state: Any, *, left: list[int] = left, save: Any = save) -> None:
            save(state)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        world.store.save = save_and_die  # type: ignore[method-assign]
        envelope = world.offer(V2, 2)
        try:
            world.send_metadata()
            world.say(Channel.DESIRED, envelope)
            world.run(65, step_s=5)
        except Killed:
            pass
        check_boots(directory)
        world.cut_power()
        world.connect()
        world.send_metadata()
        world.say(Channel.DESIRED, envelope)
        world.run(80, step_s=5)
        assert world.slot().phase is SlotState.CONFIRMED, f"stuck after commit {commits}"
        if left[0] > 0:
            return
    raise AssertionError("an update takes more commits than this test tries")
