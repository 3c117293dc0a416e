"""Requests too heavy for the event loop: a few threads, and several requests in one run.

Nothing waits for a batch to fill. A request that finds its model idle is taken at once; those that
come while it runs are taken together when it is done. So a lone client never waits for company,
and a wait is at most one run. One run at a time: a second thread would take the newcomers one by
one, each at nearly the price of all (measured: a third of the requests a second).

Called from the event loop only. Invariants: first come, first served, except past what waits for
its own model; at most BATCH_REQUESTS_MAX requests a run; a connection has at most one request
here, so what waits is bounded by the connections.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from edge_agent.adapters.http_parser import Request, Response

HEAVY_THREADS = 2
BATCH_REQUESTS_MAX = 32


class Batching(Protocol):
    """What answers heavy requests; called from threads."""

    def batch_key(self, request: Request) -> Hashable | None:
        """Return what requests must share to be answered in one run; None for one by one."""

    def answer_many(self, requests: Sequence[Request]) -> list[Response]:
        """Answer requests of one key, in order; never raises."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A request that waits for a thread."""

    request: Request
    key: Hashable | None
    on_done: Callable[[Response], None]


class HeavyWork:
    """The threads of one server."""

    def __init__(self, application: Batching, threads: int = HEAVY_THREADS) -> None:
        self._application, self._free = application, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")
        self._waiting: deque[_Waiting] = deque()
        self._running: set[Hashable] = set()

    def submit(self, request: Request, on_done: Callable[[Response], None]) -> None:
        """Answer in a thread; ``on_done`` is called in the event loop."""
        key = self._application.batch_key(request)
        self._waiting.append(_Waiting(request, key, on_done))
        self._start()

    def stop(self) -> None:
        """Begin nothing more; what runs ends by itself."""
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Let the free threads take what may be run now."""
        loop = asyncio.get_running_loop()
        while self._free and (batch := self._take()):
            self._free -= 1
            requests = [waiting.request for waiting in batch]
            future = loop.run_in_executor(self._pool, self._application.answer_many, requests)
            future.add_done_callback(partial(self._finish, batch))

    def _take(self) -> list[_Waiting]:
        first = next((w for w in self._waiting if w.key not in self._running), None)
        if first is None:
            return []
        if first.key is None:
            self._waiting.remove(first)
            return [first]
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        for waiting in self._waiting:
            is_taken = waiting.key == first.key and len(batch) < BATCH_REQUESTS_MAX
            (batch if is_taken else rest).append(waiting)
        self._waiting = rest
        self._running.add(first.key)
        return batch

    def _finish(self, batch: list[_Waiting], done: "asyncio.Future[list[Response]]") -> None:
        self._free += 1
        self._running.discard(batch[0].key)
        if done.cancelled():
            return
        for waiting, response in zip(batch, done.result(), strict=True):
            waiting.on_done(response)
        self._start()
