"""The controller's process: rollouts, signing, upkeep of signatures, drift.

Every loop is level-triggered on the database and runs under one lease, so that a controller may be
killed anywhere and a second one waits its turn. A step that fails is said with its traceback,
counted in the heartbeat and tried again at its next time; it never stops the others. Drift has a
thread of its own: a long judgement must not hold up a halt.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from fleet_server.adapters.database.lease import LeaseLostError
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.errors import FleetError
from fleet_server.run_state import beat
from fleet_server.services.run_rollouts import run_rollouts_once
from fleet_server.services.sign_assignments import BATCH
from fleet_server.wiring.devices import build_assignment_desk
from fleet_server.wiring.identity import build_revocation_watch
from fleet_server.wiring.rollouts import build_lease, build_runner
from fleet_server.wiring.trust import build_upkeep
from fleet_server.workers.supervisor import stop_on_signals

if TYPE_CHECKING:
    from fleet_server.ports.rollouts import Fence

NAME = "controller"
BEAT_S = 5.0
UPKEEP_S = 60.0
BATCHES_PER_TURN = 20
JOIN_S_MAX = 8.0
ERROR_CHARS_MAX = 300
LOG = logging.getLogger(__name__)


class Step:
    """Something done now and then, with what it has met so far."""

    def __init__(self, name: str, every_s: float, act: Callable[[], object]) -> None:
        self.name, self.every_s, self._act = name, every_s, act
        self.runs, self.errors, self.last_error, self.lasted_s = 0, 0, "", 0.0
        self._due_s = 0.0

    def do_if_due(self, monotonic: Callable[[], float]) -> None:
        """Do it when its time has come; an error is said and counted.

        Raises:
            LeaseLostError: Another process has taken over.
        """
        began_s = monotonic()
        if began_s < self._due_s:
            return
        self._due_s = began_s + self.every_s
        try:
            self._act()
            self.last_error = ""
        except LeaseLostError:
            raise
        except Exception as error:  # a door: one step must not stop the others
            self.errors += 1
            self.last_error = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
            LOG.exception("%s failed; trying again in %g s", self.name, self.every_s)
        self.runs += 1
        self.lasted_s = monotonic() - began_s

    def describe(self) -> dict[str, Any]:
        """Say for the heartbeat what it has met."""
        said = {"runs": self.runs, "errors": self.errors, "lasted_s": round(self.lasted_s, 3)}
        return {**said, "last_error": self.last_error} if self.last_error else said


class Controller:
    """Everything joined; ``run`` works until it is told to stop."""

    def __init__(self, fleet: Fleet, stop: Event) -> None:
        self._fleet, self._stop = fleet, stop
        config, self._clock = fleet.workspace.config, fleet.clock
        self._lease = build_lease(fleet)
        self._fence: Fence | None = None
        runner = build_runner(fleet, listening_since=self._clock.now())
        desk = build_assignment_desk(fleet)
        self._period_s = config.controller_period_s
        self.steps: tuple[Step, ...] = (
            Step("rollouts", 0.0, lambda: run_rollouts_once(runner, self._fence)),
            Step("sign", 0.0, lambda: _sign_all(desk.sign_stale)),
            Step("upkeep", UPKEEP_S, build_upkeep(fleet)),
            Step("revocations", UPKEEP_S, build_revocation_watch(fleet).look),
        )
        self.drift = Step("drift", config.drift_period_s, _drift_of(fleet))
        self._beat_due_s = 0.0

    @property
    def is_leader(self) -> bool:
        """Whether this process holds the lease."""
        return self._fence is not None

    def run(self) -> None:
        """Work until told to stop, then give the lease up."""
        thread = Thread(target=self._watch_drift, name="drift", daemon=True)
        thread.start()
        try:
            while not self._stop.is_set():
                self.turn()
                self._stop.wait(self._period_s)
        finally:
            self._stop.set()
            thread.join(JOIN_S_MAX)
            self._lease.release()

    def turn(self) -> None:
        """Renew the lease, do what is due, say so."""
        try:
            self._renew()
            if self.is_leader:
                for step in self.steps:
                    step.do_if_due(self._clock.monotonic)
        except LeaseLostError as error:
            self._fence = None
            LOG.warning("%s", error)
        now_s = self._clock.monotonic()
        if now_s >= self._beat_due_s:
            self._beat_due_s = now_s + BEAT_S
            self.say_alive()

    def say_alive(self) -> None:
        """Write the heartbeat."""
        steps = {step.name: step.describe() for step in (*self.steps, self.drift)}
        detail = {"is_leader": self.is_leader, "steps": steps}
        beat(self._fleet.workspace.server_dir, NAME, self._clock, detail)

    def _renew(self) -> None:
        was_leader = self.is_leader
        try:
            self._fence = self._lease.acquire()
        except Exception:  # a door: a busy or missing database is tried again
            self._fence = None
            LOG.exception("the lease could not be renewed")
        if self._fence is None and was_leader:
            LOG.warning("another controller has taken over; waiting")
        elif self._fence is not None and not was_leader:
            LOG.info("leading, generation %d", self._fence.generation)

    def _watch_drift(self) -> None:
        while not self._stop.wait(min(1.0, self.drift.every_s)):
            if self.is_leader:
                self.drift.do_if_due(self._clock.monotonic)


def _sign_all(sign_stale: Callable[[], int]) -> None:
    """Sign in batches until nothing is stale, with a bound a turn."""
    for _ in range(BATCHES_PER_TURN):
        if sign_stale() < BATCH:
            return


def _drift_of(fleet: Fleet) -> Callable[[], object]:
    """Give what judges drift; the numerical libraries are loaded when it first runs."""
    watches: list[Any] = []

    def judge() -> object:
        from fleet_server.services.watch_drift import run_drift_once
        from fleet_server.wiring.drift import build_drift_watch

        if not watches:
            watches.append(build_drift_watch(fleet))
        return run_drift_once(watches[0])

    return judge


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="fleet_server.workers.controller", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = Event()
    stop_on_signals(stop)
    try:
        Controller(open_fleet(parser.parse_args(arguments).workspace), stop).run()
    except FleetError as error:
        sys.exit(f"{NAME}: {error}")


if __name__ == "__main__":
    main()
