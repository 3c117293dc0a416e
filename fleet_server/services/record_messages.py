"""Keep what devices say message by message, and tell what may be acknowledged.

Invariant: an acknowledgement names only what was kept, or never will be: of packages nobody
registered, or from beyond the retention. Those go to the quarantine as well.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.contract.errors import ContractError
from edge_agent.contract.messages import TelemetryAck
from edge_agent.contract.topics import Channel, parse_topic
from fleet_server.ports.gateway import DeviceDirectory, InboundMessage
from fleet_server.ports.telemetry import QuarantinedMessage


@dataclass(slots=True)
class Recorded:
    """A batch by what it carried; ``acks`` are by device id, to be sent behind the commit."""

    devices: set[int] = field(default_factory=set)
    acks: list[tuple[str, TelemetryAck]] = field(default_factory=list)
    quarantined: list[QuarantinedMessage] = field(default_factory=list)


class RecordMessages(ABC):
    """Sorts and keeps the messages of one channel."""

    channel: Channel

    def __init__(self, directory: DeviceDirectory) -> None:
        self._directory = directory

    def record(self, batch: Sequence[InboundMessage], *, at: datetime) -> Recorded:
        """Keep a batch, message by message, each in a transaction of its own.

        Raises:
            FleetError: Some may not have been kept; the batch may be offered again, which keeps
                and counts nothing twice.
        """
        said = Recorded()
        for message in batch:
            reason = self._take(message, at, said)
            if reason:
                said.quarantined.append(
                    QuarantinedMessage(
                        topic=message.topic,
                        channel=self.channel.rpartition("/")[2],
                        reason=reason,
                        payload=message.payload,
                    )
                )
        return said

    @abstractmethod
    def keep(self, device: int, payload: bytes, *, at: datetime) -> tuple[TelemetryAck, str]:
        """Keep one message; return its acknowledgement and what of it is unusable, else "".

        Raises:
            ContractError: It cannot be read.
            FleetError: It may not have been kept.
        """

    def _take(self, message: InboundMessage, at: datetime, said: Recorded) -> str:
        """Keep one message; return what of it is unusable, empty when nothing is."""
        try:
            address = parse_topic(message.topic)
            if address.channel is not self.channel:
                return f"not a message of {self.channel}"
            device = self._directory.find(address.device_id)
            if device is None:
                return f"device {address.device_id} is not enrolled, or was revoked"
            ack, reason = self.keep(device, message.payload, at=at)
        except ContractError as error:
            return str(error)
        said.devices.add(device)
        said.acks.append((address.device_id, ack))
        return reason
