"""Requests too heavy for the event loop: a few threads, and several requests in one run.

Nothing waits for a batch to fill. A request that finds a thread free is taken at once; those that
come while all threads are busy wait as they would anyway, and when a thread becomes free it takes
the oldest and, of the others, what can be answered with it. So a lone client never waits for
company, and a wait is at most what is being run.

Called from the event loop only. Invariants: first come, first served between models; at most
BATCH_REQUESTS_MAX requests a run; a connection has at most one request here, so what waits is
bounded by the connections.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    request: Request
    key: Hashable | None
    on_done: Callable[[Response], None]


class HeavyWork:
    """The threads of one server."""

    def __init__(self, application: Batching, threads: int = HEAVY_THREADS) -> None:
        self._application, self._free = application, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")
        self._waiting: deque[_Waiting] = deque()

    def submit(self, request: Request, on_done: Callable[[Response], None]) -> None:
        """Answer in a thread; ``on_done`` is called in the event loop."""
        key = self._application.batch_key(request)
        self._waiting.append(_Waiting(request, key, on_done))
        if self._free:
            self._start()

    def stop(self) -> None:
        """Begin nothing more; what runs ends by itself."""
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        batch = self._take()
        self._free -= 1
        requests = [waiting.request for waiting in batch]
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, self._application.answer_many, requests)
        future.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[_Waiting]:
        first = self._waiting.popleft()
        if first.key is None:
            return [first]
        batch = [first]
        batch += [w for w in self._waiting if w.key == first.key][: BATCH_REQUESTS_MAX - 1]
        if len(batch) > 1:
            taken = set(map(id, batch))
            self._waiting = deque(w for w in self._waiting if id(w) not in taken)
        return batch

    def _finish(self, batch: list[_Waiting], done: "asyncio.Future[list[Response]]") -> None:
        self._free += 1
        if done.cancelled():
            return
        for waiting, response in zip(batch, done.result(), strict=True):
            waiting.on_done(response)
        while self._waiting and self._free:
            self._start()
