"""Take sampled rows from devices, and tell what may be acknowledged.

Invariant: an acknowledgement names only batches that were kept, or will never be: of packages
nobody registered. Those go to the quarantine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.contract.errors import ContractError
from edge_agent.contract.messages import LabelRange, TelemetryAck
from edge_agent.contract.rows import RowMessage, decode_rows
from edge_agent.contract.topics import Channel, parse_topic
from fleet_server.ports.gateway import DeviceDirectory, InboundMessage
from fleet_server.ports.samples import SampleBook
from fleet_server.ports.telemetry import QuarantinedMessage


@dataclass(slots=True)
class SortedRows:
    """A batch of messages by what became of them; ``acks`` are to be sent behind the commit."""

    devices: set[int] = field(default_factory=set)
    acks: list[tuple[str, TelemetryAck]] = field(default_factory=list)
    quarantined: list[QuarantinedMessage] = field(default_factory=list)
    rows: int = 0


class RecordRows:
    """Sorts and keeps messages."""

    def __init__(self, book: SampleBook, directory: DeviceDirectory) -> None:
        self._book, self._directory = book, directory

    def record(self, batch: Sequence[InboundMessage], *, at: datetime) -> SortedRows:
        """Keep messages, each in a transaction of its own.

        Raises:
            FleetError: Some may not have been kept; the batch may be offered again, which keeps
                nothing twice.
        """
        said = SortedRows()
        for message in batch:
            reason = self._take(message, at, said)
            if reason:
                said.quarantined.append(
                    QuarantinedMessage(
                        topic=message.topic, channel="rows", reason=reason, payload=message.payload
                    )
                )
        return said

    def _take(self, message: InboundMessage, at: datetime, said: SortedRows) -> str:
        """Keep one message; return what of it is unusable, empty when nothing is."""
        try:
            address = parse_topic(message.topic)
            if address.channel is not Channel.ROWS:
                return f"no sampled rows on {address.channel}"
            rows: RowMessage = decode_rows(message.payload)
        except ContractError as error:
            return str(error)
        device = self._directory.find(address.device_id)
        if device is None:
            return f"device {address.device_id} is not enrolled, or was revoked"
        taken = self._book.take(device, rows, message.payload, at=at)
        said.devices.add(device)
        said.rows += taken.rows
        number = LabelRange(rows.boot, rows.sequence, rows.sequence)
        said.acks.append((address.device_id, TelemetryAck(rows=(number,))))
        if taken.is_unknown:
            name = rows.batch.artifact.hex()
            return f"sampled rows of package {name}, which is not registered here"
        return ""
