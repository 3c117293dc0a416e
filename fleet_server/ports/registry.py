"""Models, their versions and packages: what training writes and the fleet reads.

A version never changes once registered; only its ``state`` follows the approvers' decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

AGAINST_CHAMPION = "against_champion"
"""Key of a member's evaluation: its primary metric beside that of the version in service."""

AGAINST_FALLBACK = "against_fallback"
"""Key of a member's evaluation: its primary metric beside the fallback's, on its own rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArtifact:
    """A package about to be registered; its bytes are already in the package store.

    Attributes:
        profile: Device profile id.
        sha256: Of the package, 64 hex digits.
        size_bytes: Of the package.
        precision: Of the shipped graph.
        schema_sha256: Of schema.json.
        chunks_sha256: Over the concatenated sha256 of its 64 KiB chunks.
        reference_hash: First 8 bytes of sha256 of reference.json, hex.
        latency_ms_p95: Of one row, on the machine that built it.
        label_flips: Share of held-out rows whose label differs from the source model.
        max_abs_error: Largest difference of an output on the held-out rows.
        decision: Why this precision, in a sentence.
    """

    profile: str
    sha256: str
    size_bytes: int
    precision: str
    schema_sha256: str
    chunks_sha256: str
    reference_hash: str
    latency_ms_p95: float
    label_flips: float
    max_abs_error: float
    decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A training result about to be registered; JSON values only in the mappings.

    Attributes:
        model: Model name.
        task: Of the model, the same for every version.
        problem: What the model is for.
        spec: Text of the spec.
        metrics: Of the source model on held-out rows.
        evaluation: Rows, confusion matrix, shipped metrics, gates.
        forced_reason: Why missed limits were overridden; empty when none was.
        data_sha256: Version of the data.
        run: Split, code, libraries, seconds.
        artifacts: One a profile.
    """

    model: str
    task: str
    problem: str
    spec: str
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any]
    forced_reason: str
    data_sha256: str
    run: Mapping[str, Any]
    artifacts: tuple[NewArtifact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A registered package and its target path."""

    target: str
    package: NewArtifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an approver decided about a version."""

    decision: str
    keyid: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A registered version; attributes as in ``NewVersion``."""

    model: str
    number: int
    state: str
    created_at: datetime
    spec: str
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any]
    forced_reason: str
    data_sha256: str
    run: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and the numbers of its versions.

    Attributes:
        name: Its name.
        task: Of every version.
        problem: As the newest version says.
        champion: Version in service, 0 when none.
        versions: Number to state, ascending.
        family: Pattern of the family its newest version is a member of; empty for none.
    """

    name: str
    task: str
    problem: str
    champion: int
    versions: Mapping[int, str] = field(default_factory=dict)
    family: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMember:
    """The newest version of one member of a family.

    Attributes:
        model: Its model name.
        number: Of the newest version.
        state: What was decided about that version.
        champion: Version in service, 0 when none.
        champion_state: What was decided about the version in service; empty when none.
        metrics: Of the newest version, before conversion.
        evaluation: Of the newest version.
        run: Of the newest version.
        sizes: Bytes of each package of the newest version, by profile id.
    """

    model: str
    number: int
    state: str
    champion: int
    champion_state: str
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any]
    run: Mapping[str, Any]
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, str]:
        """Its value by partition column; empty for the fallback."""
        return dict(self.run.get("family", {}).get("values", {}))

    @property
    def is_fallback(self) -> bool:
        """Whether it is for devices that have no member."""
        return bool(self.run.get("family", {}).get("is_fallback", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRun:
    """What came of training a family once.

    Attributes:
        pattern: Name of the family.
        is_acceptable: Whether no more members failed than the spec allows.
        sentence: How many were registered, kept and failed.
        registered: Members with a new version.
        kept: Members that were up to date.
        failed: Reason by member.
        too_small: Rows by member that has fewer than the spec asks for.
        rows_without: Rows with no value in a partition column.
        reasons: How many graphs were converted in full, by the reason.
        at: When it ended.
    """

    pattern: str
    is_acceptable: bool
    sentence: str
    registered: int
    kept: int
    failed: Mapping[str, str]
    too_small: Mapping[str, int]
    rows_without: int
    reasons: Mapping[str, int]
    at: datetime


class ModelRegistry(Protocol):
    """The models of a fleet."""

    def list_models(self) -> list[Model]:
        """Give every model by name."""
        ...

    def find_model(self, name: str) -> Model | None:
        """Give one model."""
        ...

    def find_version(self, model: str, number: int) -> Version | None:
        """Give one version with its packages and decisions."""
        ...

    def list_family(self, pattern: str) -> list[FamilyMember]:
        """Give the members of a family by name; empty when there are none."""
        ...

    def record_family_run(self, run: FamilyRun, *, actor: str) -> None:
        """Keep what came of training a family, with the audit log's entry."""
        ...

    def find_family_run(self, pattern: str) -> FamilyRun | None:
        """Give the newest run of a family; None when none was kept."""
        ...

    def register(self, new: NewVersion, *, actor: str, at: datetime) -> int:
        """Store a version under the model's next number, all or nothing; return the number.

        Raises:
            RefusedError: The model has another task.
        """
        ...


class PackageStore(Protocol):
    """Immutable blobs by their sha256."""

    def put(self, data: bytes) -> str:
        """Store a blob durably; return its sha256, 64 hex digits."""
        ...

    def read(self, sha256: str) -> bytes:
        """Return a blob, its hash checked; raises FleetError."""
        ...
