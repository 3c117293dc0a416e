"""Register a training result: packages into the store, then one transaction.

A package that no version names is a leftover without effect; a version whose package is missing
cannot exist, because the packages are durable before the transaction begins.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.request import BuiltPackage
from edge_agent.statistics.reference import reference_hash
from fleet_server.ports.clock import Clock
from fleet_server.ports.registry import ModelRegistry, NewArtifact, NewVersion, PackageStore
from fleet_server.services.inspect_packages import hash_chunks
from fleet_server.training.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltArtifact:
    """What the registry keeps of one profile's build; attributes as in ``NewArtifact``."""

    profile: str
    blob: bytes
    schema: bytes
    reference: bytes
    precision: str
    latency_ms_p95: float
    label_flips: float
    max_abs_error: float
    decision: str

    @classmethod
    def of(cls, profile: str, package: BuiltPackage) -> "BuiltArtifact":
        """Keep what a build gave."""
        return cls(
            profile=profile,
            blob=package.blob,
            schema=package.schema.encode(),
            reference=package.reference,
            precision=str(package.precision),
            latency_ms_p95=package.latency_ms_p95,
            label_flips=package.label_flips,
            max_abs_error=package.max_abs_error,
            decision=package.decision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A judged training; attributes as in ``NewVersion``."""

    spec: Spec
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any]
    forced_reason: str
    data_sha256: str
    run: Mapping[str, Any]
    built: tuple[BuiltArtifact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterVersion:
    """The use case."""

    registry: ModelRegistry
    packages: PackageStore
    clock: Clock

    def register(self, result: TrainingResult, *, actor: str) -> int:
        """Store packages and version; return the version's number.

        Raises:
            RefusedError: The model has another task.
        """
        new = NewVersion(
            model=result.spec.model.name,
            task=str(result.spec.model.task),
            problem=result.spec.model.problem,
            spec=result.spec.text,
            metrics=result.metrics,
            evaluation=result.evaluation,
            forced_reason=result.forced_reason,
            data_sha256=result.data_sha256,
            run=result.run,
            artifacts=tuple(self._store(built) for built in result.built),
        )
        return self.registry.register(new, actor=actor, at=self.clock.now())

    def _store(self, built: BuiltArtifact) -> NewArtifact:
        return NewArtifact(
            profile=built.profile,
            sha256=self.packages.put(built.blob),
            size_bytes=len(built.blob),
            precision=built.precision,
            schema_sha256=hashlib.sha256(built.schema).hexdigest(),
            chunks_sha256=hash_chunks(built.blob),
            reference_hash=reference_hash(built.reference).hex(),
            latency_ms_p95=built.latency_ms_p95,
            label_flips=built.label_flips,
            max_abs_error=built.max_abs_error,
            decision=built.decision,
        )
