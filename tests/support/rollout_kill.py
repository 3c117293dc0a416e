"""A controller that is killed: run as ``python -m tests.support.rollout_kill DB BEHAVIOUR SEED``.

One thread only, so that it may fork. Each look runs in a child that SIGKILLs itself at the n-th
call that reaches the database, n drawn anew each time; the parent lets the devices act between and
checks after every death that what is stored hangs together. Prints one JSON line at the end.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlmodel import col

from fleet_server.adapters.database.engine import open_engine, read_session
from fleet_server.adapters.database.rollout_book import RolloutBooks
from fleet_server.adapters.database.tables import DesiredRow, RolloutDeviceRow, RolloutRow
from fleet_server.ports.rollouts import Book, Fence
from fleet_server.services.run_rollouts import RolloutRunner
from tests.support.rollout_database import DatabaseFleet
from tests.support.rollouts import NEW, FakeDevice

CALLS_MAX = 80
LOOKS_MAX = 120


class DyingBooks:
    """Books over an engine of this process that kills it at the n-th statement."""

    def __init__(self, path: Path, dies_at: int) -> None:
        self._left = dies_at
        engine = open_engine(path)
        for name in ("before_cursor_execute", "after_cursor_execute"):
            event.listen(engine, name, self._count)
        event.listen(engine, "commit", self._count)
        self._books = RolloutBooks(engine)

    def _count(self, *_: Any, **__: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def reading(self) -> Iterator[Book]:
        with self._books.reading() as book:
            yield book

    @contextmanager
    def writing(self, fence: Fence | None = None) -> Iterator[Book]:
        with self._books.writing(fence) as book:
            yield book
        self._count()


def look_and_die(world: DatabaseFleet, dies_at: int) -> bool:
    """Look once in a child; tell whether it died of it."""
    pid = os.fork()
    if pid == 0:
        runner = RolloutRunner(
            books=DyingBooks(world.path, dies_at),
            make_assigner=world.make_assigner,
            profiles=world.profiles,
            clock=world.clock,
        )
        runner.run_once()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def check_stored(world: DatabaseFleet) -> None:
    """Rows, desired slots and the rollout's state were written together or not at all."""
    with read_session(world.engine) as session:
        (rollout,) = session.scalars(sa.select(RolloutRow)).all()
        rows = {row.device: row for row in session.scalars(sa.select(RolloutDeviceRow))}
        desired = {row.device: row for row in session.scalars(sa.select(DesiredRow))}
    for device, row in rows.items():
        slot = desired.get(device)
        is_held = slot is not None and slot.rollout == rollout.id
        if is_held:
            assert slot is not None
            assert slot.target == NEW, device
            assert row.offered_at is not None, f"{device} was offered without a row"
            assert row.stage <= rollout.stage, f"{device} was offered before its stage"
        elif row.outcome in ("offered", "fetching", "testing", "probation", "confirmed"):
            raise AssertionError(f"{device} is {row.outcome} but its slot is not held")
    champion = world.champion()
    assert (champion == 2) == (rollout.state == "completed"), (champion, rollout.state)


def main(path: Path, behaviour: str, seed: int) -> dict[str, Any]:
    """Run one rollout to its end through many deaths."""
    rng = random.Random(seed)
    codes = {"good": "", "bad": "selftest-golden", "mixed": "probation-errors"}
    devices = [
        FakeDevice(number=k, fails_with=codes[behaviour] if behaviour != "mixed" or k % 3 else "")
        for k in range(1, 19)
    ]
    world = DatabaseFleet(path, devices)
    number = world.start("20%,100%", in_flight_max=18)
    deaths = 0
    for _ in range(LOOKS_MAX):
        world.act()
        world.engine.dispose()
        died = look_and_die(world, rng.randint(1, CALLS_MAX))
        deaths += died
        check_stored(world)
        world.engine.dispose()
        if world.reader.show(number).rollout.finished_at is not None:
            break
    world.tick()
    view = world.reader.show(number)
    with read_session(world.engine) as session:
        stage_acts = session.scalar(
            sa.select(sa.func.count())
            .select_from(RolloutDeviceRow)
            .where(col(RolloutDeviceRow.tries) > 1)
        )
    return {
        "seed": seed,
        "state": str(view.rollout.state),
        "outcomes": world.outcomes(number),
        "deaths": deaths,
        "offered_twice": stage_acts,
        "acts": world.acts(),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
