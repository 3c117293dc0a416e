"""InferenceService whose models answer in a process of their own.

What is to answer is remembered here, so that a process that takes the place of a lost one answers
the same. The agent hears of a loss at once (``ServingLost``) and, while the next process comes up,
says what is to answer instead of a candidate in probation: the confirmed package, as after any
failed probation. A package whose loading ended the process is left out of the next one.

Left out: keeping the process alive (``worker_supervisor.py``), what it does
(``edge_agent/serving_worker.py``).
Invariants: ``activate`` returns when the package answers; after ``deactivate`` nothing answers on
that slot; every process marks its windows and answers with another boot id.
"""

import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_agent.adapters.chance import random_bits
from edge_agent.adapters.worker_child import WorkerChild
from edge_agent.adapters.worker_shadows import WorkerShadows
from edge_agent.adapters.worker_supervisor import Answer, WorkerLostError, WorkerSupervisor
from edge_agent.contract.codes import Code
from edge_agent.core.events import ActivationFailed, Answering, Event, ServingLost
from edge_agent.core.probation import ProbationStats
from edge_agent.core.worker_health import WorkerFault, WorkerLimits
from edge_agent.errors import PackageError, StorageError
from edge_agent.ports import BlobStore, Clock, ServingFound

COMMAND = (sys.executable, "-m", "edge_agent.serving_worker")
ACTIVATE_S = 90.0
"""Below the agent's own deadline for a package to answer."""
DEACTIVATE_S = 10.0
WISH_S = 5.0
"""Counts of a slot are fetched for so long after somebody asked for them."""
BOOT_BITS = 63
CORRUPT = frozenset({Code.BLOB_HASH, Code.BLOB_SIZE})
_LOG = logging.getLogger(__name__)

Tell = Callable[[str, Event], None]
"""Takes an event of a slot; called from the supervisor's thread."""


class WorkerInferenceService:
    """The slots of one agent; safe to call from any thread."""

    def __init__(
        self,
        config: Mapping[str, Any],
        sockets: Sequence[socket.socket],
        blobs: BlobStore,
        *,
        clock: Clock,
        limits: WorkerLimits,
        tell: Tell,
        note: Callable[[ServingFound], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            config: ``ServingConfig`` as JSON; its boot id is of the first process.
            sockets: Listen; kept open here over every restart.
            blobs: Where packages lie.
            clock: For deadlines and events.
            limits: What the process may cost.
            tell: Takes events of slots.
            note: Takes how serving does, whenever that changes.
            command: Of the process.
        """
        self._config, self._blobs, self._clock = dict(config), blobs, clock
        self._tell, self._note = tell, note
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}
        self._stopped: dict[str, str] = {}
        self._stats = _Stats(clock)
        self._last_fault = ""
        self._supervisor = WorkerSupervisor(
            lambda: WorkerChild(command, sockets), self, limits=limits, clock=clock
        )
        self.shadows = WorkerShadows(self._supervisor.ask)
        """Compares candidates with what answers."""

    def start(self) -> None:
        """Begin to serve."""
        self._supervisor.start()

    def close(self, *, drain_s: float = 0.0) -> None:
        """End the process in good order; what was counted is in the outbox.

        Args:
            drain_s: Clients that stay connected have so long to ask once more.
        """
        self._supervisor.close(drain_s=drain_s)

    @property
    def pid(self) -> int | None:
        """Process id of what serves; None while there is none."""
        return self._supervisor.pid

    # Called by the agent ------------------------------------------------------------------------

    def activate(self, slot: str, *, blob: bytes, target: str, sha256: str) -> None:  # noqa: ARG002 - the worker reads and hashes the file itself
        """Let a package answer; the former one answers until this one is ready.

        Raises:
            PackageError: It cannot be loaded, or ended the process; the former is to answer.
        """
        done: Future[None] = Future()
        with self._lock:
            former = self._wanted.get(slot)
            wanted = _Wanted(target, sha256, former, done)
            self._wanted[slot] = wanted
            self._stopped.pop(slot, None)
            asked = self._supervisor.ask("activate", **self._describe(slot, wanted))
        if asked is None:
            self._supervisor.wake()  # a package that may be the cure need not wait
        else:
            asked.add_done_callback(lambda answer: self._on_activated(slot, wanted, answer))
        try:
            done.result(ACTIVATE_S)
        except FutureTimeoutError as error:
            fault = WorkerFault(
                Code.PROBATION_HANG, f"{target} did not answer within {ACTIVATE_S:.0f} s"
            )
            with self._lock:
                self._go_back(slot, wanted)
            self._supervisor.give_up(fault)
            raise PackageError(fault.code, fault.detail) from error

    def deactivate(self, slot: str, *, reason: str = "") -> None:
        """Let nothing answer on a slot, and say why to whoever asks it."""
        with self._lock:
            self._wanted.pop(slot, None)
            self._stopped[slot] = reason
            asked = self._supervisor.ask("deactivate", slot=slot, reason=reason)
        if asked is None:
            return
        try:
            asked.result(DEACTIVATE_S)
        except WorkerLostError:
            _LOG.info("slot %s is not taken up by the next process", slot)
        except FutureTimeoutError:
            detail = f"the process that serves did not let go of slot {slot}"
            self._supervisor.give_up(WorkerFault(Code.PROBATION_HANG, detail))

    def probation_stats(self, slot: str) -> ProbationStats:
        """Return what the slot had answered a moment ago, since ``reset_stats``."""
        with self._lock:
            return self._stats.find(slot)

    def reset_stats(self, slot: str) -> None:
        """Begin counting anew."""
        with self._lock:
            self._stats.reset(slot)
            self._supervisor.ask("reset", slot=slot)

    # Called by the supervisor's thread ----------------------------------------------------------

    def on_hello(self) -> None:
        """Tell a new process everything."""
        with self._lock:
            wanted = dict(self._wanted)
            futures = self._supervisor.tell(
                [
                    ("configure", {"config": self._config, "stopped": self._stopped}),
                    *(("activate", self._describe(slot, w)) for slot, w in wanted.items()),
                    ("serve", {}),
                    *self.shadows.operations(),
                ]
            )
            self._config["boot"] = random_bits(BOOT_BITS)
        configured, *activated = futures[: 1 + len(wanted)]
        served = futures[1 + len(wanted)]
        for (slot, each), future in zip(wanted.items(), activated, strict=True):
            future.add_done_callback(partial(self._on_activated, slot, each))
        configured.add_done_callback(self._check_done)
        served.add_done_callback(self._check_done)
        served.add_done_callback(self._on_serving)

    def find_turn(self) -> Mapping[str, Any]:
        """Ask how it does, and for the counts somebody wants."""
        with self._lock:
            return {"stats": self._stats.begin_turn()}

    def on_turn(self, answer: Answer) -> None:
        """Take the counts."""
        with self._lock:
            self._stats.take(answer["stats"])
        self.shadows.take(answer.get("shadows", {}))

    def count_slots(self) -> int:
        """Return how many slots are to answer."""
        return len(self._wanted)

    def on_lost(self, fault: WorkerFault) -> None:
        """Tell the agent, whose slots do not answer."""
        with self._lock:
            slots = tuple(self._wanted)
            self._stats.forget()
        self.shadows.forget()
        now = self._clock.monotonic()
        for slot in slots:
            self._tell(slot, ServingLost(fault.code, fault.detail, now))
        wait_s = self._supervisor.wait_s
        again = f"next start in {wait_s:.0f} s" if wait_s else "started again at once"
        self._last_fault = fault.detail
        self._say(is_up=False, again=f"; {again}")

    def _check_done(self, answer: "Future[Answer]") -> None:
        if answer.exception() is None and "code" in answer.result():
            detail = f"the process that serves cannot begin: {answer.result()['detail']}"
            self._supervisor.give_up(WorkerFault(Code.PROBATION_CRASH, detail))

    def _on_serving(self, answer: "Future[Answer]") -> None:
        if answer.exception() is None and "code" not in answer.result():
            self._say(is_up=True)

    def _say(self, *, is_up: bool, again: str = "") -> None:
        self._note(
            ServingFound(
                is_up=is_up,
                restarts=self._supervisor.restarts,
                failures=self._supervisor.failures,
                fault=self._last_fault + again,
            )
        )

    def _on_activated(self, slot: str, wanted: "_Wanted", answer: "Future[Answer]") -> None:
        """Tell whoever asked that a package answers or cannot, else the agent."""
        error = answer.exception()
        if isinstance(error, WorkerLostError):
            if not error.is_at_work:
                return  # what ended it was something else; the next process takes this up
            refusal = (error.fault.code, f"loading {wanted.target}: {error.fault.detail}")
        elif "code" in answer.result():
            refusal = (Code(answer.result()["code"]), str(answer.result()["detail"]))
        else:
            self._on_answering(slot, wanted)
            return
        with self._lock:
            self._go_back(slot, wanted)
        code, detail = refusal
        if code in CORRUPT:
            with suppress(StorageError):
                self._blobs.read(wanted.sha256)  # which drops bytes that are damaged
        if not wanted.asker.done():
            wanted.asker.set_exception(PackageError(code, detail))
            return
        now = self._clock.monotonic()
        self._tell(slot, ActivationFailed(wanted.sha256, code, detail, now))

    def _on_answering(self, slot: str, wanted: "_Wanted") -> None:
        with self._lock:
            wanted.former = None
            self._stats.reset(slot)
        if not wanted.asker.done():
            wanted.asker.set_result(None)
            return
        now = self._clock.monotonic()
        self._tell(slot, Answering(wanted.target, wanted.sha256, now))

    def _go_back(self, slot: str, wanted: "_Wanted") -> None:
        """Let what answered before answer again; the lock is held."""
        if self._wanted.get(slot) is not wanted:
            return
        if wanted.former is None:
            del self._wanted[slot]
        else:
            self._wanted[slot] = wanted.former

    def _describe(self, slot: str, wanted: "_Wanted") -> dict[str, Any]:
        return {
            "slot": slot,
            "path": str(self._blobs.path(wanted.sha256)),
            "sha256": wanted.sha256,
            "target": wanted.target,
        }


@dataclass(slots=True, eq=False)
class _Wanted:
    """A package that is to answer on a slot.

    Attributes:
        target: Its path.
        sha256: Of its bytes.
        former: What answered before, until this one does.
        asker: Told once; what becomes of it later is told to the agent.
    """

    target: str
    sha256: str
    former: "_Wanted | None"
    asker: "Future[None]"


class _Stats:
    """What was last heard of the slots that somebody asks about."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, ProbationStats] = {}
        self._wished_at: dict[str, float] = {}
        self._resets: dict[str, int] = {}
        self._turn: dict[str, int] = {}

    def find(self, slot: str) -> ProbationStats:
        self._wished_at[slot] = self._clock.monotonic()
        return self._known.get(slot, ProbationStats())

    def reset(self, slot: str) -> None:
        """Forget; also what is on its way, which was counted before."""
        self._known.pop(slot, None)
        self._resets[slot] = self._resets.get(slot, 0) + 1

    def forget(self) -> None:
        for slot in tuple(self._known):
            self.reset(slot)

    def begin_turn(self) -> list[str]:
        since = self._clock.monotonic() - WISH_S
        self._turn = {
            slot: self._resets.get(slot, 0) for slot, at in self._wished_at.items() if at >= since
        }
        return list(self._turn)

    def take(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        for slot, fields in stats.items():
            if self._turn.get(slot) == self._resets.get(slot, 0):
                self._known[slot] = ProbationStats(**fields)
