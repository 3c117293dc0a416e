"""The slow work of the agent as plain functions that end in an event.

Each returned job runs beside the loop, perhaps in another thread; it reads values given when it
was made and touches ports that allow it. What a job expects to go wrong becomes an event.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import SCHEMA, unpack_members
from edge_agent.core.effects import StartShadow
from edge_agent.core.events import (
    ActivationFailed,
    Answering,
    Event,
    SelfTested,
    Verified,
    VerifyFailed,
)
from edge_agent.core.release import Package, Release
from edge_agent.errors import PackageError, StorageError
from edge_agent.ports import (
    BlobStore,
    CapabilityProbe,
    ChunkStore,
    Clock,
    InferenceService,
    Jitter,
    SelfTester,
)
from edge_agent.shadow_port import BlobPlace, ShadowOrder, ShadowService

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlotEvent:
    """An event for one slot, on its way back to the loop."""

    slot: str
    event: Event


@dataclass(frozen=True, slots=True)
class CapabilitiesFound:
    """What the device really is."""

    capabilities: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentJobs:
    """Makes jobs; holds only ports that may be called from any thread."""

    clock: Clock
    jitter: Jitter
    blobs: BlobStore
    chunks: ChunkStore
    inference: InferenceService
    shadows: ShadowService
    self_tester: SelfTester
    probe: CapabilityProbe

    def verify(self, slot: str, attempt: int, release: Release) -> Callable[[], SlotEvent]:
        """Hash the whole package, store it, and check that its schema is the signed one."""

        def job() -> SlotEvent:
            failure = self._find_fault(release)
            if failure is None:
                return SlotEvent(slot, Verified(attempt, self.clock.monotonic()))
            code, detail = failure
            now = self.clock.monotonic()
            return SlotEvent(slot, VerifyFailed(attempt, code, detail, now, self.jitter()))

        return job

    def self_test(self, slot: str, attempt: int, release: Release) -> Callable[[], SlotEvent]:
        """Run the self-test of a package."""

        def job() -> SlotEvent:
            result = self.self_tester.test(release.sha256)
            code = None if result.ok else result.code or Code.SELFTEST_CRASH
            now = self.clock.monotonic()
            return SlotEvent(slot, SelfTested(attempt, code, result.detail, now))

        return job

    def activate(self, slot: str, package: Package) -> Callable[[], SlotEvent]:
        """Let a package answer; its bytes are hashed just before."""

        def job() -> SlotEvent:
            try:
                blob = self.blobs.read(package.sha256)
                self.inference.activate(
                    slot, blob=blob, target=package.target, sha256=package.sha256
                )
            except (StorageError, PackageError) as error:
                now = self.clock.monotonic()
                return SlotEvent(
                    slot, ActivationFailed(package.sha256, error.code, error.detail, now)
                )
            now = self.clock.monotonic()
            return SlotEvent(slot, Answering(package.target, package.sha256, now))

        return job

    def deactivate(self, slot: str, reason: str) -> Callable[[], SlotEvent]:
        """Let nothing answer."""

        def job() -> SlotEvent:
            self.inference.deactivate(slot, reason=reason)
            return SlotEvent(slot, Answering("", None, self.clock.monotonic()))

        return job

    def start_shadow(self, slot: str, effect: StartShadow) -> Callable[[], None]:
        """Begin to compare a package with what answers; how it goes is asked for later."""

        def job() -> None:
            package, beside = effect.package.sha256, effect.beside.sha256
            self.shadows.start(
                slot,
                ShadowOrder(
                    attempt=effect.attempt,
                    package=BlobPlace(self.blobs.path(package), package),
                    beside=BlobPlace(self.blobs.path(beside), beside),
                    policy=effect.policy,
                ),
            )

        return job

    def stop_shadow(self, slot: str) -> Callable[[], None]:
        """Compare no more."""
        return lambda: self.shadows.stop(slot)

    def collect(self, find_needed: Callable[[], frozenset[str]]) -> Callable[[], None]:
        """Remove bytes nobody needs; what is needed is asked when the job runs, not before."""

        def job() -> None:
            needed = find_needed()
            try:
                self.chunks.drop(needed)
                self.blobs.collect(needed)
            except StorageError as error:  # nothing depends on it; the next one finds the same
                _LOG.warning("what is not needed stays on disk: %s", error)

        return job

    def find_capabilities(self) -> Callable[[], CapabilitiesFound]:
        """Find out what the device is."""
        return lambda: CapabilitiesFound(self.probe.probe())

    def _find_fault(self, release: Release) -> tuple[Code, str] | None:
        try:
            self.chunks.finish(release.sha256, release.size_bytes)
            blob = self.blobs.read(release.sha256)
            schema = unpack_members(blob)[SCHEMA]
        except StorageError as error:
            return error.code, error.detail
        except ContractError as error:
            return Code.PACKAGE_FORMAT, str(error)
        if hashlib.sha256(schema).hexdigest() != release.schema:
            return Code.PACKAGE_FORMAT, "schema.json is not the one that was signed"
        return None
