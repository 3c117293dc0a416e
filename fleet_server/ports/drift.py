"""What watching drift needs from the world: windows, who sends them, a place for verdicts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from fleet_server.core.drift_alarm import AlarmMemory
from fleet_server.core.drift_policy import Level, Severity
from fleet_server.ports.telemetry import StoredWindow


class WindowReader(Protocol):
    """Reads windows; ``WindowStore`` of the telemetry port is one."""

    def read_recent(
        self, since_ms: int, *, per_device_max: int, references: Collection[str] | None = None
    ) -> Iterator[StoredWindow]:
        """Read windows that began at or after ``since_ms`` (epoch), newest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedDevice:
    """A device as drift sees it."""

    number: int
    id: str
    profile: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPackage:
    """A package whose windows may arrive.

    Attributes:
        model: Its model.
        version: Its version.
        sha256: Of the package.
        reference_hash: First 8 bytes of the sha256 of its drift reference, hex.
    """

    model: str
    version: int
    sha256: str
    reference_hash: str


class DriftCatalog(Protocol):
    """Reads who and what is watched."""

    def list_packages(self) -> list[WatchedPackage]:
        """Return every registered package."""
        ...

    def list_devices(self) -> list[WatchedDevice]:
        """Return every device that is not revoked."""
        ...

    def list_groups(self) -> dict[str, str]:
        """Return label queries by group name."""
        ...


class ReferenceSource(Protocol):
    """Opens packages."""

    def read_reference(self, sha256: str) -> bytes:
        """Return a package's ``reference.json``; raises FleetError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCell:
    """Newest judgement of one feature at one level.

    Attributes:
        level: Device, group or fleet.
        subject: Device id, group name, or ``all``.
        feature: Column name or ``answers``.
        rows: Rows behind it.
        windows: Windows added.
        statistic: Standardised, signed where there is a direction; named in ``detail``.
        p_value: Corrected for the four horizons; 0 where it underflows.
        psi: Debiased.
        sentence: For people.
        detail: JSON values: the parts of the test, shares, who is affected.
        at: When it was judged.
    """

    level: Level
    subject: str
    feature: str
    rows: int
    windows: int
    statistic: float
    p_value: float
    psi: float
    sentence: str
    detail: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAlarm:
    """An alarm; ``id`` is 0 before it is stored."""

    id: int
    model: str
    level: Level
    subject: str
    memory: AlarmMemory
    severity: Severity
    features: tuple[str, ...]
    sentence: str
    changed_at: datetime
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftDecision:
    """A verdict with what it was made of; ``core.drift_case.replay_case`` makes it again."""

    subject: str
    verdict: str
    sentence: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOutcome:
    """What one judgement of one model changes; written in one transaction.

    Attributes:
        model: Whose cells are replaced.
        cells: All of them.
        alarms: New and changed ones.
        dropped: Ids of pending alarms that came to nothing.
        decisions: To add.
        at: When.
    """

    model: str
    cells: Sequence[StoredCell]
    alarms: Sequence[StoredAlarm]
    dropped: Sequence[int]
    decisions: Sequence[DriftDecision]
    at: datetime


class DriftStore(Protocol):
    """Keeps verdicts."""

    def list_alarms(self, model: str | None = None, *, closed_max: int = 0) -> list[StoredAlarm]:
        """Return alarms that are not closed, and the newest ``closed_max`` closed ones."""
        ...

    def find_closed(self, model: str) -> dict[tuple[Level, str], AlarmMemory]:
        """Return what the newest closed alarm of each subject remembers."""
        ...

    def find_alarm(self, alarm_id: int) -> StoredAlarm | None:
        """Return one alarm."""
        ...

    def list_cells(self, model: str, level: Level | None = None) -> list[StoredCell]:
        """Return the newest judgement of a model, largest effect first."""
        ...

    def list_judged(self) -> list[str]:
        """Return the models with a judgement, by name."""
        ...

    def save(self, outcome: DriftOutcome) -> None:
        """Write an outcome."""
        ...

    def acknowledge(self, alarm_id: int, *, reason: str, actor: str, at: datetime) -> None:
        """Note who looks after an alarm, with an audit row; the alarm exists."""
        ...
