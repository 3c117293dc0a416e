"""A loop over one channel of the devices: an inbox of its own, so that nothing waits for its work.

What does not fit into the inbox is acknowledged to the broker and dropped, and counted: a device
keeps what the server has not answered and sends it again.
"""

from abc import abstractmethod
from dataclasses import dataclass
from threading import Event

from edge_agent.contract.topics import Channel
from fleet_server.adapters.mqtt_gateway import Delivery, Inbox, MqttLink
from fleet_server.ports.clock import Clock
from fleet_server.ports.telemetry import QuarantinedMessage
from fleet_server.services.ingest_windows import IngestWindows, SortedMessages
from fleet_server.workers.gateway_loops import IDLE_S, Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxBounds:
    """What may wait, and what one turn takes of it."""

    waiting_max: int
    messages_max: int
    bytes_max: int


class InboxLoop(Loop):
    """Takes the deliveries of one channel and works on them batch by batch.

    Args:
        name: Of the thread.
        channel: Whose deliveries ``take`` takes.
        bounds: Of inbox and batch.
        link: Where deliveries come from and are acknowledged.
        ingest: Where what cannot be used is quarantined.
        clock: For the time of the record.
        stop: Ends it.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        bounds: InboxBounds,
        link: MqttLink,
        ingest: IngestWindows,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__(name, stop)
        self._suffix, self._bounds = f"/{channel}", bounds
        self._link, self._ingest, self._clock = link, ingest, clock
        self._inbox = Inbox(bounds.waiting_max)
        self.dropped = 0

    def take(self, delivery: Delivery) -> bool:
        """Take a delivery of the channel; False when it is something else. Never waits."""
        if not delivery.message.topic.endswith(self._suffix):
            return False
        if len(self._inbox) < self._bounds.waiting_max:
            self._inbox.put(delivery)
        else:
            self.dropped += 1
            self._link.ack([delivery])
        return True

    def close(self) -> None:
        """Let nobody wait any more."""
        self._inbox.close()

    def turn(self) -> None:
        """Work on what waits, or wait a little for some."""
        batch = self._inbox.take(
            messages_max=self._bounds.messages_max,
            bytes_max=self._bounds.bytes_max,
            linger_s=0,
            timeout_s=IDLE_S,
        )
        if batch:
            self.work(batch)

    @abstractmethod
    def work(self, batch: list[Delivery]) -> None:
        """Take a batch through and acknowledge it."""

    def _set_aside(self, unusable: list[QuarantinedMessage]) -> None:
        if unusable:
            said = SortedMessages(quarantined=unusable)
            self._insist(lambda: self._ingest.commit(said, received_at=self._clock.now()))
