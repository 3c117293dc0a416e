"""A fleet whose windows are written by hand into real databases."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from edge_agent.contract.windows import Window
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.reference import Reference, reference_hash
from edge_agent.statistics.varint import encode_counters
from fleet_server.adapters.database.drift_repository import DatabaseDriftCatalog, DatabaseDriftStore
from fleet_server.adapters.database.engine import open_engine, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    DeviceRow,
    GroupRow,
    ModelRow,
    VersionRow,
)
from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.core.drift_policy import DriftPolicy
from fleet_server.errors import NotFoundError
from fleet_server.ports.telemetry import DeviceWindow, WindowBatch
from fleet_server.services.watch_drift import DriftDesk, DriftWatch
from tests.support.clock import FakeClock
from tests.support.drift import answer

WINDOW_S = 60


class References:
    """Packages that are only their reference."""

    def __init__(self) -> None:
        self.by_sha256: dict[str, bytes] = {}

    def read_reference(self, sha256: str) -> bytes:
        if sha256 not in self.by_sha256:
            raise NotFoundError(f"object {sha256} is not in the object store")
        return self.by_sha256[sha256]


@dataclass
class DriftFleet:
    """Devices ``cam-00`` up and ``gw-00`` up, half of each, all with one model ``m``."""

    engine: Engine
    store: SqliteWindowStore
    reference: Reference
    size: int = 12
    clock: FakeClock = field(default_factory=FakeClock)
    references: References = field(default_factory=References)
    shift: dict[str, float] = field(default_factory=dict)
    moved: dict[int, Reference] = field(default_factory=dict)
    sequence: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    @property
    def encoded(self) -> bytes:
        return self.reference.encode()

    @property
    def sha256(self) -> str:
        return package_of(self.reference)

    @property
    def drift(self) -> DatabaseDriftStore:
        return DatabaseDriftStore(self.engine)

    def desk(self) -> DriftDesk:
        return DriftDesk(store=self.drift, clock=self.clock)

    def watch(self) -> DriftWatch:
        return DriftWatch(
            windows=self.store,
            references=self.references,
            catalog=DatabaseDriftCatalog(self.engine),
            store=self.drift,
            clock=self.clock,
            policy=DriftPolicy(),
        )

    def register(self) -> None:
        """Put devices, a group and the package into the control database."""
        self.references.by_sha256[self.sha256] = self.encoded
        with write_session(self.engine) as session:
            for number in range(1, self.size + 1):
                is_camera = number <= self.size // 2
                session.add(
                    DeviceRow(
                        number=number,
                        id=f"{'cam' if is_camera else 'gw'}-{number:02}",
                        profile="camera" if is_camera else "iot-gateway",
                        labels=json.dumps({"site": "hall" if number % 2 else "yard"}),
                        created_at=self.clock.now(),
                    )
                )
            session.add(
                GroupRow(name="cameras", query="profile=camera", created_at=self.clock.now())
            )
            session.add(ModelRow(name="m", task="classification", created_at=self.clock.now()))
            session.flush()
            session.add(VersionRow(model="m", number=1, created_at=self.clock.now()))
            session.add(self._artifact(1, self.reference))

    def move(self, numbers: Iterable[int], reference: Reference) -> None:
        """Let devices run version 2, which was trained on other data."""
        if not self.moved:
            self.references.by_sha256[package_of(reference)] = reference.encode()
            with write_session(self.engine) as session:
                session.add(VersionRow(model="m", number=2, created_at=self.clock.now()))
                session.add(self._artifact(2, reference))
        self.moved.update(dict.fromkeys(numbers, reference))

    def _artifact(self, version: int, reference: Reference) -> ArtifactRow:
        return ArtifactRow(
            model="m",
            version=version,
            profile="camera",
            target=f"m/{version}/camera.tar",
            sha256=package_of(reference),
            size_bytes=1,
            precision="fp32",
            schema_sha256="0" * 64,
            chunks_sha256="0" * 64,
            reference_hash=reference_hash(reference.encode()).hex(),
            latency_ms_p95=1.0,
            label_flips=0.0,
            max_abs_error=0.0,
            created_at=self.clock.now(),
        )

    def send(self, windows: int = 1, rows: int = 100) -> None:
        """Let time pass; each device closes so many windows."""
        for _ in range(windows):
            self.clock.advance(WINDOW_S)
            found = [self._window(number, rows) for number in range(1, self.size + 1)]
            self.store.append(WindowBatch(received_at=self.clock.now(), windows=found))
            self.sequence += 1

    def send_bytes(self, number: int, counters: bytes) -> None:
        """Send one window with these counters."""
        self.store.append(
            WindowBatch(received_at=self.clock.now(), windows=[self._stored(number, 1, counters)])
        )
        self.sequence += 1

    def _window(self, number: int, rows: int) -> DeviceWindow:
        data = self.rng.normal(size=(rows, len(self.reference.features))).astype(np.float32)
        kind = "cam" if number <= self.size // 2 else "gw"
        data[:, 1] += self.shift.get(kind, 0.0) + self.shift.get(f"{kind}-{number:02}", 0.0)
        counter = WindowCounter(self.moved.get(number, self.reference))
        counter.add(data, answer(data), 1.0)
        taken, counters = counter.take()
        return self._stored(number, taken, encode_counters(counters))

    def _stored(self, number: int, rows: int, counters: bytes) -> DeviceWindow:
        t1_ms = int(self.clock.now().timestamp() * 1_000)
        reference = self.moved.get(number, self.reference)
        window = Window(
            stream=0,
            sequence=self.sequence,
            t0_ms=t1_ms - WINDOW_S * 1_000,
            t1_ms=t1_ms,
            reference=reference_hash(reference.encode()),
            artifact=bytes.fromhex(package_of(reference))[:8],
            rows=rows,
            counters=counters,
        )
        return DeviceWindow(number, 1, window)


def package_of(reference: Reference) -> str:
    return hashlib.sha256(b"package" + reference.encode()).hexdigest()


def open_drift_fleet(directory: Path, reference: Reference) -> DriftFleet:
    migrate(directory / "control.db")
    fleet = DriftFleet(
        engine=open_engine(directory / "control.db"),
        store=SqliteWindowStore(directory / "telemetry.db", retention=timedelta(days=7)),
        reference=reference,
    )
    fleet.register()
    return fleet
