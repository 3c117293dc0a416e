"""Compares a candidate with what answers, on a share of the real inputs, in a child process.

The way of a request meets ``ShadowTap.offer`` after the answer was found: one multiplication, and
for the share that is taken a copy of the rows into a bounded queue. A thread hands the copies to
the child (``shadow_child.py``), one after another, as the budget allows, and adds up what it
says. A child that dies, hangs or grows ends this run and nothing else.

Left out: what may be compared and what becomes of the counts (``core/shadowing.py``).
Invariants: ``offer`` never waits; at most one copy is with the child; every row that was taken is
compared, skipped for the budget, dropped for want of room, or an error, and counted as that.
"""

import itertools
import logging
import queue
import signal
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edge_agent.adapters.worker_channel import ChannelClosedError
from edge_agent.adapters.worker_child import WorkerChild
from edge_agent.contract.codes import Code
from edge_agent.contract.shadow import (
    BINS,
    LATENCY_EDGES_MS,
    NOTE_CHARS_MAX,
    ShadowReport,
    ShadowState,
)
from edge_agent.core.cpu_budget import CpuBudget
from edge_agent.ports import Clock
from edge_agent.shadow_port import BlobPlace, ShadowOrder, ShadowSight

COMMAND = (sys.executable, "-m", "edge_agent.adapters.shadow_child")
ROWS_PER_REQUEST_MAX = 64
"""Of a larger request the first rows are compared."""
ROW_BYTES_MAX = 16_777_216
REQUESTS_WAITING_MAX = 64
BYTES_WAITING_MAX = 4_194_304
LOAD_S = 120.0
"""The self-test has loaded it in half of that, but this process gives way to all others."""
HANG_CPU_S = 20.0
"""Processor time one request may take before it counts as one that never ends."""
HANG_S = 300.0
LOOK_S = 0.5
RSS_SAMPLES = 3
END_S = 1.0
CLOSE_S = 1.5
"""A request that is under way may end for so long; then its child is killed."""
_GOLDEN_RATIO = 0.6180339887498949
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowLimits:
    """What the child may use; values of the device profile.

    Attributes:
        rss_bytes_max: Resident memory.
        threads: Of one request.
        arena: Whether freed tensors stay with the process.
    """

    rss_bytes_max: int
    threads: int = 1
    arena: bool = True


class _Item(NamedTuple):
    rows: int
    arrays: tuple[NDArray[Any], ...]
    latency_ms: float | None
    """None when the request had more rows than are compared."""


class _FaultError(Exception):
    """The run is over, and the candidate is to blame unless the code says otherwise."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class ShadowRun:
    """One candidate beside one slot; ``sight`` and ``take`` may be called from any thread."""

    def __init__(
        self,
        order: ShadowOrder,
        limits: ShadowLimits,
        clock: Clock,
        *,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Begin: a thread loads the candidate and waits for inputs."""
        self._order, self._limits, self._clock, self._command = order, limits, clock, command
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("requests", "rows", "differs", "non_finite", "errors", "skipped", "dropped"), 0
        )
        self._cpu_s = 0.0
        self._bins = {name: [0] * len(empty) for name, empty in BINS.items()}
        self._fault: _FaultError | None = None
        self._state, self._note, self._began_at = ShadowState.LOADING, "", 0.0
        self._is_resting = True
        self._closing = threading.Event()
        self._child: WorkerChild | None = None
        self._looks: list[int] = []
        self._looked_at = 0.0
        self._said_cpu_s = 0.0
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def tap(self) -> "ShadowTap":
        """Return what a served model gives its inputs and answers to."""
        return ShadowTap(self, self._order.policy.share)

    @property
    def beside_sha256(self) -> str:
        """Of the only package whose answers are compared."""
        return self._order.beside.sha256

    def sight(self) -> ShadowSight:
        """Return what was found so far."""
        with self._lock:
            comparing_s = self._clock.monotonic() - self._began_at if self._began_at else 0.0
            counted: dict[str, Any] = {
                **self._counts,
                **{name: tuple(bins) for name, bins in self._bins.items()},
            }
            report = ShadowReport(
                sha256=self._order.package.sha256,
                state=self._state,
                note=self._note[:NOTE_CHARS_MAX],
                seconds=int(comparing_s),
                cpu_ms=int(self._cpu_s * 1e3),
                **counted,
            )
            fault = self._fault
        code, detail = (fault.code, fault.detail) if fault is not None else (None, "")
        return ShadowSight(attempt=self._order.attempt, report=report, code=code, detail=detail)

    def take(
        self, features: NDArray[Any], values: Sequence[NDArray[Any]], latency_ms: float
    ) -> None:
        """Copy a request into the queue, or count why not; never waits."""
        rows = min(len(features), ROWS_PER_REQUEST_MAX)
        is_full = self._queue.qsize() >= self._room((features, *values), rows)
        if self._is_resting or is_full:
            with self._lock:
                self._counts["skipped" if self._is_resting else "dropped"] += rows
            return
        try:
            arrays = tuple(array[:rows].copy() for array in (features, *values))
        except MemoryError:  # a request must not fail for what only looks on
            with self._lock:
                self._counts["dropped"] += rows
            return
        is_whole = rows == len(features)
        self._queue.put(_Item(rows, arrays, latency_ms if is_whole else None))

    def close(self) -> None:
        """End the child and the thread, the child by force when it keeps the thread waiting."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        child = self._child
        if self._thread.is_alive() and child is not None:
            child.kill()
            self._thread.join(CLOSE_S)

    @staticmethod
    def _room(arrays: Sequence[NDArray[Any]], rows: int) -> int:
        """Return how many such requests may wait; none that is larger than a child takes."""
        size = sum(array[:rows].nbytes for array in arrays)
        if size > ROW_BYTES_MAX:
            return 0
        return max(1, min(REQUESTS_WAITING_MAX, BYTES_WAITING_MAX // max(1, size)))

    # The thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            child = WorkerChild(self._command, (), send_s=HANG_S)
        except OSError as error:
            self._end(_FaultError(Code.DISK_ERROR, f"no process for the shadow: {error}"))
            return
        self._child = child
        try:
            self._stay_with(child)
        except _FaultError as fault:
            child.end(0.0)
            self._end(fault)
        except ChannelClosedError:
            said = child.end(END_S)
            if self._closing.is_set():
                return
            # The kernel kills with this signal when memory runs out, and this process first.
            is_memory = child.status == -signal.SIGKILL
            code = Code.SHADOW_MEMORY if is_memory else Code.SHADOW_CRASH
            self._end(_FaultError(code, f"the process of the candidate in shadow {said}"))
        else:
            child.end(0.0)

    def _end(self, fault: _FaultError) -> None:
        _LOG.error("shadowing ends (%s): %s", fault.code, fault.detail)
        with self._lock:
            self._fault, self._is_resting = fault, True

    def _stay_with(self, child: WorkerChild) -> None:
        order, limits = self._order, self._limits
        request = {
            "op": "load",
            "package": _place(order.package),
            "beside": _place(order.beside),
            "threads": limits.threads,
            "arena": limits.arena,
            "rss_bytes_max": limits.rss_bytes_max,
        }
        child.channel.send(request)
        answer = self._wait_for_answer(child, wall_s=LOAD_S)
        if answer is None:
            return
        if "skip" in answer:
            with self._lock:
                self._state, self._note = ShadowState.SKIPPED, answer["skip"]
            return
        with self._lock:
            self._state, self._began_at = ShadowState.COMPARING, self._clock.monotonic()
        self._compare_all(child)

    def _compare_all(self, child: WorkerChild) -> None:
        budget = CpuBudget.full(self._order.policy.cpu_share, at=self._clock.monotonic())
        self._is_resting = False
        while not self._closing.is_set():
            try:
                item = self._queue.get(timeout=LOOK_S)
            except queue.Empty:
                item = None
            self._look(child)
            budget = budget.refilled(self._clock.monotonic())
            self._is_resting = budget.is_spent
            if item is None:
                continue
            if budget.is_spent:
                with self._lock:
                    self._counts["skipped"] += item.rows
                continue
            began_s = time.thread_time()
            if not self._compare(child, item):
                return
            cpu_s = self._said_cpu_s + time.thread_time() - began_s
            budget = budget.charged(cpu_s)
            with self._lock:
                self._cpu_s += cpu_s

    def _compare(self, child: WorkerChild, item: _Item) -> bool:
        described = [{"dtype": a.dtype.str, "shape": list(a.shape)} for a in item.arrays]
        child.channel.send({"op": "compare", "rows": item.rows, "arrays": described})
        child.channel.send_bytes([array.tobytes() for array in item.arrays])
        answer = self._wait_for_answer(child, wall_s=HANG_S)
        if answer is None:
            return False
        self._said_cpu_s = float(answer.get("cpu_s", 0.0))
        with self._lock:
            for name in ("rows", "differs", "non_finite", "errors"):
                self._counts[name] += int(answer.get(name, 0))
            if "rows" in answer:
                self._counts["requests"] += 1
                for at, count in enumerate(answer["difference"]):
                    self._bins["difference"][at] += int(count)
                if item.latency_ms is not None:
                    _bin(self._bins["latency"], item.latency_ms)
                    _bin(self._bins["candidate_latency"], float(answer["ms"]))
        return True

    def _wait_for_answer(self, child: WorkerChild, *, wall_s: float) -> Mapping[str, Any] | None:
        """Wait, watching the child; None when this run is to end.

        Raises:
            ChannelClosedError: The child is gone.
            _FaultError: It hangs, grows, or says that it cannot go on.
        """
        began_at, cpu_began_s = self._clock.monotonic(), None
        while not self._closing.is_set():
            messages: list[dict[str, Any]] = []
            if child.wait(LOOK_S, child.channel.fileno()):
                child.channel.fill()
                messages = child.channel.take_all()
            if messages:
                return _checked(messages[0])
            self._look(child)
            used_s = child.cpu_s() or 0.0
            cpu_began_s = used_s if cpu_began_s is None else cpu_began_s
            cpu_s = used_s - cpu_began_s
            if cpu_s > HANG_CPU_S or self._clock.monotonic() - began_at > wall_s:
                raise _FaultError(
                    Code.SHADOW_HANG,
                    f"the candidate in shadow did not end a request in {cpu_s:.0f} s"
                    f" of processor time, {self._clock.monotonic() - began_at:.0f} s in all",
                )
        return None

    def _look(self, child: WorkerChild) -> None:
        """See now and then whether it lives and what it holds.

        Raises:
            ChannelClosedError: It is gone.
            _FaultError: It holds too much.
        """
        now = self._clock.monotonic()
        if now < self._looked_at + LOOK_S:
            return
        self._looked_at = now
        if child.wait(0.0, child.channel.fileno()):
            child.channel.fill()
        self._looks = [*self._looks, child.rss_bytes() or 0][-RSS_SAMPLES:]
        limit = self._limits.rss_bytes_max
        if len(self._looks) == RSS_SAMPLES and min(self._looks) > limit:
            raise _FaultError(
                Code.SHADOW_MEMORY,
                f"the candidate in shadow holds {self._looks[-1] / 2**20:.0f} MiB of memory, the"
                f" profile allows {limit / 2**20:.0f} MiB",
            )


class ShadowTap:
    """Takes a share of what one served model is asked; an even one, whatever order it comes in."""

    def __init__(self, run: ShadowRun, share: float) -> None:
        self._run, self._share = run, share
        self._numbers = itertools.count(1)

    def offer(
        self, features: NDArray[Any], values: Sequence[NDArray[Any]], latency_ms: float
    ) -> None:
        """See a request that was answered."""
        if next(self._numbers) * _GOLDEN_RATIO % 1.0 < self._share:
            self._run.take(features, values, latency_ms)


def _place(blob: BlobPlace) -> dict[str, str]:
    return {"path": str(blob.path), "sha256": blob.sha256}


def _checked(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "code" in answer:
        raise _FaultError(Code(answer["code"]), f"in shadow: {answer['detail']}")
    return answer


def _bin(bins: list[int], latency_ms: float) -> None:
    bins[bisect_right(LATENCY_EDGES_MS, latency_ms)] += 1
