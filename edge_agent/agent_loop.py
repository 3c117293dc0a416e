"""The agent's one loop: a tick, at most one input, a word to the supervisor; until told to stop.

The watchdog is fed after a whole turn only. A turn that fails is logged and the next one tried, but
it feeds nothing: an agent that fails in every turn is restarted by its supervisor like one that is
stuck. Requests of people on the device are answered here, between two inputs of the agent.
"""

import logging
import queue
import threading
from typing import Protocol

from edge_agent.adapters.control_socket import ControlRequest
from edge_agent.adapters.service_notifier import ServiceNotifier
from edge_agent.local_control import ControlledAgent, LocalControl

WAIT_S_MIN = 0.001
FAILED_TURN_S = 0.05
"""Pause after a turn that failed; what fails in every turn must not take a whole core."""
_LOG = logging.getLogger(__name__)


class TickedAgent(ControlledAgent, Protocol):
    """What the loop needs of the agent."""

    def tick(self) -> float:
        """Do what is due; return seconds until the next tick."""


class AgentLoop:
    """Turns one agent."""

    def __init__(
        self,
        agent: TickedAgent,
        inbox: "queue.Queue[object]",
        control: LocalControl,
        notifier: ServiceNotifier,
    ) -> None:
        self._agent, self._inbox = agent, inbox
        self._control, self._notifier = control, notifier

    def run(self, stop: threading.Event) -> None:
        """Turn until ``stop`` is set; whoever sets it may wake the loop with None in the inbox."""
        self._notifier.say_ready()
        while not stop.is_set():
            if self._turn():
                self._notifier.beat()
                self._notifier.say_status(self._control.look())
            else:
                stop.wait(FAILED_TURN_S)

    def _turn(self) -> bool:
        """Tick and take one input; tell whether both went well."""
        try:
            wait_s = self._agent.tick()
            item = self._inbox.get(timeout=max(WAIT_S_MIN, wait_s))
        except queue.Empty:
            return True
        except Exception:  # noqa: BLE001 - a door: the supervisor decides when it is too much
            _LOG.exception("the agent could not do what is due; it goes on")
            return False
        return self._take(item)

    def _take(self, item: object) -> bool:
        try:
            if isinstance(item, ControlRequest):
                item.answer(self._control.answer(item.words))
            else:
                self._control.note(item)
                self._agent.handle(item)
        except Exception:  # noqa: BLE001 - a door: one bad input must not end the agent
            _LOG.exception("the agent could not deal with an input; it goes on")
            return False
        return True
