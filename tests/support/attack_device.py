"""A real agent within an attacker's reach: real verifier, disk, package, runtime and answers.

Only the wire is played: ``deliver`` brings whatever whoever holds the broker wants, and
``serve`` answers requests for chunks however they want. The self-test runs in this process.
Time moves when told, and the clock on the wall apart from the one that never goes back.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.chunk_store import DirectoryChunkStore
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.package_check import check_package
from edge_agent.adapters.package_restorer import DirectoryRestorer
from edge_agent.adapters.state_store import FileStateStore
from edge_agent.adapters.telemetry_uplink import TelemetryUplink
from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.agent import Agent, AgentOptions, AgentPorts
from edge_agent.commits import restore_state
from edge_agent.contract.errors import ContractError
from edge_agent.contract.messages import Reported
from edge_agent.contract.metadata import encode_bundle
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic, meta_topic
from edge_agent.contract.transfer import ChunkRequest
from edge_agent.ports import (
    BlobStore,
    Connected,
    Disconnected,
    MessageArrived,
    SelfTestLimits,
    SelfTestResult,
)
from tests.support.agent import ChunkServer
from tests.support.agent_world import PlayedLink, PlayedProbe, QueuedJobs
from tests.support.attack_clock import WallClock
from tests.support.encoded import MEMORY_BYTES
from tests.support.serving import make_service

SLOT = "plant"
ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
"""What the application of the device asks, again and again."""
LIMITS = SelfTestLimits(latency_ms_p95_max=1e6, rss_bytes_max=10**10)
SETTLE_S = 35
"""Beyond the grace in which a refusal that the other half would cure is not reported."""

_BIN = re.compile(r"\d+\.(packages-[0-9a-f]+)\.json")
Serve = Callable[[ChunkRequest], Iterable[bytes]]
"""Answers one request for chunks with payloads of ``down/xfer``."""


class InProcessTester:
    """The real self-test without its child."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def test(self, sha256: str) -> SelfTestResult:
        return check_package(self._blobs.read(sha256), sha256, LIMITS, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the application gets: which package answered, and what."""

    target: str
    probabilities: tuple[tuple[float, ...], ...]


class Device:
    """One device's agent on a directory; ``start`` begins a life of it."""

    def __init__(
        self,
        directory: Path,
        *,
        root: bytes,
        clock: WallClock,
        device_id: str,
        fleet: str,
        profile: str,
        serve: Serve,
    ) -> None:
        self.directory, self.root, self.clock = directory, root, clock
        self.device_id, self.fleet, self.profile = device_id, fleet, profile
        self.serve = self.serve_honestly = serve
        self.boots = 0
        self.bins: dict[str, bytes] = {}
        """What the broker holds retained on the topics of hash bins."""
        self._heard: dict[str, bytes] = {}
        self._former_reports: list[Reported] = []

    def start(self) -> None:
        """Start the agent on what is on disk and connect it."""
        self.boots += 1
        self._heard = {}
        self.link, self.jobs = PlayedLink(), QueuedJobs()
        self.blobs = DirectoryBlobStore(self.directory / "blobs")
        self.outbox = Outbox(None)
        self.service = make_service(clock=self.clock, outbox=self.outbox, boot=self.boots)
        link, store = self.link, FileStateStore(self.directory)
        self.agent = Agent(
            AgentOptions(device_id=self.device_id, boot=self.boots, latency_ms_p95_max=1e6),
            AgentPorts(
                clock=self.clock,
                jitter=lambda: 0.5,
                verifier=TufVerifier(
                    directory=self.directory / "tuf",
                    bootstrap_root=self.root,
                    device_id=self.device_id,
                    fleet=self.fleet,
                    profile=self.profile,
                    clock=self.clock,
                ),
                state_store=store,
                blobs=self.blobs,
                chunks=DirectoryChunkStore(self.directory / "parts", self.blobs),
                restorer=DirectoryRestorer(
                    self.directory / "parts", self.blobs, memory_bytes=MEMORY_BYTES
                ),
                inference=self.service,
                self_tester=InProcessTester(self.blobs),
                telemetry=TelemetryUplink(
                    self.outbox,
                    lambda payload: link.publish(Channel.TELEMETRY, payload, qos=1),
                    self.clock,
                    lambda: 0.5,
                    close_due=self.service.close_due,
                ),
                link=link,
                jobs=self.jobs,
                probe=PlayedProbe(),
            ),
            restore_state(store),
        )
        self.agent.start()
        self.work()
        self.connect()

    def restart(self) -> None:
        """End this life as a power cut does, and begin another."""
        self._former_reports = list(self.reports)
        self.close()
        self.start()

    def close(self) -> None:
        """Let go of what this life held open."""
        self.outbox.close()

    # The wire -----------------------------------------------------------------------------------

    def connect(self) -> None:
        self.link.is_connected = True
        self.agent.handle(Connected())

    def disconnect(self) -> None:
        self.link.is_connected = False
        self.agent.handle(Disconnected("reset"))

    def say(self, channel: Channel, payload: bytes) -> None:
        """Deliver a message on one of this device's topics."""
        self.say_on(device_topic(self.device_id, channel), payload)

    def say_on(self, topic: str, payload: bytes) -> None:
        """Deliver a message on any topic."""
        self.agent.handle(MessageArrived(topic, payload))

    def say_metadata(self, files: Mapping[str, bytes]) -> None:
        """Deliver metadata files as ``meta/current``."""
        self.say_on(META_TOPIC, encode_bundle(files))

    def deliver(
        self, files: Mapping[str, bytes], envelope: bytes, *, for_s: float = SETTLE_S
    ) -> None:
        """Deliver both halves, the bins as they are asked for, and let the device deal with it."""
        common, bins = {}, {}
        for name, data in files.items():
            found = _BIN.fullmatch(name)
            if found is None:
                common[name] = data
            else:
                bins[meta_topic(found[1])] = encode_bundle({name: data})
        self.bins = bins
        self.say_metadata(common)
        self.say(Channel.DESIRED, envelope)
        self.run(for_s)

    # Time ---------------------------------------------------------------------------------------

    def work(self) -> None:
        """Do everything that needs no time."""
        while True:
            self._serve_chunks()
            self._hear_bins()
            if not self.jobs.waiting:
                return
            _, job = self.jobs.waiting.popleft()
            self.agent.handle(job())

    def run(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Let time pass, working."""
        self.work()
        for _ in range(max(1, int(seconds / step_s))):
            self.clock.advance(step_s)
            self.agent.tick()
            self.work()

    # What can be seen ---------------------------------------------------------------------------

    def ask(self) -> Answer:
        """Ask as the application does; raises when nothing answers."""
        prediction = self.service.predict(SLOT, ROWS)
        return Answer(
            target=prediction.target,
            probabilities=tuple(
                tuple(round(float(p), 4) for p in row)
                for row in prediction.outputs["probabilities"]
            ),
        )

    @property
    def reports(self) -> Sequence[Reported]:
        """Every report so far."""
        return self._former_reports + [
            Reported.decode(payload)
            for channel, payload in self.link.sent
            if channel is Channel.REPORTED
        ]

    def said_codes(self) -> set[str]:
        """Every refusal and failure that a report named."""
        found: set[str] = set()
        for report in self.reports:
            found |= {report.refusal["code"]} if report.refusal else set()
            found |= {slot.code for slot in report.slots.values() if slot.code}
        return found

    def forget_reports(self) -> None:
        """Begin anew to remember what was reported."""
        self._former_reports, self.link.sent = [], []

    def _hear_bins(self) -> None:
        for topic in sorted(self.link.watched):
            payload = self.bins.get(topic)
            if payload is not None and self._heard.get(topic) != payload:
                self._heard[topic] = payload
                self.say_on(topic, payload)

    def _serve_chunks(self) -> None:
        while asked := [m for m in self.link.sent if m[0] is Channel.CHUNK_REQUEST]:
            self.link.sent = [m for m in self.link.sent if m[0] is not Channel.CHUNK_REQUEST]
            for _, payload in asked:
                for frame in self.serve(ChunkRequest.decode(payload)):
                    self.say(Channel.CHUNK, frame)


class PackageServer:
    """Answers requests for chunks of packages as the server does."""

    def __init__(self, packages: Iterable[bytes]) -> None:
        served = (ChunkServer(blob) for blob in packages)
        self.by_sha256 = {server.sha256: server for server in served}

    def __call__(self, request: ChunkRequest) -> list[bytes]:
        server = self.by_sha256.get(request.sha256)
        if server is None:
            raise ContractError(f"nobody has package {request.sha256}")
        return [frame.encode() for frame in server.answer(request)]
