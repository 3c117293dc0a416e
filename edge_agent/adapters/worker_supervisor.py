"""Keeps one process that serves alive: starts it, asks how it does, ends it, starts it anew.

A thread of its own does all of it, so that neither the agent's loop nor a slow disk keeps a dead
process from being replaced. Requests of other threads go over the same channel and are answered
through futures. The first failure costs no wait, repeated ones a growing one, up to half a minute;
it never gives up, because the device may get its memory, disk or runtime back.

What runs in the process is its owner's business (``worker_service.py``).
"""

import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.adapters.worker_channel import ChannelClosedError
from edge_agent.adapters.worker_child import WorkerChild
from edge_agent.contract.codes import Code
from edge_agent.core.worker_health import (
    WorkerFault,
    WorkerLimits,
    WorkerSight,
    count_failures,
    find_fault,
    restart_wait_s,
)
from edge_agent.errors import AgentError
from edge_agent.ports import Clock

TURN_S = 1.0
STOP_S = 9.0
"""Above what the HTTP server takes to drain and to finish its requests."""
RESTART_DRAIN_S = 1.0
"""For clients of a process that is replaced in good order; their connections come back."""
LOADING = frozenset({"configure", "activate"})
"""Operations that may take long."""
_LOG = logging.getLogger(__name__)

Answer = Mapping[str, Any]


class WorkerLostError(AgentError):
    """The process ended, or was ended, before it answered.

    Attributes:
        fault: Why.
        is_at_work: The process was doing just that when it ended.
    """

    def __init__(self, fault: WorkerFault, *, is_at_work: bool = False) -> None:
        super().__init__(fault.detail)
        self.fault, self.is_at_work = fault, is_at_work


class Owner(Protocol):
    """What is asked and told by the supervisor's thread."""

    def on_hello(self) -> None:
        """Say what it is to do: it has come up and knows nothing."""

    def find_turn(self) -> Mapping[str, Any]:
        """Return the fields of a ``turn``."""

    def on_turn(self, answer: Answer) -> None:
        """Take how it does."""

    def on_lost(self, fault: WorkerFault) -> None:
        """Hear that it ended; what waited for an answer has been told."""

    def count_slots(self) -> int:
        """Return how many slots are to answer."""


@dataclass(slots=True)
class _Asked:
    """An operation without an answer yet."""

    operation: str
    future: "Future[Answer]"


@dataclass(slots=True)
class _Life:
    """What is known of one worker while it lives."""

    child: WorkerChild
    began_at: float
    rss_bytes: deque[int]
    has_said_hello: bool = False
    turn: "Future[Answer] | None" = None
    turn_at: float = 0.0
    request_s: float = 0.0


class WorkerSupervisor:
    """One worker after another; ``ask`` may be called from any thread."""

    def __init__(
        self, spawn: Callable[[], WorkerChild], owner: Owner, *, limits: WorkerLimits, clock: Clock
    ) -> None:
        self._spawn, self._owner, self._limits, self._clock = spawn, owner, limits, clock
        self._lock = threading.Lock()
        self._child: WorkerChild | None = None
        self._is_told = False
        self._asked: dict[int, _Asked] = {}
        self._next_id = 0
        self._closing = threading.Event()
        self._drain_s = 0.0
        self._given_up: WorkerFault | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.settimeout(0)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self.failures = self.restarts = 0
        self.wait_s = 0.0

    def start(self) -> None:
        """Begin to keep one alive."""
        self._thread.start()

    def close(self, *, drain_s: float = 0.0) -> None:
        """End it in good order, and the thread; without effect a second time.

        Args:
            drain_s: Clients that stay connected have so long to ask once more.
        """
        if self._closing.is_set():
            return
        self._drain_s = drain_s
        self._closing.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._wake_read.close()
        self._wake_write.close()

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None while there is none."""
        child = self._child
        return child.pid if child else None

    def ask(self, operation: str, **fields: Any) -> "Future[Answer] | None":
        """Ask the worker; None while there is none that has been told what to do.

        The future raises WorkerLostError when it ends before it answers.
        """
        with self._lock:
            if self._child is None or not self._is_told:
                return None
            return self._ask(self._child, operation, fields)

    def tell(self, operations: Sequence[tuple[str, Mapping[str, Any]]]) -> "list[Future[Answer]]":
        """Say what to do first; called in ``on_hello`` only."""
        with self._lock:
            if self._child is None:
                return []
            self._is_told = True
            return [self._ask(self._child, name, fields) for name, fields in operations]

    def give_up(self, fault: WorkerFault) -> None:
        """End the worker now: another thread has seen that it is of no use."""
        self._given_up = fault
        self.wake()

    def wake(self) -> None:
        """Look now; a wait before the next start ends."""
        try:
            self._wake_write.send(b"w")
        except BlockingIOError:
            _LOG.debug("the supervisor has been woken often enough")

    # The supervisor's thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._rest()
            began_at = self._clock.monotonic()
            fault = self._live(began_at)
            if fault is None:
                return
            self.failures = count_failures(self.failures, self._clock.monotonic() - began_at)
            self.restarts += 1
            self.wait_s = restart_wait_s(self.failures)
            again = f"in {self.wait_s:.0f} s" if self.wait_s else "now"
            _LOG.error("%s; failure %d in a row, next start %s", fault.detail, self.failures, again)
            self._fail_asked(fault)
            self._owner.on_lost(fault)

    def _rest(self) -> None:
        """Wait before the next start; a wake-up ends it."""
        ends_at = self._clock.monotonic() + self.wait_s
        while not self._closing.is_set():
            left = ends_at - self._clock.monotonic()
            if left <= 0 or self._is_woken(left):
                return

    def _is_woken(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._wake_read], [], [], timeout_s)
        if readable:
            self._wake_read.recv(4_096)
        return bool(readable)

    def _live(self, now: float) -> WorkerFault | None:
        """Start one and stay with it until it ends; None when that was wished."""
        if self._closing.is_set():
            return None
        try:
            child = self._spawn()
        except OSError as error:
            return WorkerFault(
                Code.PROBATION_CRASH, f"the process that serves cannot be started: {error}"
            )
        with self._lock:
            self._child, self._is_told, self._given_up = child, False, None
        life = _Life(child, now, deque(maxlen=self._limits.rss_samples))
        try:
            fault = self._stay_with(life)
            is_gone = False
        except ChannelClosedError:
            fault, is_gone = None, True
        with self._lock:
            self._child, self._is_told = None, False
        if is_gone:
            said = child.end()
            return WorkerFault(Code.PROBATION_CRASH, f"the process that serves {said}")
        if fault is not None and fault.code is Code.PROBATION_HANG:
            child.end(0.0)
            return fault
        self._end_gently(child)
        return fault

    def _end_gently(self, child: WorkerChild) -> None:
        """Let it answer what it has begun and write down what it has counted."""
        try:
            drain_s = self._drain_s if self._closing.is_set() else RESTART_DRAIN_S
            child.channel.send({"id": 0, "op": "stop", "drain_s": drain_s})
        except ChannelClosedError:
            _LOG.debug("the process that serves is gone already")
        child.end(STOP_S)

    def _stay_with(self, life: _Life) -> WorkerFault | None:
        """Watch it; a fault to end it for, or None when the agent ends.

        Raises:
            ChannelClosedError: It is gone.
        """
        child = life.child
        while True:
            if child.wait(self._wait_s(life), self._wake_read.fileno()):
                child.channel.fill()
                for message in child.channel.take_all():
                    self._take(life, message)
            self._is_woken(0.0)
            if self._closing.is_set():
                return None
            now = self._clock.monotonic()
            fault = self._given_up or find_fault(self._see(life, now), self._limits)
            if fault is not None:
                return fault
            if life.has_said_hello and now >= life.turn_at + TURN_S:
                self._begin_turn(life, now)

    def _wait_s(self, life: _Life) -> float:
        if life.turn is not None or not life.has_said_hello:
            return TURN_S
        return min(TURN_S, life.turn_at + TURN_S - self._clock.monotonic())

    def _begin_turn(self, life: _Life, now: float) -> None:
        rss_bytes = life.child.rss_bytes()
        if rss_bytes is not None:
            life.rss_bytes.append(rss_bytes)
        if life.turn is None:
            life.turn_at = now
            turn = dict(self._owner.find_turn())
            with self._lock:
                life.turn = self._ask(life.child, "turn", turn)

    def _see(self, life: _Life, now: float) -> WorkerSight:
        if not life.has_said_hello:
            silent_s = now - life.began_at
        else:
            silent_s = now - life.turn_at if life.turn is not None else 0.0
        with self._lock:
            is_loading = any(asked.operation in LOADING for asked in self._asked.values())
        return WorkerSight(
            silent_s=silent_s,
            is_loading=is_loading or not life.has_said_hello,
            request_s=life.request_s,
            rss_bytes=tuple(life.rss_bytes),
            slots=self._owner.count_slots(),
        )

    def _take(self, life: _Life, message: Answer) -> None:
        if "hello" in message:
            life.has_said_hello, life.turn_at = True, self._clock.monotonic()
            self._owner.on_hello()
            return
        with self._lock:
            asked = self._asked.pop(message.get("id", 0), None)
        if asked is None:
            return
        asked.future.set_result(message)
        if asked.future is life.turn:
            life.turn = None
            value = message["value"]
            life.request_s = float(value["request_s"])
            self._owner.on_turn(value)

    def _ask(self, child: WorkerChild, name: str, fields: Mapping[str, Any]) -> "Future[Answer]":
        """Send a request; the lock is held."""
        self._next_id += 1
        future: Future[Answer] = Future()
        self._asked[self._next_id] = _Asked(name, future)
        try:
            child.channel.send({"id": self._next_id, "op": name, **fields})
        except ChannelClosedError:
            self.wake()  # its end is seen by the supervisor's thread, which tells the future
        return future

    def _fail_asked(self, fault: WorkerFault) -> None:
        """Tell who waits; of those that load, the first was being loaded."""
        with self._lock:
            asked, self._asked = self._asked, {}
        is_first = True
        for each in asked.values():
            is_at_work = is_first and each.operation in LOADING
            is_first = is_first and not is_at_work
            each.future.set_exception(WorkerLostError(fault, is_at_work=is_at_work))
