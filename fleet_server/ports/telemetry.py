"""Where telemetry windows are kept, as ingest, drift and retention need it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from edge_agent.contract.windows import Window
from fleet_server.errors import FleetError


class StoreError(FleetError):
    """The store did not take a batch; nothing of it was kept and it may be offered again."""


class DeviceWindow(NamedTuple):
    """A window and whose it is; ``device`` is the device's number in the control database."""

    device: int
    boot: int
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedMessage:
    """A message nobody can use, kept so that a person can see why.

    Attributes:
        topic: As received; the first 200 characters are kept.
        channel: ``tel``, ``reported``, …; ``unknown`` when the topic is not a device's.
        reason: One sentence.
        payload: The first 512 bytes are kept, its length in full.
    """

    topic: str
    channel: str
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """What is committed at once."""

    received_at: datetime
    windows: Sequence[DeviceWindow] = ()
    quarantined: Sequence[QuarantinedMessage] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of a batch's windows; all of them may be acknowledged.

    Attributes:
        inserted: New rows.
        duplicates: Refused by the unique key: sent twice, counted once.
        too_late: Older than the retention; counted, not stored.
        unplaced: Dated more than a day ahead: stored apart from the days.
        overflow: Dated ahead when the place for those was full; counted, not stored.
    """

    inserted: int = 0
    duplicates: int = 0
    too_late: int = 0
    unplaced: int = 0
    overflow: int = 0


class StoredWindow(NamedTuple):
    """One window as the drift judge reads it."""

    device: int
    stream: int
    boot: int
    sequence: int
    t0_ms: int
    t1_ms: int
    reference: str
    """First 8 bytes of the drift reference's sha256, 16 hex digits."""
    artifact: str
    """First 8 bytes of the package's sha256, 16 hex digits."""
    rows: int
    counters: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryStats:
    """Totals over the life of the store, and what it holds now.

    Attributes:
        totals: By name: received, inserted, duplicates, too_late, unplaced, overflow, rows,
            batches, quarantined and ``quarantined:CHANNEL``.
        days: Days with a table, ``YYYYMMDD``, oldest first.
        unplaced: Windows dated ahead that are kept.
        file_bytes: Database and write-ahead log.
    """

    totals: Mapping[str, int]
    days: Sequence[str] = field(default_factory=tuple)
    unplaced: int = 0
    file_bytes: int = 0


class WindowStore(Protocol):
    """Windows, each counted once."""

    def append(self, batch: WindowBatch) -> Appended:
        """Commit a batch: windows, marks, quarantine and totals in one transaction.

        Raises:
            StoreError: Nothing was kept.
        """
        ...

    def read_recent(
        self, since_ms: int, *, per_device_max: int, references: Collection[str] | None = None
    ) -> Iterator[StoredWindow]:
        """Read windows that began at or after ``since_ms`` (epoch), newest first.

        Args:
            since_ms: Epoch milliseconds.
            per_device_max: At most so many for each device and reference.
            references: Only these, 16 hex digits each; None means all.
        """
        ...

    def drop_before(self, before_ms: int) -> int:
        """Drop the days that ended at or before ``before_ms``; return how many."""
        ...

    def stats(self) -> TelemetryStats:
        """Return totals and sizes."""
        ...
