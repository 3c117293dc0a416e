"""Where models answer: in a process of their own, or in the agent's, as the device profile says.

In the agent's process a model that crashes, hangs or leaks takes the agent with it. So self-test,
shadow and probation are in a child either way (``serving_places.py``), and the runtime is not
loaded here before a child has survived it.
"""

import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from device_profiles.profile import Serving as Place
from edge_agent.adapters.capability_probe import ChildProbe
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.worker_service import COMMAND, WorkerInferenceService
from edge_agent.agent_jobs import SlotEvent
from edge_agent.core.agent_state import AgentState
from edge_agent.core.worker_health import WorkerLimits
from edge_agent.ports import BlobStore, Clock, InferenceService
from edge_agent.serving_config import ServingConfig
from edge_agent.shadow_port import ShadowService

PLAIN_COMMAND = (sys.executable, "-m", "edge_agent.serving_worker_plain")
"""Without TLS the process that serves needs none."""
_LOG = logging.getLogger(__name__)


class ServingHost(Protocol):
    """What answers, started and stopped once."""

    place: Place
    """Where models answer, whatever the profile asks for."""

    @property
    def inference(self) -> InferenceService:
        """The slots."""

    @property
    def shadows(self) -> ShadowService:
        """Compares candidates with what answers."""

    @property
    def close_due(self) -> Callable[[], None] | None:
        """Puts closed windows into the outbox; None when that is done elsewhere."""

    @property
    def worker_pid(self) -> int | None:
        """Process that answers; None while there is none, or when this one does."""

    def start(self) -> None:
        """Begin to answer."""

    def stop(self) -> None:
        """Answer what was begun, write down what was counted, end."""


def make_serving_host(
    config: ServingConfig,
    sockets: Sequence[socket.socket],
    blobs: BlobStore,
    outbox: Outbox,
    *,
    clock: Clock,
    give: Callable[[object], None],
    find_state: Callable[[], AgentState],
) -> ServingHost:
    """Build what answers; nothing does yet.

    Args:
        config: How to answer.
        sockets: Listen already.
        blobs: Where packages lie.
        outbox: Takes windows when models answer in this process.
        clock: Of this process.
        give: Takes inputs of the agent.
        find_state: Gives what the agent is committed to; called once it runs.
    """

    def make_worker(config: ServingConfig) -> WorkerInferenceService:
        return WorkerInferenceService(
            config.to_json(),
            sockets,
            blobs,
            clock=clock,
            limits=WorkerLimits(rss_bytes_max=config.profile.rss_bytes_max),
            tell=lambda slot, event: give(SlotEvent(slot, event)),
            note=give,
            command=COMMAND if config.settings.http_certificate_file else PLAIN_COMMAND,
        )

    if config.profile.serving is Place.IN_PROCESS:
        fault = ChildProbe(config.directory).probe().get("runtime_fault")
        if fault is None:
            from edge_agent.adapters.lean import limit_arenas
            from edge_agent.serving_places import TwoPlaces, find_standing  # loads numpy

            limit_arenas()
            return TwoPlaces(
                config,
                sockets,
                blobs,
                outbox,
                clock=clock,
                give=give,
                look=lambda: find_standing(find_state()),
                make_worker=make_worker,
            )
        _LOG.error(
            "models answer in a process of their own: the runtime does not come up: %s", fault
        )
    return _InWorker(make_worker(config), sockets)


class _InWorker:
    place = Place.WORKER

    def __init__(self, service: WorkerInferenceService, sockets: Sequence[socket.socket]) -> None:
        self._service, self._sockets = service, sockets

    @property
    def inference(self) -> InferenceService:
        return self._service

    @property
    def shadows(self) -> ShadowService:
        return self._service.shadows

    @property
    def close_due(self) -> None:
        return None

    @property
    def worker_pid(self) -> int | None:
        return self._service.pid

    def start(self) -> None:
        self._service.start()

    def stop(self) -> None:
        self._service.close()
        for each in self._sockets:
            each.close()
