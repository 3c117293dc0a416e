"""Work whose result is the same on every simulated device, done once a process.

Loading a package and testing it depend on its bytes alone, checking signed metadata on the files
alone. What is a device's own (counter, floors, profile, slot, faults) is not shared.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.package_check import check_package
from edge_agent.adapters.tuf_metadata import TufClient
from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.contract.codes import Code
from edge_agent.core.release import PackageKey
from edge_agent.core.verified import AcceptedTrust
from edge_agent.ports import Clock, Identity, SelfTestLimits, SelfTestResult, Verdict
from simulators.faults import Faults
from simulators.memory_stores import SharedBytes

UNLIMITED_MS = 1e9
"""The latency of a thousand devices in one process says nothing about any of them."""


class SharedModels:
    """One ONNX session a package, whatever the number of devices that run it."""

    def __init__(self) -> None:
        self._models: dict[str, LoadedModel] = {}
        self._lock = Lock()

    def load(self, blob: bytes, sha256: str, options: RuntimeOptions) -> LoadedModel:
        """Load a package, or return the session that another device loaded; raises PackageError."""
        with self._lock:
            if sha256 not in self._models:
                self._models[sha256] = LoadedModel.from_package(blob, sha256, options)
            return self._models[sha256]


class SharedTests:
    """One self-test a package, in this process."""

    def __init__(self, shared: SharedBytes) -> None:
        self._shared = shared
        self._results: dict[str, SelfTestResult] = {}
        self._lock = Lock()

    def test(self, sha256: str) -> SelfTestResult:
        """Test a package the first time it is asked for."""
        with self._lock:
            if sha256 not in self._results:
                limits = SelfTestLimits(latency_ms_p95_max=UNLIMITED_MS, rss_bytes_max=2**62)
                blob = self._shared.blobs[sha256]
                self._results[sha256] = check_package(blob, sha256, limits, 1)
            return self._results[sha256]


class DeviceTester:
    """SelfTester of one device: the shared result, unless this device has a fault."""

    def __init__(self, device_id: str, tests: SharedTests, faults: Faults) -> None:
        self._device_id, self._tests, self._faults = device_id, tests, faults

    def test(self, sha256: str) -> SelfTestResult:
        """Test a package as this device would."""
        if self._faults.breaks(self._device_id, sha256):
            return SelfTestResult(
                ok=False, code=Code.SELFTEST_CRASH, detail="simulated: the self-test crashed"
            )
        return self._tests.test(sha256)


class SharedMetadata:
    """What the TUF client of this process trusts, for all devices pinned to the same root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = Lock()
        self._client: TufClient | None = None

    def client(self, root: bytes) -> TufClient:
        """Return the client that all devices of this process use."""
        with self.lock:
            if self._client is None:
                self._client = TufClient(self.directory, root)
            return self._client


class SimulatedVerifier(TufVerifier):
    """AssignmentVerifier of one device; the check of the metadata files is shared."""

    def __init__(self, identity: Identity, shared: SharedMetadata, clock: Clock) -> None:
        self._shared = shared
        super().__init__(
            directory=shared.directory,
            bootstrap_root=identity.root,
            device_id=identity.device_id,
            fleet=identity.fleet,
            profile=identity.profile,
            clock=clock,
        )
        self.client = shared.client(identity.root)

    def judge(
        self,
        files: Mapping[str, bytes],
        envelope: bytes,
        accepted: AcceptedTrust,
        held: frozenset[PackageKey] = frozenset(),
    ) -> Verdict:
        """Judge as a real device does, beginning with what another has checked of the files."""
        with self._shared.lock:
            return super().judge(files, envelope, accepted, held)
