"""A workspace on disk with registered versions, and its API for enrolment on a real port."""

import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI, Request, Response

from edge_agent.adapters.device_keys import make_request
from edge_agent.contract.assignment import target_path
from edge_agent.contract.fields import dump_object
from edge_agent.contract.package import (
    EVIDENCE,
    GOLDEN,
    MODEL,
    REFERENCE,
    SCHEMA,
    pack_members,
)
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import ArtifactRow, ModelRow, VersionRow
from fleet_server.api.problems import install_problems
from fleet_server.api.routes.enrol import enrol_router
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.services.inspect_packages import hash_chunks
from fleet_server.wiring.devices import build_enrolment
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.clock import FakeClock

GRAPH = {"ir": 8, "opset": 15, "opset_ml": 3}


def make_fleet(directory: Path, clock: FakeClock, *, name: str = "fleet-1") -> Fleet:
    made = init_workspace(directory, Config(fleet=name), clock=clock)
    return open_fleet(made.workspace, clock)


def make_csr(name: str = "server") -> bytes:
    return make_request(ec.generate_private_key(ec.SECP256R1()), name)


def make_package(label: str, *, precision: str = "fp32", **graph: int) -> bytes:
    evidence = {"precision": precision, "graph": {**GRAPH, **graph}}
    return pack_members(
        {
            MODEL: label.encode() * 20_000,
            SCHEMA: dump_object({"of": label}),
            GOLDEN: b"golden",
            REFERENCE: b"reference",
            EVIDENCE: dump_object(evidence),
        }
    )


def register(
    fleet: Fleet,
    model: str,
    version: int,
    profiles: Sequence[str],
    *,
    packages: dict[str, bytes] | None = None,
    **columns: str,
) -> None:
    """Register a version whose packages are in the object store, as training does."""
    now = fleet.clock.now()
    with write_session(fleet.engine) as session:
        if session.get(ModelRow, model) is None:
            session.add(ModelRow(name=model, task="classification", created_at=now))
            session.flush()
        session.add(VersionRow(model=model, number=version, created_at=now, **columns))
        for profile in profiles:
            path = target_path(model, version, profile)
            blob = (packages or {}).get(profile) or make_package(path)
            session.add(
                ArtifactRow(
                    model=model,
                    version=version,
                    profile=profile,
                    target=path,
                    sha256=fleet.objects.put(blob),
                    size_bytes=len(blob),
                    precision="fp32",
                    schema_sha256=hashlib.sha256(dump_object({"of": path})).hexdigest(),
                    chunks_sha256=hash_chunks(blob),
                    reference_hash="0" * 16,
                    latency_ms_p95=1.0,
                    label_flips=0.0,
                    max_abs_error=0.0,
                    created_at=now,
                )
            )


class EnrolServer:
    """The enrolment API over TLS; remembers what it was asked."""

    def __init__(self, fleet: Fleet, *, answer_ca: bytes | None = None) -> None:
        self.asked: list[str] = []
        app = FastAPI()
        install_problems(app)

        @app.middleware("http")
        async def note(
            request: Request, call_next: Callable[[Request], Awaitable[Response]]
        ) -> Response:
            self.asked.append(f"{request.method} {request.url.path}")
            if answer_ca is not None and request.method == "GET":
                return Response(answer_ca)
            return await call_next(request)

        app.include_router(enrol_router(build_enrolment(fleet)))
        keys = fleet.workspace.keys_dir
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host="127.0.0.1",
                port=0,
                log_level="error",
                ssl_certfile=keys / "api.pem",
                ssl_keyfile=keys / "api.key",
                lifespan="off",
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive()
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@contextmanager
def enrol_server(fleet: Fleet, *, answer_ca: bytes | None = None) -> Iterator[EnrolServer]:
    server = EnrolServer(fleet, answer_ca=answer_ca)
    server.start()
    try:
        yield server
    finally:
        server.stop()
