"""Runs the agent's slow work in one thread a lane; results go to the loop's inbox."""

import logging
import queue
import threading
from collections.abc import Callable

from edge_agent.ports import Lane

JOIN_S = 3.0
_LOG = logging.getLogger(__name__)
_Job = Callable[[], object]


class ThreadLanes:
    """Jobs over threads. Bounded by its callers: a slot has at most one job of a kind at work."""

    def __init__(self, give: Callable[[object], None]) -> None:
        """Begin; ``give`` takes what a job returned, called from the lane's thread."""
        self._give = give
        self._queues: dict[Lane, queue.SimpleQueue[_Job | None]] = {}
        self._threads: list[threading.Thread] = []
        for lane in Lane:
            jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._run, args=(jobs,), name=f"lane-{lane}", daemon=True
            )
            self._queues[lane] = jobs
            self._threads.append(thread)
            thread.start()

    def submit(self, lane: Lane, job: _Job) -> None:
        """Run the job after those submitted to the same lane before."""
        self._queues[lane].put(job)

    def stop(self) -> None:
        """End after the jobs at work; waits a few seconds at most."""
        for jobs in self._queues.values():
            jobs.put(None)
        for thread in self._threads:
            thread.join(JOIN_S)

    def _run(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            try:
                result = job()
            except Exception:  # noqa: BLE001 - a door: the phase's deadline deals with it
                _LOG.exception("a job of the agent failed")
            else:
                self._give(result)
