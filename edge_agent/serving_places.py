"""Models answer in the agent's own process, and candidates on trial in a child.

While any slot is in probation or is compared in the shadow, a worker process answers for all
slots: what a candidate does to the process it runs in never ends the agent. When every slot
answers with its confirmed package again, they move back in and the worker ends.

No request is lost at a move: both sides take connections from the same listening sockets, and the
side that leaves answers what its connections still ask, tells them to close, and only then ends.

Left out: who is on trial (the agent's state), and the worker's life (``worker_service.py``).
Invariants: a package whose probation has not ended well is never loaded into this process; calls
of the agent and moves exclude each other; every side marks windows with a boot id of its own.
"""

import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from device_profiles.profile import Serving as Place
from edge_agent.adapters.lean import give_back
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.worker_service import BOOT_BITS, WorkerInferenceService
from edge_agent.agent_jobs import SlotEvent
from edge_agent.contract.messages import SlotState
from edge_agent.core.agent_state import AgentState
from edge_agent.core.events import Answering
from edge_agent.core.probation import ProbationStats
from edge_agent.errors import AgentError
from edge_agent.ports import BlobStore, Clock, InferenceService
from edge_agent.serving import Serving
from edge_agent.serving_config import ServingConfig
from edge_agent.shadow_port import NoShadows, ShadowOrder, ShadowService, ShadowSight

WATCH_S = 0.5
AGAIN_S = 60.0
"""After a move back that did not work."""
DRAIN_S = 2.0
"""A connection that asks nothing for so long is closed while it is idle."""
ON_TRIAL = frozenset({SlotState.PROBATION, SlotState.SHADOWING})
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the agent's state says of its slots.

    Attributes:
        on_trial: Slots with a candidate that answers or is compared.
        confirmed: sha256 of the confirmed package of each slot that has one.
    """

    on_trial: frozenset[str]
    confirmed: Mapping[str, str]


def find_standing(state: AgentState) -> Standing:
    """Read what decides where models answer; of an immutable state, so from any thread."""
    packages = {name: slot.banks.confirmed_package for name, slot in state.slots.items()}
    return Standing(
        frozenset(name for name, slot in state.slots.items() if slot.phase in ON_TRIAL),
        {name: package.sha256 for name, package in packages.items() if package is not None},
    )


class TwoPlaces:
    """Serves here, or in a worker while somebody is on trial."""

    place = Place.IN_PROCESS

    def __init__(
        self,
        config: ServingConfig,
        sockets: Sequence[socket.socket],
        blobs: BlobStore,
        outbox: Outbox,
        *,
        clock: Clock,
        give: Callable[[object], None],
        look: Callable[[], Standing],
        make_worker: Callable[[ServingConfig], WorkerInferenceService],
    ) -> None:
        """Prepare; ``start`` begins to answer, here.

        Args:
            config: How to answer.
            sockets: Listen; kept open over every move.
            blobs: Where packages lie.
            outbox: Takes windows while models answer here.
            clock: For windows and events.
            give: Takes inputs of the agent.
            look: Gives what the agent is committed to.
            make_worker: Makes the other side, on the same sockets.
        """
        self._config, self._sockets, self._blobs = config, tuple(sockets), blobs
        self._outbox, self._clock, self._give = outbox, clock, give
        self._look, self._make_worker = look, make_worker
        self._moving = threading.Lock()
        self._wanted: dict[str, tuple[str, str]] = {}
        self._stopped: dict[str, str] = {}
        self._inside: Serving | None = self._build(config)
        self._worker: WorkerInferenceService | None = None
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None
        self._shadows = _Shadows(self)

    @property
    def inference(self) -> "TwoPlaces":
        """The slots."""
        return self

    @property
    def shadows(self) -> ShadowService:
        """Compares candidates with what answers, in the worker."""
        return self._shadows

    @property
    def worker(self) -> WorkerInferenceService | None:
        """The other side; None while models answer here."""
        return self._worker

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker; None while models answer here."""
        worker = self._worker
        return worker.pid if worker is not None else None

    def start(self) -> None:
        """Begin to answer."""
        if self._inside is not None:
            self._inside.start()

    def stop(self) -> None:
        """Answer what was begun, write down what was counted, end."""
        self._closing.set()
        with self._moving:
            watcher = self._watcher
        if watcher is not None:
            watcher.join()
        if self._inside is not None:
            self._inside.stop()
        if self._worker is not None:
            self._worker.close()
        for each in self._sockets:
            each.close()

    def close_due(self) -> None:
        """Put closed windows into the outbox; the worker does so by itself."""
        inside = self._inside
        if inside is not None:
            inside.service.close_due()

    # Called by the agent ------------------------------------------------------------------------

    def activate(self, slot: str, *, blob: bytes, target: str, sha256: str) -> None:
        """Let a package answer, in the worker while the slot is on trial; raises PackageError."""
        with self._moving:
            if slot in self._look().on_trial:
                self.move_out()
            self._now.activate(slot, blob=blob, target=target, sha256=sha256)
            self._wanted[slot] = (target, sha256)
            self._stopped.pop(slot, None)
            if self._worker is None:
                give_back()

    def deactivate(self, slot: str, *, reason: str = "") -> None:
        """Stop answering on a slot."""
        with self._moving:
            self._now.deactivate(slot, reason=reason)
            self._wanted.pop(slot, None)
            self._stopped[slot] = reason

    def probation_stats(self, slot: str) -> ProbationStats:
        """Return what the slot answered since ``reset_stats``."""
        worker = self._worker
        return worker.probation_stats(slot) if worker is not None else ProbationStats()

    def reset_stats(self, slot: str) -> None:
        """Begin counting anew."""
        worker = self._worker
        if worker is not None:
            worker.reset_stats(slot)

    def start_shadow(self, slot: str, order: ShadowOrder) -> None:
        """Compare a candidate, in the worker."""
        with self._moving:
            self.move_out().shadows.start(slot, order)

    # Moves --------------------------------------------------------------------------------------

    @property
    def _now(self) -> InferenceService:
        if self._worker is not None:
            return self._worker
        assert self._inside is not None  # noqa: S101 - one of the two answers
        return self._inside.service

    def move_out(self) -> WorkerInferenceService:
        """Let a worker answer what is answered here; the lock is held; raises PackageError."""
        if self._worker is not None:
            return self._worker
        worker = self._make_worker(self._next_life())
        for slot, reason in self._stopped.items():
            worker.deactivate(slot, reason=reason)
        worker.start()
        try:
            for slot, (target, sha256) in self._wanted.items():
                worker.activate(slot, blob=b"", target=target, sha256=sha256)
        except AgentError:
            worker.close()
            raise
        inside, self._inside, self._worker = self._inside, None, worker
        if inside is not None:
            inside.stop(drain_s=DRAIN_S)
        give_back()
        _LOG.info("a candidate is on trial: models answer in process %s", worker.pid)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="places", daemon=True)
            self._watcher.start()
        return worker

    def _watch(self) -> None:
        """Move back once nobody is on trial; ends then."""
        wait_s = WATCH_S
        while not self._closing.wait(wait_s):
            with self._moving:
                if not self._may_move_in():
                    wait_s = WATCH_S
                    continue
                try:
                    self._move_in()
                except (AgentError, OSError, MemoryError):  # both sides hold models for a moment
                    _LOG.exception("models stay in a process of their own for now")
                    wait_s = AGAIN_S
                    continue
                self._watcher = None
                return

    def _may_move_in(self) -> bool:
        standing = self._look()
        return not standing.on_trial and all(
            standing.confirmed.get(slot) == sha256 for slot, (_, sha256) in self._wanted.items()
        )

    def _move_in(self) -> None:
        inside, worker = self._build(self._next_life()), self._worker
        try:
            for slot, reason in self._stopped.items():
                inside.service.deactivate(slot, reason=reason)
            for slot, (target, sha256) in self._wanted.items():
                blob = self._blobs.read(sha256)
                inside.service.activate(slot, blob=blob, target=target, sha256=sha256)
            inside.start()
        except BaseException:
            inside.stop()
            raise
        self._inside, self._worker = inside, None
        if worker is not None:
            worker.close(drain_s=DRAIN_S)
        give_back()
        _LOG.info("nobody is on trial: models answer in the agent's process")
        now = self._clock.monotonic()
        for slot, (target, sha256) in self._wanted.items():
            self._give(SlotEvent(slot, Answering(target, sha256, now)))

    def _next_life(self) -> ServingConfig:
        """Windows and answers of two lives never have the same name."""
        return replace(self._config, boot=secrets.randbits(BOOT_BITS))

    def _build(self, config: ServingConfig) -> Serving:
        return Serving(
            config,
            [each.dup() for each in self._sockets],
            clock=self._clock,
            outbox=self._outbox,
        )


class _Shadows:
    """Comparing is for the worker."""

    def __init__(self, places: TwoPlaces) -> None:
        self._places, self._refused = places, NoShadows()

    def start(self, slot: str, order: ShadowOrder) -> None:
        """Compare a package, which answers nothing, with what answers."""
        self._refused.stop(slot)
        try:
            self._places.start_shadow(slot, order)
        except AgentError as error:
            _LOG.warning("slot %s gets no shadow: %s", slot, error)
            self._refused.start(slot, order)

    def stop(self, slot: str) -> None:
        """Compare no more."""
        self._refused.stop(slot)
        worker = self._places.worker
        if worker is not None:
            worker.shadows.stop(slot)

    def find(self, slot: str) -> ShadowSight | None:
        """Return how it went a moment ago."""
        worker = self._places.worker
        seen = worker.shadows.find(slot) if worker is not None else None
        return seen or self._refused.find(slot)
