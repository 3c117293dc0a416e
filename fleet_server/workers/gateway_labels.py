"""The gateway's work on late labels: a loop of its own, so that reports do not wait for counting.

What does not fit into the inbox is acknowledged to the broker and dropped: a device keeps its
labels until ``telack`` names them and sends them again.
"""

from threading import Event

from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.mqtt_gateway import Delivery, Inbox, MqttLink
from fleet_server.ports.clock import Clock
from fleet_server.ports.gateway import DeviceDirectory
from fleet_server.ports.labels import LabelBook
from fleet_server.services.ingest_windows import IngestWindows, SortedMessages
from fleet_server.services.record_labels import RecordLabels
from fleet_server.workers.gateway_loops import IDLE_S, Loop, Seen

LABELS_WAITING_MAX = 1_000
BATCH_MESSAGES_MAX, BATCH_BYTES_MAX = 50, 1_048_576
LABEL_SUFFIX = f"/{Channel.LABELS}"


class LabelLoop(Loop):
    """Labels in, counts into the database, acknowledgements out."""

    def __init__(
        self,
        link: MqttLink,
        book: LabelBook,
        directory: DeviceDirectory,
        ingest: IngestWindows,
        seen: Seen,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__("labels", stop)
        self._link, self._ingest, self._seen, self._clock = link, ingest, seen, clock
        self._records = RecordLabels(book, directory)
        self._inbox = Inbox(LABELS_WAITING_MAX)
        self.dropped = 0

    def take(self, delivery: Delivery) -> bool:
        """Take a delivery of labels; False when it is something else. Never waits."""
        if not delivery.message.topic.endswith(LABEL_SUFFIX):
            return False
        if len(self._inbox) < LABELS_WAITING_MAX:
            self._inbox.put(delivery)
        else:
            self.dropped += 1
            self._link.ack([delivery])
        return True

    def close(self) -> None:
        """Let nobody wait any more."""
        self._inbox.close()

    def turn(self) -> None:
        """Count what waits, then acknowledge."""
        batch = self._inbox.take(
            messages_max=BATCH_MESSAGES_MAX,
            bytes_max=BATCH_BYTES_MAX,
            linger_s=0,
            timeout_s=IDLE_S,
        )
        if not batch:
            return
        messages = [delivery.message for delivery in batch]
        said = self._insist(lambda: self._records.record(messages, at=self._clock.now()))
        if said is None:
            return
        if said.quarantined:
            unusable = SortedMessages(quarantined=said.quarantined)
            self._insist(lambda: self._ingest.commit(unusable, received_at=self._clock.now()))
        for device_id, ack in said.acks:
            topic = device_topic(device_id, Channel.TELEMETRY_ACK)
            self._link.publish(topic, ack.encode(), qos=1)
        self._link.ack(batch)
        self._seen.add({device for device, _ in said.messages})
