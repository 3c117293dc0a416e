"""A process that serves, its keeper and an application that asks it, without an agent."""

import contextlib
import http.client
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.catalog import load_profile
from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.listening import listen
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.worker_service import COMMAND, WorkerInferenceService
from edge_agent.core.worker_health import WorkerLimits
from edge_agent.serving_config import ServingConfig
from edge_agent.settings import AgentSettings
from tests.support.serving import BuiltPackage
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from edge_agent.core.events import Event
    from edge_agent.ports import ServingFound

LIMITS = WorkerLimits(rss_bytes_max=2**29)
BOOT = 7


def crashing_command(marker: Path) -> Sequence[str]:
    """Give a worker whose runtime dies of version 13 once ``marker`` is there."""
    program = """
import pathlib, signal, sys
from edge_agent import serving_worker
from edge_agent.adapters.inference_service import InferenceService
marker, activate = pathlib.Path(sys.argv.pop(1)), InferenceService.activate
def crash(self, slot, **fields):
    if "/13/" in fields["target"] and marker.exists():
        # This thread, now: sent to the process, the others would go on until one has died of it.
        signal.raise_signal(signal.SIGILL)
    activate(self, slot, **fields)
InferenceService.activate = crash
sys.exit(serving_worker.main())
"""
    return (sys.executable, "-c", program, str(marker))


class WorkerWorld:
    """One service over real processes."""

    def __init__(self, directory: Path, limits: WorkerLimits, command: Sequence[str]) -> None:
        self.events: list[tuple[str, Event]] = []
        self.notes: list[ServingFound] = []
        self.outbox = Outbox(directory / "outbox.db")
        self.blobs = directory / "blobs"
        self.blobs.mkdir()
        self._sockets = listen("127.0.0.1", 0)
        self.port = int(self._sockets[0].getsockname()[1])
        config = ServingConfig(
            directory=directory,
            boot=BOOT,
            settings=replace(AgentSettings(), http_port=self.port, window_s=3_600),
            profile=load_profile("camera"),
        )
        self.service = WorkerInferenceService(
            config.to_json(),
            self._sockets,
            DirectoryBlobStore(self.blobs),
            clock=SystemClock(),
            limits=limits,
            tell=lambda slot, event: self.events.append((slot, event)),
            note=self.notes.append,
            command=command,
        )
        self.service.start()

    def activate(self, built: BuiltPackage, *, slot: str = "main", version: int = 1) -> None:
        path = self.blobs / built.sha256
        if not path.exists():
            path.write_bytes(built.blob)
        target = f"plant/{version}/camera.tar"
        self.service.activate(slot, blob=built.blob, target=target, sha256=built.sha256)

    def ask(self, row: Sequence[float] = (1, 2, 3, 4), *, slot: str = "main") -> dict[str, Any]:
        """Ask over a connection of its own; an answer other than 200 is an AssertionError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            return ask_over(connection, row, slot=slot)

    @property
    def pid(self) -> int:
        """Process id of the worker that serves; waits for one."""
        wait_until(lambda: self.service.pid is not None)
        assert self.service.pid is not None
        return self.service.pid

    def kinds(self) -> list[str]:
        return [type(event).__name__ for _, event in self.events]

    def close(self) -> None:
        self.service.close()
        for each in self._sockets:
            each.close()
        self.outbox.close()


def ask_over(
    connection: http.client.HTTPConnection, row: Sequence[float], *, slot: str
) -> dict[str, Any]:
    connection.request("POST", f"/v2/models/{slot}/infer", json.dumps(infer_request(row)))
    response = connection.getresponse()
    body = response.read()
    assert response.status == http.client.OK, (response.status, body)
    answer: dict[str, Any] = json.loads(body)
    return answer


def infer_request(row: Sequence[float]) -> dict[str, Any]:
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, len(row)], "data": list(row)}
    return {"inputs": [tensor]}


class QuickClient:
    """Asks the same over one connection; a tenth of the time ``http.client`` takes."""

    def __init__(self, port: int, slot: str = "main") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        body = json.dumps(infer_request((1, 2, 3, 4))).encode()
        head = f"POST /v2/models/{slot}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        self._request = head.encode() + b"\r\n\r\n" + body
        self.is_last = False
        """Whether the server closes the connection after the last answer."""

    def ask(self) -> str:
        """Return the version that answered."""
        self._socket.sendall(self._request)
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"}"):
            more = self._socket.recv(65_536)
            assert more, "the connection was closed"
            data += more
        assert data.startswith(b"HTTP/1.1 200"), data
        self.is_last = b"\r\nconnection: close" in data.lower()
        return str(json.loads(data.partition(b"\r\n\r\n")[2])["model_version"])

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def worker_world(
    directory: Path, *, limits: WorkerLimits = LIMITS, command: Sequence[str] = COMMAND
) -> Iterator[WorkerWorld]:
    world = WorkerWorld(directory, limits, command)
    try:
        yield world
    finally:
        world.close()


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended and was waited for."""
    return not Path(f"/proc/{pid}").exists()
