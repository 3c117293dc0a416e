"""A whole agent in one thread: real core, shell and disk; the rest of the world is played.

Time moves only when nothing else is left to do. ``cut_power`` leaves what is on disk.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.chunk_store import DirectoryChunkStore
from edge_agent.adapters.package_restorer import DirectoryRestorer
from edge_agent.adapters.state_store import FileStateStore
from edge_agent.agent import Agent, AgentOptions, AgentPorts
from edge_agent.commits import restore_state
from edge_agent.contract.assignment import Assignment, ProbationPolicy, SlotAssignment
from edge_agent.contract.codes import Code
from edge_agent.contract.messages import Reported
from edge_agent.contract.metadata import encode_bundle
from edge_agent.contract.package import SCHEMA, OnWithdrawn, TargetCustom, unpack_members
from edge_agent.contract.shadow import ShadowReport, ShadowState
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic
from edge_agent.contract.transfer import ChunkRequest, Encoding, PackageOffer, Part
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import PackageKey
from edge_agent.core.slot import Slot
from edge_agent.core.verified import (
    AcceptedTrust,
    Standing,
    VerifiedAssignment,
    VerifiedTarget,
)
from edge_agent.errors import PackageError, Refusal
from edge_agent.ports import (
    Connected,
    Disconnected,
    Lane,
    MessageArrived,
    SelfTestResult,
    Verdict,
)
from edge_agent.shadow_port import ShadowOrder, ShadowSight
from fleet_server.adapters.package_encoder import Encoded
from tests.support.agent import GOOD_STATS, ChunkServer
from tests.support.clock import FakeClock
from tests.support.encoded import offer_frame

DEVICE = "cam-7"
SLOT = "plant"
POLICY = ProbationPolicy(duration_s=60, rows_min=30, timeout_s=600)


class PlayedLink:
    def __init__(self) -> None:
        self.is_connected = False
        self.sent: list[tuple[Channel, bytes]] = []
        self.spread_s: float | None = None
        self.watched: frozenset[str] = frozenset()

    def watch(self, topics: frozenset[str]) -> None:
        self.watched = topics

    def publish(
        self, channel: Channel, payload: bytes, *, qos: int, is_retained: bool = False
    ) -> bool:
        assert not is_retained
        assert qos == (0 if channel is Channel.CHUNK_REQUEST else 1)
        if self.is_connected:
            self.sent.append((channel, payload))
        return self.is_connected

    def spread_reconnects(self, spread_s: float) -> None:
        self.spread_s = spread_s


class PlayedVerifier:
    """Accepts what it is told to accept, by the envelope's bytes; trusts what it has seen.

    ``withdrawn`` names paths that metadata does not hold; it is told by whatever file named
    ``timestamp.json`` arrives next, and stays trusted over a power cut.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, VerifiedAssignment | Refusal] = {}
        self.asked = self.judged = 0
        self.files: Mapping[str, bytes] = {}
        self.withdrawn: set[str] = set()
        self.bins: frozenset[str] = frozenset()
        self.stored: dict[str, bytes] = {}
        self._trusted_withdrawn: frozenset[str] = frozenset()

    def stored_files(self) -> Mapping[str, bytes]:
        return self.stored

    def judge(
        self,
        files: Mapping[str, bytes],
        envelope: bytes,
        accepted: AcceptedTrust,
        held: frozenset[PackageKey] = frozenset(),
    ) -> Verdict:
        self.asked += bool(envelope)
        self.judged += 1
        self.files = files
        if "timestamp.json" not in files:
            return Verdict(standing=None, result=Refusal(Code.TUF_MISSING, "timestamp.json"))
        if files is not self.stored:
            self.stored = dict(files)
            self._trusted_withdrawn = frozenset(self.withdrawn)
        gone = frozenset(key for key in held if key.target in self._trusted_withdrawn)
        standing = Standing(accepted=accepted, approved=held - gone, withdrawn=gone, bins=self.bins)
        return Verdict(standing=standing, result=self._find_result(envelope, accepted))

    def _find_result(
        self, envelope: bytes, accepted: AcceptedTrust
    ) -> VerifiedAssignment | Refusal | None:
        if not envelope:
            return None
        result = self.known[envelope]
        if isinstance(result, Refusal):
            return result
        if result.accepted.counter < accepted.counter:
            return Refusal(Code.ASSIGN_REPLAY, f"{result.accepted.counter}")
        for target in result.targets.values():
            if target.path in self._trusted_withdrawn:
                return Refusal(Code.NOT_APPROVED, target.path)
        return result


class PlayedInference:
    """Answers with what was activated; a target in ``unloadable`` cannot be."""

    def __init__(self) -> None:
        self.served: dict[str, str] = {}
        self.unloadable: set[str] = set()
        self.stats = GOOD_STATS
        self.activated: list[str] = []
        self.reasons: dict[str, str] = {}

    def activate(self, slot: str, *, blob: bytes, target: str, sha256: str) -> None:
        assert ChunkServer(blob).sha256 == sha256
        if target in self.unloadable:
            raise PackageError(Code.SELFTEST_LOAD, "the runtime does not want it")
        self.served[slot] = sha256
        self.activated.append(sha256)

    def deactivate(self, slot: str, *, reason: str = "") -> None:
        self.served.pop(slot, None)
        self.reasons[slot] = reason

    def probation_stats(self, slot: str) -> ProbationStats:
        return self.stats if slot in self.served else ProbationStats()

    def reset_stats(self, slot: str) -> None:
        assert slot in self.served


class PlayedShadows:
    """Compares at once as many rows as it is told; ``code`` ends it."""

    def __init__(self) -> None:
        self.orders: dict[str, ShadowOrder] = {}
        self.rows = 200
        self.code: Code | None = None

    def start(self, slot: str, order: ShadowOrder) -> None:
        assert hashlib.sha256(order.package.path.read_bytes()).hexdigest() == order.package.sha256
        self.orders[slot] = order

    def stop(self, slot: str) -> None:
        self.orders.pop(slot, None)

    def find(self, slot: str) -> ShadowSight | None:
        order = self.orders.get(slot)
        if order is None:
            return None
        report = ShadowReport(
            sha256=order.package.sha256, state=ShadowState.COMPARING, rows=self.rows
        )
        return ShadowSight(attempt=order.attempt, report=report, code=self.code)


class PlayedTester:
    def __init__(self) -> None:
        self.bad: dict[str, Code] = {}
        self.tested: list[str] = []

    def test(self, sha256: str) -> SelfTestResult:
        self.tested.append(sha256)
        code = self.bad.get(sha256)
        return SelfTestResult(ok=code is None, code=code, detail="row 3" if code else "")


class PlayedTelemetry:
    def __init__(self) -> None:
        self.pumped = self.connected = 0
        self.acks: list[bytes] = []

    def pump(self) -> None:
        self.pumped += 1

    def on_connected(self) -> None:
        self.connected += 1

    def on_ack(self, payload: bytes) -> None:
        self.acks.append(payload)

    def counts(self) -> Mapping[str, int]:
        return {"waiting": 1, "dropped": 0}


class PlayedProbe:
    def probe(self) -> Mapping[str, Any]:
        return {"onnxruntime": "1.31.1"}


@dataclass
class QueuedJobs:
    waiting: deque[tuple[Lane, Callable[[], object]]] = field(default_factory=deque)

    def submit(self, lane: Lane, job: Callable[[], object]) -> None:
        self.waiting.append((lane, job))


class World:
    def __init__(
        self, directory: Path, *, grace_s: float = 30.0, restore_memory_bytes: int = 0
    ) -> None:
        self.directory, self.grace_s = directory, grace_s
        self.restore_memory_bytes = restore_memory_bytes
        self.offers: dict[str, PackageOffer] = {}
        """What the server says how a package can travel, by the package's sha256."""
        self.questions: list[ChunkRequest] = []
        self.clock = FakeClock()
        self.verifier, self.tester = PlayedVerifier(), PlayedTester()
        self.servers: dict[str, ChunkServer] = {}
        self.counter = self.boots = self.news = 0
        self.on_withdrawn = OnWithdrawn.STOP
        self.is_server_up = True
        self.start()

    def start(self) -> None:
        """Start an agent on what is on disk."""
        self.boots += 1
        self.link, self.jobs = PlayedLink(), QueuedJobs()
        self.inference, self.telemetry = PlayedInference(), PlayedTelemetry()
        self.shadows = PlayedShadows()
        self.blobs = DirectoryBlobStore(self.directory / "blobs")
        self.store = FileStateStore(self.directory)
        self.agent = Agent(
            AgentOptions(
                device_id=DEVICE,
                boot=self.boots,
                latency_ms_p95_max=10.0,
                grace_s=self.grace_s,
            ),
            AgentPorts(
                clock=self.clock,
                jitter=lambda: 0.5,
                verifier=self.verifier,
                state_store=self.store,
                blobs=self.blobs,
                chunks=DirectoryChunkStore(self.directory / "parts", self.blobs),
                restorer=self._make_restorer(),
                inference=self.inference,
                shadows=self.shadows,
                self_tester=self.tester,
                telemetry=self.telemetry,
                link=self.link,
                jobs=self.jobs,
                probe=PlayedProbe(),
            ),
            restore_state(self.store),
        )
        self.agent.start()

    cut_power = start

    def _make_restorer(self) -> DirectoryRestorer | None:
        memory_bytes, parts = self.restore_memory_bytes, self.directory / "parts"
        if not memory_bytes:
            return None
        return DirectoryRestorer(parts, self.blobs, memory_bytes=memory_bytes)

    def offer_encoded(self, target: bytes, made: Encoded) -> None:
        """Let the server have an encoding of a package, and offer it."""
        self.offers[ChunkServer(target).sha256] = made.offer
        self.servers[made.offer.sha256] = ChunkServer(made.data)

    def connect(self) -> None:
        self.link.is_connected = True
        self.agent.handle(Connected())

    def disconnect(self) -> None:
        self.link.is_connected = False
        self.agent.handle(Disconnected("reset"))

    def say(self, channel: Channel, payload: bytes) -> None:
        self.agent.handle(MessageArrived(device_topic(DEVICE, channel), payload))

    def send_metadata(self, files: Mapping[str, bytes] | None = None) -> None:
        bundle = encode_bundle(files if files is not None else {"timestamp.json": b"{}"})
        self.agent.handle(MessageArrived(META_TOPIC, bundle))

    def offer(self, blob: bytes, version: int, *, slot: str = SLOT, **changes: Any) -> bytes:
        """Sign an assignment of one slot and return its envelope; nothing is sent yet."""
        server = ChunkServer(blob)
        self.servers[server.sha256] = server
        return self.sign({slot: (server, version)}, **changes)

    def sign(self, slots: Mapping[str, tuple[ChunkServer, int]], **changes: Any) -> bytes:
        self.counter += 1
        assigned = SlotAssignment(target="model/1/camera.tar", probation=POLICY, **changes)
        targets = {
            name: _target(server, v, self.on_withdrawn) for name, (server, v) in slots.items()
        }
        assignment = Assignment(
            fleet="fleet",
            device=DEVICE,
            counter=self.counter,
            issued_at=self.clock.now(),
            expires_at=self.clock.now() + timedelta(days=7),
            slots={name: replace(assigned, target=t.path) for name, t in targets.items()},
            reconnect_spread_s=3.0,
        )
        envelope = assignment.encode()
        self.verifier.known[envelope] = VerifiedAssignment(
            assignment=assignment,
            targets=targets,
            accepted=AcceptedTrust(counter=self.counter),
            metadata={"targets": self.counter},
        )
        return envelope

    def assign(self, blob: bytes, version: int, **changes: Any) -> bytes:
        """Offer a package and send both halves."""
        envelope = self.offer(blob, version, **changes)
        self.send_metadata()
        self.say(Channel.DESIRED, envelope)
        return envelope

    def work(self, *, jobs: int | None = None) -> None:
        """Do everything that needs no time; ``jobs`` bounds the slow work done."""
        while True:
            if self.is_server_up and self.link.is_connected:
                self._serve_chunks()
            if not self.jobs.waiting or jobs == 0:
                return
            _, job = self.jobs.waiting.popleft()
            self.agent.handle(job())
            jobs = None if jobs is None else jobs - 1

    def run(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Let time pass, working."""
        self.work()
        for _ in range(int(seconds / step_s)):
            self.clock.advance(step_s)
            self.agent.tick()
            self.work()

    def slot(self, name: str = SLOT) -> Slot:
        return self.agent.state.slots[name]

    @property
    def reports(self) -> Sequence[Reported]:
        sent = [payload for channel, payload in self.link.sent if channel is Channel.REPORTED]
        return [Reported.decode(payload) for payload in sent]

    def _serve_chunks(self) -> None:
        requests = [p for channel, p in self.link.sent if channel is Channel.CHUNK_REQUEST]
        self.link.sent = [m for m in self.link.sent if m[0] is not Channel.CHUNK_REQUEST]
        for payload in requests:
            request = ChunkRequest.decode(payload)
            if request.part is Part.OFFER:
                self.questions.append(request)
                offer = self.offers.get(request.sha256, PackageOffer(encoding=Encoding.IDENTITY))
                self.say(Channel.CHUNK, offer_frame(request, offer).encode())
                continue
            for frame in self.servers[request.sha256].answer(request):
                self.say(Channel.CHUNK, frame.encode())
        if requests:
            self._serve_chunks()


def _target(server: ChunkServer, version: int, on_withdrawn: OnWithdrawn) -> VerifiedTarget:
    path = f"model/{version}/camera.tar"
    schema = ChunkServer(unpack_members(server.blob)[SCHEMA]).sha256
    return VerifiedTarget(
        path=path,
        sha256=server.sha256,
        size_bytes=len(server.blob),
        custom=TargetCustom(
            model="model",
            version=version,
            profile="camera",
            slot="",
            schema=schema,
            chunks=server.chunks,
            on_withdrawn=on_withdrawn,
        ),
    )
