"""Jobs of simulated devices: what is slow goes to one worker thread, the rest waits for its turn.

One worker and one loop for all devices: a job is carried out after those submitted before it,
which keeps the order within a device's lane that the agent relies on.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from edge_agent.ports import Lane

_SLOW = frozenset({Lane.TRUST, Lane.TEST})
_LOG = logging.getLogger(__name__)


class LoopJobs:
    """Jobs of one device; ``give`` takes results in the loop's thread."""

    def __init__(self, give: Callable[[object], None], worker: Executor) -> None:
        self._give, self._worker = give, worker
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    def close(self) -> None:
        """Take no more jobs: the simulation ends, as a power cut ends a device."""
        self._is_closed = True

    def submit(self, lane: Lane, job: Callable[[], object]) -> None:
        """Run the job after those submitted to the same lane before."""
        if self._is_closed:
            return
        if lane in _SLOW:
            self._worker.submit(self._run_slow, job)
        else:
            self._loop.call_soon(self._run, job)

    def _run_slow(self, job: Callable[[], object]) -> None:
        try:
            result = job()
            self._loop.call_soon_threadsafe(self._hand_over, result)
        except Exception:  # noqa: BLE001 - a door: the phase's deadline deals with it
            _LOG.exception("a job of a simulated device failed")

    def _run(self, job: Callable[[], object]) -> None:
        try:
            result = job()
        except Exception:  # noqa: BLE001 - a door: the phase's deadline deals with it
            _LOG.exception("a job of a simulated device failed")
        else:
            self._hand_over(result)

    def _hand_over(self, result: object) -> None:
        if result is not None:
            self._give(result)
