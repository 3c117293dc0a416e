"""The gateway's work on what devices keep until we acknowledge it: late labels, sampled rows."""

from collections.abc import Sequence
from threading import Event

from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.mqtt_gateway import Delivery, MqttLink
from fleet_server.ports.clock import Clock
from fleet_server.services.ingest_windows import IngestWindows
from fleet_server.services.record_messages import RecordMessages
from fleet_server.workers.gateway_loops import Chore, Seen
from fleet_server.workers.inbox_loop import InboxBounds, InboxLoop

BOUNDS = {
    Channel.LABELS: InboxBounds(waiting_max=1_000, messages_max=50, bytes_max=1_048_576),
    Channel.ROWS: InboxBounds(waiting_max=64, messages_max=16, bytes_max=2_097_152),
}
"""A message of sampled rows has up to 256 KiB."""


class RecordLoop(InboxLoop):
    """Messages in, records kept, acknowledgements out; chores of the same records between them."""

    def __init__(
        self,
        records: RecordMessages,
        link: MqttLink,
        ingest: IngestWindows,
        seen: Seen,
        clock: Clock,
        stop: Event,
        *,
        chores: Sequence[Chore] = (),
    ) -> None:
        channel = records.channel
        super().__init__(channel.name.lower(), channel, BOUNDS[channel], link, ingest, clock, stop)
        self._records, self._seen, self._chores = records, seen, chores

    def turn(self) -> None:
        """Take a batch through, then do what is due."""
        super().turn()
        for chore in self._chores:
            chore.do_if_due(self._clock.monotonic())

    def work(self, batch: list[Delivery]) -> None:
        """Keep a batch, then acknowledge it to devices and broker."""
        messages = [delivery.message for delivery in batch]
        said = self._insist(lambda: self._records.record(messages, at=self._clock.now()))
        if said is None:
            return
        self._set_aside(said.quarantined)
        for device_id, ack in said.acks:
            topic = device_topic(device_id, Channel.TELEMETRY_ACK)
            self._link.publish(topic, ack.encode(), qos=1)
        self._link.ack(batch)
        self._seen.add(said.devices)
