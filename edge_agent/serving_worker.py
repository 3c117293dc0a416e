"""The process that serves: ``python -m edge_agent.serving_worker CONTROL_FD LISTENING_FD...``.

It is the agent's child and knows nothing of the network: it answers predictions, counts them and
puts closed windows into the outbox. The agent tells it over a channel (``worker_channel.py``) what
is to answer, and asks once a second how it does. It ends when told, or with its parent.

Operations, each answered by ``{"id", "value"}`` or ``{"id", "code", "detail"}``:

* ``configure`` once, first: ``config`` (``ServingConfig``) and ``stopped`` (reasons by slot).
* ``activate`` ``slot``, ``path``, ``sha256``, ``target``: this process hashes the file itself.
* ``deactivate`` ``slot``, ``reason``; ``serve``: begin to take connections.
* ``shadow`` ``slot``, ``attempt``, ``package``, ``beside``, ``policy``: compare a candidate with
  what answers (``worker_shadows.py``); ``unshadow`` ``slot``: no more.
* ``turn`` ``stats`` (slots): how it and its shadows do; ``reset`` ``slot``: count anew; ``stop``
  ``drain_s`` (of ``HttpInferenceServer.stop``).

Slow operations run one after another in a thread of their own; a turn is answered meanwhile.
"""

import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.adapters.child_side import settle_as_child
from edge_agent.adapters.http_connection import Application
from edge_agent.adapters.http_parser import Request, Response
from edge_agent.adapters.lean import give_back, limit_arenas
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.worker_channel import Channel, ChannelClosedError
from edge_agent.contract.codes import Code
from edge_agent.core.probation import ProbationStats
from edge_agent.errors import OutboxError, PackageError, words_of
from edge_agent.serving import Serving
from edge_agent.serving_config import ServingConfig

if TYPE_CHECKING:
    from edge_agent.shadow_port import ShadowSight

CLOSE_DUE_S = 1.0
OUTBOX_FILE = "outbox.db"
_OOM_SCORE = 500
"""When the device's memory runs out, this process goes before the one that can repair."""
_LOG = logging.getLogger(__name__)


def main() -> int:
    """Serve until told to stop."""
    control, *listening = (int(argument) for argument in sys.argv[1:])
    settle_as_child(oom_score=_OOM_SCORE)
    limit_arenas()
    # The agent ends this process in good order; a signal to the whole group must not come first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    channel = Channel(socket.socket(fileno=control))
    Worker(channel, [socket.socket(fileno=number) for number in listening]).run()
    return 0


class Worker:
    """Obeys the agent."""

    def __init__(self, channel: Channel, sockets: Sequence[socket.socket]) -> None:
        """Say that the libraries are loaded and it is ready to be told."""
        self._channel, self._sockets = channel, sockets
        self._slow: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._watch = Watched()
        self._stop = threading.Event()
        self._drain_s = 0.0
        self._serving: Serving | None = None
        self._outbox: Outbox | None = None
        channel.send({"hello": os.getpid()})

    def run(self) -> None:
        """Obey until told to stop, or until the agent is gone."""
        threads = [
            threading.Thread(target=self._run_slow, name="slots", daemon=True),
            threading.Thread(target=self._close_windows, name="windows", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._stop.is_set():
                self._take(self._channel.receive())
        except ChannelClosedError as error:
            _LOG.warning("%s; this process ends too", error)
        self._stop.set()
        self._slow.put(None)
        for thread in threads:
            thread.join()
        if self._serving is not None:
            self._serving.stop(drain_s=self._drain_s)
        if self._outbox is not None:
            self._outbox.close()

    def _take(self, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "turn":
                self._answer(message, self._look(message["stats"]))
            case "reset":
                self._serving_now().service.reset_stats(message["slot"])
                self._answer(message, {})
            case "stop":
                self._drain_s = float(message["drain_s"])
                self._stop.set()
            case _:
                self._slow.put(lambda: self._answer_slowly(message))

    def _answer_slowly(self, message: Mapping[str, Any]) -> None:
        try:
            self._obey(message)
        except PackageError as error:
            self._refuse(message, error.code, error.detail)
        except OSError as error:
            self._refuse(message, Code.DISK_ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - a door: the agent decides what becomes of it
            _LOG.exception("%s failed", message["op"])
            detail = f"{message['op']}: {words_of(error)}; the log has the trace"
            self._refuse(message, Code.SELFTEST_LOAD, detail)
        else:
            self._answer(message, {})
        if message["op"] in ("serve", "activate"):
            give_back()  # once the agent knows

    def _obey(self, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "configure":
                self._configure(message)
            case "serve":
                self._serving_now().start()
            case "activate":
                self._serving_now().service.activate(
                    message["slot"],
                    blob=Path(message["path"]).read_bytes(),
                    target=message["target"],
                    sha256=message["sha256"],
                )
            case "deactivate":
                self._serving_now().service.deactivate(message["slot"], reason=message["reason"])
            case "shadow":
                from edge_agent.adapters.worker_shadows import order_from_json

                order = order_from_json(message)
                self._serving_now().service.shadows.start(message["slot"], order)
            case "unshadow":
                self._serving_now().service.shadows.stop(message["slot"])
            case unknown:
                raise ValueError(f"unknown operation {unknown!r:.40}")

    def _configure(self, message: Mapping[str, Any]) -> None:
        config = ServingConfig.from_json(message["config"])
        logging.getLogger().setLevel(config.settings.log_level.upper())
        self._outbox = _join_outbox(config)
        serving = Serving(
            config, self._sockets, clock=SystemClock(), outbox=self._outbox, watch=self._watch.put
        )
        for slot, reason in message["stopped"].items():
            serving.service.deactivate(slot, reason=reason)
        self._serving = serving

    def _look(self, slots: Sequence[str]) -> dict[str, Any]:
        serving = self._serving
        stats = {}
        if serving is not None:
            stats = {slot: _finite(serving.service.probation_stats(slot)) for slot in slots}
        shadows = serving.service.shadows.sights() if serving is not None else {}
        return {
            "request_s": self._watch.longest_s(),
            "stats": stats,
            "shadows": _shadows_to_json(shadows),
        }

    def _serving_now(self) -> Serving:
        if self._serving is None:
            raise ValueError("not configured yet")
        return self._serving

    def _run_slow(self) -> None:
        while (job := self._slow.get()) is not None:
            job()

    def _close_windows(self) -> None:
        while not self._stop.wait(CLOSE_DUE_S):
            if self._serving is None:
                continue
            try:
                self._serving.service.close_due()
            except Exception:  # noqa: BLE001 - a door: what was not put away is put away later
                _LOG.exception("telemetry could not be put away; it is tried again")

    def _answer(self, message: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        self._channel.send({"id": message["id"], "value": value})

    def _refuse(self, message: Mapping[str, Any], code: Code, detail: str) -> None:
        self._channel.send({"id": message["id"], "code": code, "detail": detail[:512]})


class Watched:
    """Knows how long the requests under way have been."""

    def __init__(self) -> None:
        self._began: dict[int, float] = {}

    def put(self, application: Application) -> Application:
        """Put it before what answers."""
        return _WatchedApplication(application, self._began)

    def longest_s(self) -> float:
        """Return the age of the oldest request that is being answered, seconds."""
        return max((time.monotonic() - began for began in tuple(self._began.values())), default=0.0)


class _WatchedApplication(Application):
    """Notes by thread when a request was begun."""

    def __init__(self, inner: Application, began: dict[int, float]) -> None:
        self._inner, self._began = inner, began

    def is_heavy(self, request: Request) -> bool:
        return self._inner.is_heavy(request)

    def batch_key(self, request: Request) -> Hashable | None:
        return self._inner.batch_key(request)

    def count(self, response: Response, seconds: float) -> None:
        self._inner.count(response, seconds)

    def answer(self, request: Request) -> Response:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            return self._inner.answer(request)
        finally:
            del self._began[thread]

    def answer_many(self, requests: Sequence[Request]) -> list[Response]:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            return self._inner.answer_many(requests)
        finally:
            del self._began[thread]


def _finite(stats: ProbationStats) -> dict[str, Any]:
    """Give the counts as JSON can carry them."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(stats).items()
    }


def _shadows_to_json(sights: "Mapping[str, ShadowSight]") -> dict[str, Any]:
    if not sights:
        return {}
    from edge_agent.adapters.worker_shadows import sight_to_json  # most updates have no shadow

    return {slot: sight_to_json(sight) for slot, sight in sights.items()}


def _join_outbox(config: ServingConfig) -> Outbox:
    """Open the agent's outbox; without it windows stay in memory, but models answer."""
    bytes_max = config.profile.telemetry.outbox_bytes_max
    try:
        return Outbox(config.directory / OUTBOX_FILE, bytes_max=bytes_max, is_joining=True)
    except OutboxError as error:
        _LOG.error("windows stay in memory and are lost with this process: %s", error)
        return Outbox(None, bytes_max=bytes_max)


if __name__ == "__main__":
    sys.exit(main())
