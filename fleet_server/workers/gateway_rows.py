"""The gateway's work on sampled rows: a loop of its own, so that nothing waits for files.

What does not fit into the inbox is acknowledged to the broker and dropped: a device keeps its
batches until ``telack`` names them and sends them again.
"""

from threading import Event

from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.mqtt_gateway import Delivery, Inbox, MqttLink
from fleet_server.ports.clock import Clock
from fleet_server.ports.gateway import DeviceDirectory
from fleet_server.services.file_samples import FileSamples
from fleet_server.services.ingest_windows import IngestWindows, SortedMessages
from fleet_server.services.record_rows import RecordRows
from fleet_server.workers.gateway_loops import IDLE_S, Chore, Loop, Seen

ROWS_WAITING_MAX = 64
"""Messages of up to 256 KiB."""
BATCH_MESSAGES_MAX, BATCH_BYTES_MAX = 16, 2_097_152
ROWS_SUFFIX = f"/{Channel.ROWS}"
FILE_EVERY_S, TIDY_EVERY_S = 15.0, 300.0


class RowLoop(Loop):
    """Sampled rows in, batches and files kept, acknowledgements out."""

    def __init__(
        self,
        link: MqttLink,
        keeper: FileSamples,
        directory: DeviceDirectory,
        ingest: IngestWindows,
        seen: Seen,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__("rows", stop)
        self._link, self._ingest, self._seen, self._clock = link, ingest, seen, clock
        self._records = RecordRows(keeper.book, directory)
        self._inbox = Inbox(ROWS_WAITING_MAX)
        self._chores = [
            Chore("sampled rows into files", FILE_EVERY_S, keeper.file),
            Chore("old sampled rows", TIDY_EVERY_S, keeper.tidy),
        ]
        self.dropped = 0

    def take(self, delivery: Delivery) -> bool:
        """Take a delivery of sampled rows; False when it is something else. Never waits."""
        if not delivery.message.topic.endswith(ROWS_SUFFIX):
            return False
        if len(self._inbox) < ROWS_WAITING_MAX:
            self._inbox.put(delivery)
        else:
            self.dropped += 1
            self._link.ack([delivery])
        return True

    def close(self) -> None:
        """Let nobody wait any more."""
        self._inbox.close()

    def turn(self) -> None:
        """Keep what waits, then acknowledge; look after the files now and then."""
        batch = self._inbox.take(
            messages_max=BATCH_MESSAGES_MAX,
            bytes_max=BATCH_BYTES_MAX,
            linger_s=0,
            timeout_s=IDLE_S,
        )
        for chore in self._chores:
            chore.do_if_due(self._clock.monotonic())
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
        self._seen.add(said.devices)
