"""Sort what devices said, commit the windows, and tell what may be acknowledged.

One poison message must neither stop the stream nor be lost sight of: whatever cannot be used is
quarantined with the reason, in the transaction that commits the rest of its batch, and the broker
is told that it was taken. Invariant: an acknowledgement names only windows that are committed, or
that were counted and will never be stored (too late, or no place left).
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.messages import ACK_RANGES_MAX, AckRange, Reported, Status, TelemetryAck
from edge_agent.contract.topics import Address, Channel, parse_topic
from edge_agent.contract.windows import WindowFrame, decode_windows
from fleet_server.ports.gateway import DeviceDirectory, InboundMessage
from fleet_server.ports.telemetry import (
    Appended,
    DeviceWindow,
    QuarantinedMessage,
    WindowBatch,
    WindowStore,
)
from fleet_server.services.record_report import DeviceMessage

UNKNOWN_CHANNEL = "unknown"
_TOPICS_CACHED = 200_000
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class SortedMessages:
    """A batch by what it carries.

    Attributes:
        frames: Telemetry by device id, in order of arrival.
        windows: The same windows, flat.
        reports: Status and reported messages in order of arrival.
        quarantined: What cannot be used.
        devices: Numbers of all devices that said something usable.
    """

    frames: list[tuple[str, WindowFrame]] = field(default_factory=list)
    windows: list[DeviceWindow] = field(default_factory=list)
    reports: list[DeviceMessage] = field(default_factory=list)
    quarantined: list[QuarantinedMessage] = field(default_factory=list)
    devices: set[int] = field(default_factory=set)


def sort_messages(messages: Iterable[InboundMessage], directory: DeviceDirectory) -> SortedMessages:
    """Decode a batch; whatever a message holds, it cannot make this raise.

    Raises:
        FleetError: The directory cannot be read; the same messages may be offered again.
    """
    batch = SortedMessages()
    for message in messages:
        reason = _sort(message, directory, batch)
        if reason:
            batch.quarantined.append(
                QuarantinedMessage(
                    topic=message.topic,
                    channel=_channel_of(message.topic),
                    reason=reason,
                    payload=message.payload,
                )
            )
    return batch


class IngestWindows:
    """Commit batches to the window store."""

    def __init__(self, store: WindowStore) -> None:
        self._store = store

    def commit(self, batch: SortedMessages, *, received_at: datetime) -> Appended:
        """Store windows and quarantine at once.

        Raises:
            StoreError: Nothing was kept, nothing may be acknowledged.
        """
        if not batch.windows and not batch.quarantined:
            return Appended()
        return self._store.append(
            WindowBatch(
                received_at=received_at, windows=batch.windows, quarantined=batch.quarantined
            )
        )


def plan_acknowledgements(
    frames: Iterable[tuple[str, WindowFrame]],
) -> list[tuple[str, TelemetryAck]]:
    """Build acknowledgements: per device the committed ranges, merged, in bounded messages."""
    sequences: defaultdict[str, defaultdict[tuple[int, int], set[int]]] = defaultdict(
        lambda: defaultdict(set)
    )
    for device_id, frame in frames:
        streams = sequences[device_id]
        for window in frame.windows:
            streams[frame.boot, window.stream].add(window.sequence)
    acks: list[tuple[str, TelemetryAck]] = []
    for device_id, streams in sequences.items():
        ranges = [
            AckRange(boot, stream, first, last)
            for (boot, stream), numbers in streams.items()
            for first, last in merge_runs(sorted(numbers))
        ]
        acks.extend(
            (device_id, TelemetryAck(ranges=tuple(ranges[start : start + ACK_RANGES_MAX])))
            for start in range(0, len(ranges), ACK_RANGES_MAX)
        )
    return acks


def merge_runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Join ascending numbers into runs, both ends included.

    >>> merge_runs([1, 2, 3, 7, 9, 10])
    [(1, 3), (7, 7), (9, 10)]
    """
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs


def _sort(message: InboundMessage, directory: DeviceDirectory, batch: SortedMessages) -> str:
    """Add one message to the batch; return why it is unusable, empty when it is not."""
    try:
        address = _parse_topic(message.topic)
    except ContractError as error:
        return str(error)
    device = directory.find(address.device_id)
    if device is None:
        return f"device {address.device_id} is not enrolled, or was revoked"
    try:
        reason = _decode(message.payload, address, device, batch)
    except ContractError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a poison message must not block what comes after
        _LOG.exception("message on %s cannot be read", message.topic)
        return f"unforeseen {type(error).__name__}: {error}"
    if not reason:
        batch.devices.add(device)
    return reason


def _decode(payload: bytes, address: Address, device: int, batch: SortedMessages) -> str:
    match address.channel:
        case Channel.TELEMETRY:
            frame = decode_windows(payload)
            boot = frame.boot
            batch.windows.extend([DeviceWindow(device, boot, w) for w in frame.windows])
            batch.frames.append((address.device_id, frame))
        case Channel.STATUS:
            batch.reports.append(DeviceMessage(device=device, message=Status.decode(payload)))
        case Channel.REPORTED:
            report = Reported.decode(payload)
            batch.reports.append(
                DeviceMessage(device=device, message=report, text=_check_text(payload, report))
            )
        case Channel.CHUNK_REQUEST:
            pass  # answered on the connection for bulk
        case Channel.ACK:
            return "a command result, but no command was sent"
        case _:
            return f"devices do not speak on {address.channel}"
    return ""


def _check_text(payload: bytes, report: Reported) -> str:
    """Return the JSON as text, refusing what no database column can hold."""
    try:
        for name, slot in report.slots.items():
            json.dumps([name, slot.to_json()], ensure_ascii=False).encode()
        return payload.decode()
    except UnicodeError as error:
        raise MalformedError(f"reported is not UTF-8 throughout: {error}") from error


@lru_cache(maxsize=_TOPICS_CACHED)
def _parse_topic(topic: str) -> Address:
    return parse_topic(topic)


def _channel_of(topic: str) -> str:
    """Name the channel for the counters; what devices invent is one word."""
    parts = topic.split("/")
    name = "/".join(parts[4:])
    return parts[5] if len(parts) == 6 and name in Channel.__members__.values() else UNKNOWN_CHANNEL
