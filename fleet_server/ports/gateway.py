"""What the gateway needs from the broker, the control database and the package store."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from edge_agent.contract.messages import SlotReport
from fleet_server.core.clone_watch import BootMemory


class InboundMessage(NamedTuple):
    """A message as the broker delivered it."""

    topic: str
    payload: bytes
    is_retained: bool = False


class DeviceDirectory(Protocol):
    """Who may speak."""

    def find(self, device_id: str) -> int | None:
        """Return the number of an enrolled device, None when unknown or revoked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """What the server knows of a device's last words.

    Attributes:
        boot: Boot id of the newest message, 16 hex digits; empty before the first.
        sequence: Of the newest report of that boot, 0 before the first.
        is_online: As the device or its last will said.
        boots: What is remembered of earlier boots; no part of what two states differ in.
    """

    boot: str = ""
    sequence: int = 0
    is_online: bool = False
    boots: BootMemory = field(default=BootMemory(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedReport:
    """The newest report of a device, to be stored.

    Attributes:
        text: The JSON as received.
        slots: What it says of each slot.
        certificate: Serial of the certificate it says it uses; empty when it does not.
    """

    text: str
    slots: Mapping[str, SlotReport]
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalNote:
    """That a device refused something for reasons of trust, for the audit log.

    Attributes:
        place: Slot name, empty for a whole assignment.
        code: Refusal code.
        detail: The device's sentence.
    """

    place: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChange:
    """What a batch of messages makes of one device.

    Attributes:
        device: Number.
        state: As it is now.
        report: The newest report, None when there was none.
        refusals: Refusals of trust in the reports of the batch, by place and code.
        evidence: Why its identity seems to be in use twice; empty when it does not.
    """

    device: int
    state: DeviceState
    report: AcceptedReport | None
    refusals: tuple[RefusalNote, ...] = ()
    evidence: str = ""


class ReportRepository(Protocol):
    """Devices and slots of the control database."""

    def load_states(self, devices: Collection[int]) -> dict[int, DeviceState]:
        """Return what is stored of these devices."""
        ...

    def save_changes(self, changes: Sequence[DeviceChange], *, at: datetime) -> None:
        """Store changes in one transaction; slots a report does not name are removed."""
        ...

    def save_last_seen(self, devices: Collection[int], *, at: datetime) -> None:
        """Note that these devices were heard."""
        ...

    def mark_silent_offline(self, *, unseen_since: datetime) -> int:
        """Set devices offline that count as online but were not heard since; return how many."""
        ...


class BootHistory(Protocol):
    """Boots that are over; their late messages must change nothing."""

    def retired_boots(self, devices: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Return the boots each device left behind."""
        ...

    def retire_boots(self, boots: Collection[tuple[int, str]]) -> None:
        """Remember (device, boot) pairs, durably."""
        ...


class TransferRights(Protocol):
    """Who may fetch what."""

    def allowed_packages(self, device_id: str) -> frozenset[str]:
        """Return the sha256 of the packages that a device's targets name."""
        ...


class PackageSource(Protocol):
    """Packages by sha256."""

    def size_bytes(self, sha256: str) -> int:
        """Return a package's size; raises NotFoundError."""
        ...

    def read_range(self, sha256: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; raises NotFoundError."""
        ...


class ChunkSink(Protocol):
    """Where chunk frames leave."""

    def send(self, device_id: str, frame: bytes) -> bool:
        """Hand a frame to the network; False when it was dropped for want of a connection."""
        ...


class Envelope(NamedTuple):
    """An assignment to be published."""

    device: int
    device_id: str
    counter: int
    envelope: bytes


class AssignmentOutbox(Protocol):
    """Assignments and what of them the broker has."""

    def load_unpublished(self, limit: int) -> list[Envelope]:
        """Return assignments whose counter is ahead of the published one."""
        ...

    def load_published(self, after_device: int, limit: int) -> list[Envelope]:
        """Return assignments the broker had, by device number, for publishing them again."""
        ...

    def mark_published(self, envelopes: Sequence[Envelope]) -> None:
        """Note what the broker has acknowledged."""
        ...

    def published_mark(self) -> str:
        """Return a text that changes with every envelope marked published; empty before one."""
        ...


class BinFile(NamedTuple):
    """One version of a hash bin's metadata file."""

    role: str
    version: int
    sha256: str


class MetadataSource(Protocol):
    """The signed metadata as devices need it."""

    def bundle(self) -> dict[str, bytes]:
        """Return the files that every device needs, by name."""
        ...

    def bins(self, bundle: Mapping[str, bytes]) -> list[BinFile]:
        """Return the hash bins that belong to a bundle; none while targets are flat."""
        ...

    def read_bin(self, bin_file: BinFile) -> bytes:
        """Return the file of one bin; raises FleetError when it is gone."""
        ...


class StateBroker(Protocol):
    """The broker as the publisher sees it."""

    @property
    def epoch(self) -> int:
        """Number of the present connection, 0 when there is none."""
        ...

    def publish_retained(self, messages: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Publish at QoS 1, retained; tell for each whether the broker acknowledged it."""
        ...

    def read_marker(self) -> str | None:
        """Return the marker the broker held at connect, empty when none; None: not known yet."""
        ...
