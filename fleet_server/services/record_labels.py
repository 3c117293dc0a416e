"""Count what devices say turned out to be true, and tell what may be acknowledged.

Invariant: an acknowledgement names only labels that were counted, or will never be: of packages
nobody registered, or from beyond the retention. Those go to the quarantine with their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.contract.errors import ContractError
from edge_agent.contract.labels import Labels
from edge_agent.contract.messages import LabelRange, TelemetryAck
from edge_agent.contract.topics import Channel, parse_topic
from fleet_server.ports.gateway import DeviceDirectory, InboundMessage
from fleet_server.ports.labels import Counted, DeviceLabels, LabelBook
from fleet_server.ports.telemetry import QuarantinedMessage


@dataclass(slots=True)
class SortedLabels:
    """A batch by what it carries; ``acks`` are by device id, to be sent behind the commit."""

    messages: list[DeviceLabels] = field(default_factory=list)
    acks: list[tuple[str, TelemetryAck]] = field(default_factory=list)
    quarantined: list[QuarantinedMessage] = field(default_factory=list)


class RecordLabels:
    """Sorts and counts batches."""

    def __init__(self, book: LabelBook, directory: DeviceDirectory) -> None:
        self._book, self._directory = book, directory

    def record(self, batch: Sequence[InboundMessage], *, at: datetime) -> SortedLabels:
        """Count a batch, message by message, each in a transaction of its own.

        Raises:
            FleetError: Some may not have been counted; the batch may be offered again, which
                counts nothing twice.
        """
        said = SortedLabels()
        for message in batch:
            reason = self._take(message, at, said)
            if reason:
                said.quarantined.append(
                    QuarantinedMessage(
                        topic=message.topic, channel="label", reason=reason, payload=message.payload
                    )
                )
        return said

    def _take(self, message: InboundMessage, at: datetime, said: SortedLabels) -> str:
        """Count one message; return what of it is unusable, empty when nothing is."""
        try:
            address = parse_topic(message.topic)
            if address.channel is not Channel.LABELS:
                return f"no labels on {address.channel}"
            labels = Labels.decode(message.payload)
        except ContractError as error:
            return str(error)
        device = self._directory.find(address.device_id)
        if device is None:
            return f"device {address.device_id} is not enrolled, or was revoked"
        said.messages.append(DeviceLabels(device, labels))
        counted = self._book.add(said.messages[-1:], at=at)
        counted_range = LabelRange(labels.boot, labels.rows[0].sequence, labels.rows[-1].sequence)
        said.acks.append((address.device_id, TelemetryAck(labels=(counted_range,))))
        return _unusable(counted)


def _unusable(counted: Counted) -> str:
    parts = []
    if counted.unknown:
        parts.append(f"{counted.unknown} labels of packages that are not registered here")
    if counted.undated:
        parts.append(f"{counted.undated} labels of answers beyond the retention or ahead of today")
    return "; ".join(parts)
