"""What the gateway's threads do when something is in the way."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event, Thread

import pytest

from edge_agent.contract.messages import Status, TelemetryAck
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.contract.windows import Window, encode_windows
from fleet_server.adapters.mqtt_gateway import Delivery, Inbox
from fleet_server.errors import UnreachableError
from fleet_server.ports.gateway import DeviceChange, DeviceState, InboundMessage
from fleet_server.ports.telemetry import Appended, StoreError, WindowBatch
from fleet_server.services.ingest_windows import IngestWindows
from fleet_server.services.record_report import RecordReports
from fleet_server.workers import gateway_loops
from fleet_server.workers.gateway_loops import (
    Chore,
    ReportLoop,
    Seen,
    SilenceWatch,
    TelemetryLoop,
)
from tests.support.clock import FakeClock

DEVICE, NUMBER = "cam-1", 1


@dataclass
class Log:
    """What happened, in order; and what goes wrong how often."""

    events: list[str] = field(default_factory=list)
    store_fails: int = 0
    reports_fail: int = 0


@dataclass
class FakeStore:
    log: Log

    def append(self, batch: WindowBatch) -> Appended:
        if self.log.store_fails:
            self.log.store_fails -= 1
            self.log.events.append("store failed")
            raise StoreError("disk is full")
        self.log.events.append(f"committed {len(batch.windows)}+{len(batch.quarantined)}")
        return Appended(inserted=len(batch.windows))


@dataclass
class FakeStream:
    log: Log
    batches: list[list[Delivery]]

    def receive(self, **_: object) -> list[Delivery]:
        return self.batches.pop(0) if self.batches else []

    def answer(self, deliveries: Sequence[Delivery], messages: Sequence[tuple[str, bytes]]) -> None:
        acks = [TelemetryAck.decode(payload).ranges for _, payload in messages]
        runs = [(r.first, r.last) for ranges in acks for r in ranges]
        self.log.events.append(f"acknowledged {len(deliveries)} {runs}")


@dataclass
class FakeLink:
    log: Log
    epoch: int = 1
    is_session_present: bool = True

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.log.events.append(f"acknowledged {len(deliveries)}")


class FakeDirectory:
    def find(self, device_id: str) -> int | None:
        return NUMBER if device_id == DEVICE else None


@dataclass
class FakeReports:
    log: Log
    silent_since: list[datetime] = field(default_factory=list)

    def load_states(self, devices: Collection[int]) -> dict[int, DeviceState]:
        if self.log.reports_fail:
            self.log.reports_fail -= 1
            self.log.events.append("control database failed")
            raise UnreachableError("database is locked")
        return {device: DeviceState() for device in devices}

    def save_changes(self, changes: Sequence[DeviceChange], *, at: datetime) -> None:
        del at
        self.log.events.append(f"saved {len(changes)}")

    def save_last_seen(self, devices: Collection[int], *, at: datetime) -> None: ...

    def mark_silent_offline(self, *, unseen_since: datetime) -> int:
        self.silent_since.append(unseen_since)
        return 1

    def retired_boots(self, devices: Iterable[int]) -> dict[int, tuple[str, ...]]:
        del devices
        return {}

    def retire_boots(self, boots: Collection[tuple[int, str]]) -> None: ...


def telemetry(sequence: int) -> Delivery:
    window = Window(
        stream=0,
        sequence=sequence,
        t0_ms=0,
        t1_ms=0,
        reference=bytes(8),
        artifact=bytes(8),
        rows=1,
        counters=b"",
    )
    payload = encode_windows(1, [window])
    message = InboundMessage(device_topic(DEVICE, Channel.TELEMETRY), payload)
    return Delivery(message, sequence, 1, 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_loops, "RETRY_S_FIRST", 0.0)


def telemetry_loop(log: Log, stop: Event, *batches: list[Delivery]) -> TelemetryLoop:
    return TelemetryLoop(
        FakeStream(log, list(batches)),  # type: ignore[arg-type]
        FakeDirectory(),
        IngestWindows(FakeStore(log)),  # type: ignore[arg-type]
        Seen(),
        FakeClock(),
        stop,
    )


def test_windows_are_acknowledged_behind_the_commit() -> None:
    log = Log()
    telemetry_loop(log, Event(), [telemetry(0), telemetry(1)]).turn()
    assert log.events == ["committed 2+0", "acknowledged 2 [(0, 1)]"]


def test_a_batch_is_kept_until_the_store_takes_it() -> None:
    log = Log(store_fails=2)
    telemetry_loop(log, Event(), [telemetry(0)]).turn()
    assert log.events == ["store failed"] * 2 + ["committed 1+0", "acknowledged 1 [(0, 0)]"]


def test_stopping_in_the_middle_acknowledges_nothing() -> None:
    log, stop = Log(store_fails=10**9), Event()
    loop = telemetry_loop(log, stop, [telemetry(0)])
    thread = Thread(target=loop.turn)
    thread.start()
    while not log.events:
        stop.wait(0.001)
    stop.set()
    thread.join(5)
    assert set(log.events) == {"store failed"}


def test_poison_is_acknowledged_to_the_broker_but_not_to_the_device() -> None:
    log = Log()
    poison = Delivery(InboundMessage(device_topic(DEVICE, Channel.TELEMETRY), b"x"), 9, 1, 1)
    telemetry_loop(log, Event(), [poison, telemetry(3)]).turn()
    assert log.events == ["committed 1+1", "acknowledged 2 [(3, 3)]"]


def report_loop(log: Log, clock: FakeClock, seen: Seen) -> tuple[Inbox, ReportLoop]:
    inbox, reports = Inbox(100), FakeReports(log)
    loop = ReportLoop(
        inbox,
        FakeLink(log),  # type: ignore[arg-type]
        FakeDirectory(),
        IngestWindows(FakeStore(log)),  # type: ignore[arg-type]
        RecordReports(reports, reports),
        seen,
        clock,
        Event(),
    )
    return inbox, loop


def status(payload: bytes) -> Delivery:
    return Delivery(InboundMessage(device_topic(DEVICE, Channel.STATUS), payload), 1, 1, 1)


def test_a_locked_database_delays_reports_and_repeats_no_quarantine() -> None:
    log, seen = Log(reports_fail=2), Seen()
    inbox, loop = report_loop(log, FakeClock(), seen)
    inbox.put(status(Status(is_online=True, boot=1).encode()))
    inbox.put(status(b"poison"))
    loop.turn()
    assert log.events == [
        "committed 0+1",
        "control database failed",
        "control database failed",
        "saved 1",
        "acknowledged 2",
    ]
    assert seen.take() == {NUMBER}
    assert seen.take() == set()


def test_chores_are_done_when_due_and_survive_their_errors() -> None:
    done: list[float] = []

    def act() -> None:
        done.append(clock.monotonic())
        if len(done) == 1:
            raise UnreachableError("locked")

    clock = FakeClock()
    chore = Chore("test", 5.0, act)
    for _ in range(12):
        chore.do_if_due(clock.monotonic())
        clock.advance(1)
    assert done == [0, 5, 10]


def test_devices_a_forgetful_broker_does_not_bring_back_are_set_offline() -> None:
    log, clock = Log(), FakeClock()
    link, reports = FakeLink(log, is_session_present=False), FakeReports(log)
    watch = SilenceWatch(link, reports, clock)  # type: ignore[arg-type]
    connected_at = clock.now()
    for _ in range(130):
        watch.look()
        clock.advance(1)
    assert reports.silent_since == [connected_at]
    link.epoch = 2  # a reconnect after which the broker remembered us
    link.is_session_present = True
    for _ in range(130):
        watch.look()
        clock.advance(1)
    assert len(reports.silent_since) == 1


def test_nobody_is_judged_silent_while_the_broker_is_away() -> None:
    log, clock = Log(), FakeClock()
    link, reports = FakeLink(log, is_session_present=False), FakeReports(log)
    watch = SilenceWatch(link, reports, clock)  # type: ignore[arg-type]
    watch.look()
    link.epoch = 0
    clock.advance(timedelta(hours=1).total_seconds())
    watch.look()
    assert reports.silent_since == []


def test_a_full_inbox_holds_its_sender_back_until_there_is_room() -> None:
    inbox = Inbox(2)

    def send() -> None:
        for n in range(5):
            inbox.put(telemetry(n))

    sender = Thread(target=send)
    sender.start()
    taken: list[Delivery] = []
    while len(taken) < 5:
        assert len(inbox) <= 2
        taken += inbox.take(messages_max=1, bytes_max=10**6, linger_s=0, timeout_s=1)
    sender.join(5)
    assert [d.packet_id for d in taken] == [0, 1, 2, 3, 4]


def test_a_lossy_inbox_drops_the_oldest() -> None:
    inbox = Inbox(2, is_lossy=True)
    for n in range(4):
        inbox.put(telemetry(n))
    taken = inbox.take(messages_max=9, bytes_max=10**6, linger_s=0, timeout_s=0)
    assert [d.packet_id for d in taken] == [2, 3]


def test_a_closed_inbox_holds_nobody() -> None:
    inbox = Inbox(1)
    inbox.put(telemetry(0))
    inbox.close()
    inbox.put(telemetry(1))
    assert Inbox(1).take(messages_max=1, bytes_max=1, linger_s=0, timeout_s=0.01) == []


def test_a_batch_is_bounded_in_messages_and_bytes() -> None:
    inbox = Inbox(100)
    for n in range(10):
        inbox.put(telemetry(n))
    size = len(telemetry(0).message.payload)
    take = {"linger_s": 0.0, "timeout_s": 0.0}
    assert len(inbox.take(messages_max=3, bytes_max=10**6, **take)) == 3
    assert len(inbox.take(messages_max=9, bytes_max=size + 1, **take)) == 2
