"""Clients of the agent's HTTP server that hide nothing, and a server with one model."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from typing import Any

import numpy as np

from edge_agent.adapters.http_access import HttpAccess
from edge_agent.adapters.http_connection import ServerLimits
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.inference_routes import InferenceRoutes
from edge_agent.adapters.inference_service import InferenceService
from tests.support.serving import BuiltPackage, activate, make_service


class Client:
    """One keep-alive connection that speaks raw HTTP."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, self.file.read(int(headers.get("Content-Length", "0")))

    def ends(self) -> bool:
        return self.file.read(1) == b""

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class World:
    def __init__(self, service: InferenceService, port: int) -> None:
        self.service, self.port = service, port

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        client = Client(self.port)
        try:
            yield client
        finally:
            client.close()

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            method = method or ("GET" if body is None else "POST")
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@contextlib.contextmanager
def serving(
    built: BuiltPackage,
    limits: ServerLimits | None = None,
    *,
    access: HttpAccess | None = None,
    takes_labels: bool = False,
    outbox_counts: Callable[[], Mapping[str, float]] | None = None,
) -> Iterator[World]:
    service = make_service()
    activate(service, built)
    labels = service.labels if takes_labels else None
    routes = InferenceRoutes(service, labels=labels, outbox_counts=outbox_counts)
    server = HttpInferenceServer(routes, limits=limits, access=access)
    try:
        yield World(service, server.start())
    finally:
        server.stop()


def tensor(data: Any, **changes: Any) -> dict[str, Any]:
    data = data.tolist() if isinstance(data, np.ndarray) else data
    shape = [len(data), len(data[0]) if isinstance(data[0], list) else 4]
    return {"name": "features", "datatype": "FP32", "shape": shape, "data": data, **changes}


def infer_bytes(rows: np.ndarray) -> bytes:
    body = json.dumps({"inputs": [tensor(rows)]}).encode()
    return (
        b"POST /v2/models/main/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body
