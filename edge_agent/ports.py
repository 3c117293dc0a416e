"""What the agent needs from the world, as Protocols, and the values that cross them.

One adapter per technology satisfies each; the simulators bring their own clock, link and disk.
Nothing here does I/O. Every port may be called from the agent's loop only, except where a
docstring says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # whoever serves, loads none of it
    from edge_agent.contract.codes import Code
    from edge_agent.contract.topics import Channel
    from edge_agent.core.late_labels import Truth
    from edge_agent.core.probation import ProbationStats
    from edge_agent.core.release import PackageKey
    from edge_agent.core.verified import AcceptedTrust, Standing, VerifiedAssignment
    from edge_agent.errors import Refusal

Jitter = Callable[[], float]
"""Gives a number in [0, 1) from a source of randomness."""


class Clock(Protocol):
    """The time of day and a clock that never goes back."""

    def now(self) -> datetime:
        """Return the time of day, aware UTC."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary instant; never goes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this device is and where its server is; made by enrolment, read at every start.

    Attributes:
        device_id: Certificate CN, MQTT client id and topic level.
        profile: Device profile id it was enrolled with.
        fleet: Name of the fleet.
        host: Server name or address.
        mqtt_port: TLS port of the broker.
        api_port: HTTPS port of enrolment and renewal.
        root: Bytes of the pinned first TUF root.
        directory: Where the PEM files lie.
        pair: Name of the key and certificate in use; a renewal writes the other of two names.
        is_plain: It joined a server without TLS on this machine (``adapters/plain_text.py``).
        ca: Name of the file of authorities in use; joining anew may write the other of two.
    """

    device_id: str
    profile: str
    fleet: str
    host: str
    mqtt_port: int
    api_port: int
    root: bytes
    directory: Path
    pair: str = "device"
    is_plain: bool = False
    ca: str = "ca.pem"

    @property
    def ca_path(self) -> Path:
        """Certificate authority that signed server and devices, PEM."""
        return self.directory / self.ca

    @property
    def certificate_path(self) -> Path:
        """The device's certificate, PEM."""
        return self.directory / f"{self.pair}.pem"

    @property
    def key_path(self) -> Path:
        """The device's private key, PEM, mode 0600."""
        return self.directory / f"{self.pair}.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the verifier says of metadata, of an assignment, and of what the device holds.

    Attributes:
        standing: What the metadata says; None when it is not to be believed.
        result: The assignment, or the first check that failed; None when none was given and
            the metadata is good.
        doubt: Why it cannot be told of some package held whether it is approved still.
    """

    standing: "Standing | None"
    result: "VerifiedAssignment | Refusal | None"
    doubt: "Refusal | None" = None


class AssignmentVerifier(Protocol):
    """Checks metadata and assignment against what the approvers signed. May be slow (10 ms)."""

    def judge(
        self,
        files: Mapping[str, bytes],
        envelope: bytes,
        accepted: "AcceptedTrust",
        held: "frozenset[PackageKey]" = frozenset(),
    ) -> Verdict:
        """Verify everything, change nothing of the agent's state; never raises for what is said.

        Args:
            files: TUF metadata by file name, from ``meta/current`` and the bins.
            envelope: DSSE envelope from ``down/desired``; empty when there is none.
            accepted: What the last judgement left to be committed.
            held: Packages on this device whose standing is asked.
        """

    def stored_files(self) -> Mapping[str, bytes]:
        """Return what to judge with before anything has arrived; empty when nothing is trusted."""


class StateStore(Protocol):
    """The one durable file that is the agent's commit point."""

    def load(self) -> dict[str, Any] | None:
        """Return the last committed state, None when there is none."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state durably and atomically.

        Raises:
            StorageError: The disk refused; the former state stays.
        """


class BlobStore(Protocol):
    """Whole packages by sha256. May be called from a worker thread."""

    def has(self, sha256: str) -> bool:
        """Tell whether a blob is there (its bytes are checked when read)."""

    def read(self, sha256: str) -> bytes:
        """Return the bytes, hashed just now.

        Raises:
            StorageError: Absent, or the bytes are not what the name says (then it is removed).
        """

    def path(self, sha256: str) -> Path:
        """Return where the blob lies, for a child process that hashes it itself."""

    def collect(self, keep: frozenset[str]) -> int:
        """Remove every blob not in ``keep``; return how many went."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialBlob:
    """What of a package is durably here, each piece hashed against the list.

    Attributes:
        hashes: Concatenated sha256 of all chunks; None when the list is not here yet.
        bitmap: Bit n set: chunk n is here.
    """

    hashes: bytes | None = None
    bitmap: int = 0


class ChunkStore(Protocol):
    """Parts of packages on their way in; survives a kill at any moment. Worker-thread safe.

    ``sha256`` of ``open`` and ``save_…`` may be a ``core.offer_plan.part_key``.
    """

    def open(self, sha256: str, size_bytes: int) -> PartialBlob:
        """Begin or resume.

        Raises:
            StorageError: ``DISK_FULL`` when ``size_bytes`` do not fit, ``DISK_ERROR`` otherwise.
        """

    def save_hashes(self, sha256: str, hashes: bytes) -> None:
        """Keep the checked list of chunk hashes durably."""

    def save_chunks(self, sha256: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Keep checked chunks durably; they count only once this returns."""

    def finish(self, sha256: str, size_bytes: int) -> None:
        """Hash the whole and move it into the blob store.

        Raises:
            StorageError: ``BLOB_HASH`` or ``BLOB_SIZE``; the parts are dropped.
        """

    def drop(self, keep: frozenset[str]) -> None:
        """Forget every part whose sha256 is not in ``keep``."""


class InferenceService(Protocol):
    """Answers predictions, one model per slot. All methods may be called from any thread."""

    def activate(self, slot: str, *, blob: bytes, target: str, sha256: str) -> None:
        """Load a package and let it answer; the former one answers until this one is ready.

        Args:
            slot: Slot name.
            blob: Bytes of the package whose hash was just checked.
            target: Path of its target, for metadata.
            sha256: Of the blob.

        Raises:
            AgentError: It cannot be loaded; what answered before still answers.
        """

    def deactivate(self, slot: str, *, reason: str = "") -> None:
        """Stop answering on a slot; ``reason`` is for whoever asks it from now on."""

    def probation_stats(self, slot: str) -> "ProbationStats":
        """Return what the slot answered since ``reset_stats`` or its activation."""

    def reset_stats(self, slot: str) -> None:
        """Begin counting anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestLimits:
    """What the device profile allows a package.

    Attributes:
        latency_ms_p95_max: One row, milliseconds.
        rss_bytes_max: Of the child process.
        timeout_s: The whole test.
    """

    latency_ms_p95_max: float
    rss_bytes_max: int
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestResult:
    """How a package did on this device; ``code`` and ``detail`` are of the failure."""

    ok: bool
    code: "Code | None" = None
    detail: str = ""
    latency_ms_p95: float | None = None
    rss_bytes: int | None = None


class SelfTester(Protocol):
    """Runs a package apart from the agent: a crash or a hang is a failed test. Slow."""

    def test(self, sha256: str) -> SelfTestResult:
        """Test the blob of that hash; never raises for what the package does."""


class TelemetryUplink(Protocol):
    """Sends windows from the durable outbox and forgets what the server committed."""

    def pump(self) -> None:
        """Close due windows and send what may be sent now; called about once a second."""

    def on_connected(self) -> None:
        """Send again what was sent but never acknowledged."""

    def on_ack(self, payload: bytes) -> None:
        """Take a ``down/telack`` message; a malformed one is counted and ignored."""

    def counts(self) -> Mapping[str, int]:
        """Return ``waiting`` and ``dropped`` windows for the report."""


class LabelSink(Protocol):
    """Takes what turned out to be true of an answer. May be called from any thread."""

    def add(self, prediction_id: str, label: "Truth") -> None:
        """Keep the late labels of one answer, all or none; never blocks long.

        Those that find no room are counted as dropped.

        Args:
            prediction_id: As the answer gave it, for an answer of one row; ``ID.n`` names row n,
                from 0, of an answer of several.
            label: Name of a class, or a regression's value (finite); of an answer of several
                targets or labels all or some of them by name.

        Raises:
            InputError: No answer of this device has that id, the label is not one its model
                knows, or is there already; says which.
        """


class Link(Protocol):
    """Publishes on this device's channels; may be called from any thread."""

    @property
    def is_connected(self) -> bool:
        """Whether a session with the broker stands."""

    def publish(
        self, channel: "Channel", payload: bytes, *, qos: int, is_retained: bool = False
    ) -> bool:
        """Hand a message to the session; False when it was not taken (offline or full)."""

    def spread_reconnects(self, spread_s: float) -> None:
        """Spread the first reconnect over this many seconds from now on."""

    def watch(self, topics: frozenset[str]) -> None:
        """Subscribe to exactly these beside what every device hears; also after a reconnect."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The link has a session and its subscriptions."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link lost its session."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFound:
    """How the process that serves does; said when it changes.

    Attributes:
        is_up: Whether it takes requests.
        restarts: Since the agent started.
        failures: In a row, the newest included; 0 while none has happened.
        fault: Why the last one ended and, while none is up, when the next start is; empty when
            none ended.
    """

    is_up: bool
    restarts: int
    failures: int
    fault: str


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """The broker delivered a message; size is bounded by the session, nothing else is checked."""

    topic: str
    payload: bytes


class Lane(StrEnum):
    """Jobs of one lane run one after another; lanes do not wait for each other."""

    TRUST = "trust"
    DISK = "disk"
    TEST = "test"
    SERVE = "serve"


class Jobs(Protocol):
    """Runs slow work beside the agent's loop."""

    def submit(self, lane: Lane, job: Callable[[], object]) -> None:
        """Run the job; the event it returns is handed to ``Agent.handle`` in the agent's loop."""


class CapabilityProbe(Protocol):
    """Finds out what this device really is."""

    def probe(self) -> Mapping[str, Any]:
        """Return onnxruntime version, IR and opset limits, CPU flags, libc, memory and disk."""
