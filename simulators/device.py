"""One simulated device: the real agent on a shared loop, a played field, and its faults."""

import math
import random
import secrets
from concurrent.futures import Executor
from dataclasses import dataclass

from device_profiles.profile import DeviceProfile
from edge_agent.adapters.inference_service import InferenceService
from edge_agent.adapters.onnx_model_runner import RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.telemetry_recorder import WindowLimits
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.agent import Agent, AgentOptions, AgentPorts
from edge_agent.contract.topics import Channel
from edge_agent.core.agent_state import AgentState
from edge_agent.errors import ServingError
from edge_agent.ports import CapabilityProbe, Clock, Identity
from simulators.async_link import AsyncLink
from simulators.faults import Faults
from simulators.field_data import FieldData
from simulators.loop_jobs import LoopJobs
from simulators.memory_stores import (
    MemoryBlobStore,
    MemoryChunkStore,
    MemoryStateStore,
    SharedBytes,
)
from simulators.shared_work import (
    UNLIMITED_MS,
    DeviceTester,
    SharedMetadata,
    SharedModels,
    SharedTests,
    SimulatedVerifier,
)

ROWS_PER_TURN_MAX = 1_000
OUTBOX_BYTES_MAX = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the devices of one process share."""

    clock: Clock
    probe: CapabilityProbe
    pool: Executor
    worker: Executor
    data: FieldData
    faults: Faults
    shared: SharedBytes
    models: SharedModels
    tests: SharedTests
    metadata: SharedMetadata
    window_s: float | None
    rows_per_s: float


@dataclass(slots=True)
class Counts:
    """What one device did so far."""

    rows: int = 0
    errors: int = 0
    cuts: int = 0


class SimulatedDevice:
    """A device; everything happens in the loop's thread."""

    def __init__(self, identity: Identity, profile: DeviceProfile, around: Surroundings) -> None:
        self.identity, self._around = identity, around
        boot = secrets.randbits(63)
        self._random = random.Random(f"{around.faults.seed}/{identity.device_id}")  # noqa: S311 - play
        jitter = self._random.random
        self.counts = Counts()
        self.is_drifted = False
        self._begun_at = self._fed_at = around.clock.monotonic()
        self._cut_at = self._begun_at + around.faults.next_disconnect_s(identity.device_id, 0)
        blobs = MemoryBlobStore(around.shared)
        self._outbox = Outbox(None, bytes_max=OUTBOX_BYTES_MAX)
        self._service = InferenceService(
            clock=around.clock,
            outbox=self._outbox,
            boot=boot,
            windows=WindowLimits(
                window_s=around.window_s or float(profile.telemetry.window_s),
                window_rows_max=profile.telemetry.window_rows_max,
            ),
            options=RuntimeOptions(),
            load=around.models.load,
        )
        self.link = link = AsyncLink(
            identity, boot, self._take, clock=around.clock, jitter=jitter, pool=around.pool
        )
        self._uplink = TelemetryUplink(
            self._outbox,
            lambda payload: link.publish(Channel.TELEMETRY, payload, qos=1),
            around.clock,
            jitter,
            close_due=self._service.close_due,
        )
        self._jobs = LoopJobs(self._take, around.worker)
        self.agent = Agent(
            AgentOptions(device_id=identity.device_id, boot=boot, latency_ms_p95_max=UNLIMITED_MS),
            AgentPorts(
                clock=around.clock,
                jitter=jitter,
                verifier=SimulatedVerifier(identity, around.metadata, around.clock),
                state_store=MemoryStateStore(),
                blobs=blobs,
                chunks=MemoryChunkStore(around.shared, blobs),
                inference=self._service,
                self_tester=DeviceTester(identity.device_id, around.tests, around.faults),
                telemetry=self._uplink,
                link=link,
                jobs=self._jobs,
                probe=around.probe,
            ),
            AgentState(),
        )

    def start(self, wait_s: float) -> None:
        """Start the agent; connect after a while."""
        self.agent.start()
        self.link.connect_after(wait_s)

    def turn(self) -> None:
        """Do about a second's worth: answer rows, break if it is time, let the agent tick."""
        now = self._around.clock.monotonic()
        self._answer_rows(now)
        self.link.keep_alive()
        if now >= self._cut_at:
            self._cut(now)
        self.agent.tick()

    def finish(self) -> None:
        """Begin nothing more; close the windows and send what may be sent."""
        self._jobs.close()
        self._service.close()
        self._uplink.pump()
        self.agent.stop()

    def stop(self) -> None:
        """Say goodbye to the broker."""
        self.link.stop()

    def close(self) -> None:
        """Let go of what is not the loop's."""
        self._outbox.close()

    @property
    def running(self) -> dict[str, str]:
        """Target that answers, by slot."""
        return {name: served.target for name, served in self._service.slots().items()}

    def windows(self) -> dict[str, int]:
        """Return ``waiting`` and ``dropped`` telemetry windows."""
        return dict(self._uplink.counts())

    def _take(self, item: object) -> None:
        self.agent.handle(item)

    def _answer_rows(self, now: float) -> None:
        around = self._around
        due = (now - self._fed_at) * around.rows_per_s
        rows = min(math.floor(due), ROWS_PER_TURN_MAX)
        if rows < 1:
            return
        self._fed_at = now
        for slot, served in self._service.slots().items():
            blob = around.shared.blobs.get(served.sha256)
            if blob is None:
                continue
            table = around.data.rows_for(blob, served.sha256, is_drifted=self.is_drifted)
            picked = self._random.choices(range(len(table)), k=rows)
            try:
                self._service.predict(slot, table[picked])
            except ServingError:
                self.counts.errors += 1
            else:
                self.counts.rows += rows

    def _cut(self, now: float) -> None:
        self.counts.cuts += 1
        self.link.cut()
        faults, device_id = self._around.faults, self.identity.device_id
        self._cut_at = now + faults.next_disconnect_s(device_id, self.counts.cuts)
