"""A lease on a loop in the control database, with a generation that fences stale writers.

The holder renews it at every turn. A process that was stopped beyond the end of its lease finds,
inside its next write transaction, that the generation has moved on, and writes nothing. The check
is made while the write lock is held, so no take-over fits between it and the commit.
"""

from datetime import datetime

from sqlalchemy import Engine, insert, update
from sqlmodel import Session, col, select

from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import LeaseRow
from fleet_server.errors import BusyError
from fleet_server.ports.clock import Clock
from fleet_server.ports.rollouts import Fence


class LeaseLostError(BusyError):
    """Another process holds the lease by now; nothing was written."""


class DatabaseLease:
    """The ``Lease`` over the control database; every process needs an owner name of its own."""

    def __init__(
        self, engine: Engine, clock: Clock, *, name: str, owner: str, lasts_s: float
    ) -> None:
        self._engine, self._clock = engine, clock
        self._name, self._owner, self._lasts_ms = name, owner, int(lasts_s * 1_000)

    def acquire(self) -> Fence | None:
        """Take or renew the lease; None while another process holds it."""
        with write_session(self._engine) as session:
            now_ms = _epoch_ms(self._clock.now())
            row = session.get(LeaseRow, self._name)
            if row is None:
                session.execute(insert(LeaseRow), [{"name": self._name}])
                row = session.get_one(LeaseRow, self._name)
            if row.owner != self._owner:
                if row.owner and now_ms < row.until_ms:
                    return None
                row.owner, row.generation = self._owner, row.generation + 1
            row.until_ms = now_ms + self._lasts_ms
            session.add(row)
            return Fence(name=self._name, owner=self._owner, generation=row.generation)

    def release(self) -> None:
        """Give it up, so that the next process need not wait."""
        with write_session(self._engine) as session:
            session.execute(
                update(LeaseRow)
                .where(col(LeaseRow.name) == self._name, col(LeaseRow.owner) == self._owner)
                .values(until_ms=0)
            )


def check_fence(session: Session, fence: Fence) -> None:
    """Make sure, under the write lock, that the lease is still held.

    Raises:
        LeaseLostError: It is not.
    """
    query = select(LeaseRow.generation, LeaseRow.owner).where(col(LeaseRow.name) == fence.name)
    held = session.exec(query).first()
    if held is None or held != (fence.generation, fence.owner):
        raise LeaseLostError(
            f"the lease {fence.name} went from {fence.owner} (generation {fence.generation}) to"
            f" {held[1] if held else 'nobody'}; nothing was written"
        )


def _epoch_ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1_000)
