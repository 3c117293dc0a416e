"""The gateway's loops, one thread each: telemetry, reports, transfer, publishing.

A loop that meets an error it did not foresee says so and goes on: the messages of its batch are
not acknowledged, so the broker or the device sends them again. Stopping loses nothing for the
same reason.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from threading import Event, Lock, Thread
from typing import TypeVar

from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.mqtt_gateway import Delivery, Inbox, MqttLink
from fleet_server.adapters.telemetry_stream import TelemetryStream
from fleet_server.errors import FleetError
from fleet_server.ports.clock import Clock
from fleet_server.ports.gateway import DeviceDirectory, ReportRepository
from fleet_server.ports.telemetry import QuarantinedMessage, WindowStore
from fleet_server.services.ingest_windows import (
    IngestWindows,
    SortedMessages,
    plan_acknowledgements,
    sort_messages,
)
from fleet_server.services.publish_state import PublishState
from fleet_server.services.record_report import RecordReports
from fleet_server.services.serve_chunks import ServeChunks

BATCH_MESSAGES_MAX = 1_000
BATCH_BYTES_MAX = 524_288
"""About 1,000 windows of 20 features."""
LINGER_S = 0.02
IDLE_S = 0.25
RETRY_S_FIRST, RETRY_S_MAX = 0.05, 5.0
UNFORESEEN_S = 1.0
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Loop(ABC):
    """A thread that calls ``turn`` until it is stopped."""

    def __init__(self, name: str, stop: Event) -> None:
        self._stop = stop
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self.errors = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the present turn."""
        self._thread.join(timeout_s)

    @abstractmethod
    def turn(self) -> None:
        """Do a little work, or wait a little for some."""

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn()
            except Exception:  # noqa: BLE001 - a door: what was not acknowledged comes again
                self.errors += 1
                _LOG.exception("%s: unforeseen", self._thread.name)
                self._stop.wait(UNFORESEEN_S)

    def _insist(self, act: Callable[[], T]) -> T | None:
        """Try until it works; None when stopped before it did."""
        wait_s, said = RETRY_S_FIRST, ""
        while not self._stop.is_set():
            try:
                return act()
            except FleetError as error:
                if str(error) != said:
                    said = str(error)
                    _LOG.error("%s waits: %s", self._thread.name, error)
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
        return None


class Seen:
    """Devices heard since the last look; shared by loops."""

    def __init__(self) -> None:
        self._lock, self._devices = Lock(), set[int]()

    def add(self, devices: set[int]) -> None:
        """Note devices."""
        with self._lock:
            self._devices |= devices

    def take(self) -> set[int]:
        """Return and forget them."""
        with self._lock:
            taken, self._devices = self._devices, set()
        return taken


class TelemetryLoop(Loop):
    """Batch, commit, then acknowledge to broker and devices."""

    def __init__(
        self,
        stream: TelemetryStream,
        directory: DeviceDirectory,
        ingest: IngestWindows,
        seen: Seen,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__("telemetry", stop)
        self._stream, self._directory = stream, directory
        self._ingest, self._seen, self._clock = ingest, seen, clock

    def turn(self) -> None:
        """Take one batch through."""
        batch = self._stream.receive(
            messages_max=BATCH_MESSAGES_MAX,
            bytes_max=BATCH_BYTES_MAX,
            linger_s=LINGER_S,
            timeout_s=IDLE_S,
        )
        if not batch:
            return
        said = self._insist(lambda: self._commit(batch))
        if said is not None:
            self._acknowledge(batch, said)
            self._seen.add(said.devices)

    def _commit(self, batch: Sequence[Delivery]) -> SortedMessages:
        said = sort_messages([delivery.message for delivery in batch], self._directory)
        self._ingest.commit(said, received_at=self._clock.now())
        return said

    def _acknowledge(self, batch: Sequence[Delivery], said: SortedMessages) -> None:
        self._stream.answer(
            batch,
            [
                (device_topic(device_id, Channel.TELEMETRY_ACK), ack.encode())
                for device_id, ack in plan_acknowledgements(said.frames)
            ],
        )


class ReportLoop(Loop):
    """Status and reports into device and slot rows; the gateway's housekeeping between them."""

    def __init__(
        self,
        inbox: Inbox,
        link: MqttLink,
        directory: DeviceDirectory,
        ingest: IngestWindows,
        records: RecordReports,
        seen: Seen,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__("reports", stop)
        self._inbox, self._link, self._directory = inbox, link, directory
        self._ingest, self._records, self._seen, self._clock = ingest, records, seen, clock
        self.chores: list[Chore] = []

    def turn(self) -> None:
        """Take one batch through, then do what is due."""
        batch = self._inbox.take(
            messages_max=BATCH_MESSAGES_MAX,
            bytes_max=BATCH_BYTES_MAX,
            linger_s=LINGER_S,
            timeout_s=IDLE_S,
        )
        if batch:
            messages = [delivery.message for delivery in batch]
            said = self._insist(lambda: sort_messages(messages, self._directory))
            if said is None or not self._store(said):
                return
            self._link.ack(batch)
            self._seen.add(said.devices)
        now_s = self._clock.monotonic()
        for chore in self.chores:
            chore.do_if_due(now_s)

    def _store(self, said: SortedMessages) -> bool:
        at = self._clock.now()
        kept = self._insist(lambda: self._ingest.commit(said, received_at=at))
        applied = self._insist(lambda: self._records.apply(said.reports, at=at))
        return kept is not None and applied is not None


class Chore:
    """Something done now and then; an error is said and tried again at the next time."""

    def __init__(self, name: str, every_s: float, act: Callable[[], object]) -> None:
        self._name, self._every_s, self._act = name, every_s, act
        self._due_s = 0.0

    def do_if_due(self, now_s: float) -> None:
        """Do it when its time has come."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._every_s
        try:
            self._act()
        except FleetError as error:
            _LOG.error("%s: %s", self._name, error)


class SilenceWatch:
    """Set devices offline that a broker forgot: no will comes from a broker that was killed.

    When the broker does not remember our session, it may not remember the devices either. What
    counts as online and says nothing within GRACE_S of our connection is offline.
    """

    GRACE_S = 120.0

    def __init__(self, link: MqttLink, reports: ReportRepository, clock: Clock) -> None:
        self._link, self._reports, self._clock = link, reports, clock
        self._epoch = 0
        self._judge_at_s: float | None = None

    def look(self) -> None:
        """Notice new connections and judge the last one when its grace is over."""
        epoch = self._link.epoch
        if epoch and epoch != self._epoch:
            self._epoch = epoch
            if not self._link.is_session_present:
                self._judge_at_s = self._clock.monotonic() + self.GRACE_S
        if epoch and self._judge_at_s is not None and self._clock.monotonic() >= self._judge_at_s:
            self._judge_at_s = None
            unseen_since = self._clock.now() - timedelta(seconds=self.GRACE_S)
            silent = self._reports.mark_silent_offline(unseen_since=unseen_since)
            if silent:
                _LOG.info("%d devices did not come back with the broker: offline", silent)


class TransferLoop(Loop):
    """Chunk requests in, chunk frames out."""

    def __init__(
        self, inbox: Inbox, serve: ServeChunks, store: IngestWindows, clock: Clock, stop: Event
    ) -> None:
        super().__init__("transfer", stop)
        self._inbox, self._serve, self._store, self._clock = inbox, serve, store, clock
        self._wait_s: float | None = None

    def turn(self) -> None:
        """Take requests, send what the rate allows."""
        wait_s = IDLE_S if self._wait_s is None else min(IDLE_S, self._wait_s)
        requests = self._inbox.take(
            messages_max=BATCH_MESSAGES_MAX, bytes_max=BATCH_BYTES_MAX, linger_s=0, timeout_s=wait_s
        )
        unusable = SortedMessages()
        for delivery in requests:
            reason = self._serve.take(delivery.message)
            if reason:
                topic, payload, _ = delivery.message
                unusable.quarantined.append(
                    QuarantinedMessage(topic=topic, channel="xfer", reason=reason, payload=payload)
                )
        if unusable.quarantined:
            self._insist(lambda: self._store.commit(unusable, received_at=self._clock.now()))
        self._wait_s = self._serve.send_due()


class PublishLoop(Loop):
    """The publisher, a few times a second."""

    def __init__(self, publisher: PublishState, stop: Event) -> None:
        super().__init__("publisher", stop)
        self._publisher = publisher

    def turn(self) -> None:
        """Publish what is missing."""
        if not self._insist(self._publisher.step):
            self._stop.wait(IDLE_S)


def describe(
    store: WindowStore, loops: Sequence[Loop], serve: ServeChunks, publisher: PublishState
) -> Mapping[str, object]:
    """Say for the heartbeat what the gateway has done since its start."""
    counts = serve.counts
    return {
        "telemetry": dict(store.stats().totals),
        "loop_errors": sum(loop.errors for loop in loops),
        "published": publisher.published,
        "repeated": publisher.repeated,
        "bins": publisher.bins,
        "transfer_frames": counts.frames,
        "transfer_bytes": counts.bytes,
        "transfer_refused": counts.refused,
        "transfer_deferred": counts.deferred,
        "transfer_unanswered": counts.unanswered,
    }
