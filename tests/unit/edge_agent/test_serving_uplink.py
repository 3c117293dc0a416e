from typing import Any

import pytest

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.telemetry_uplink import (
    ACK_TIMEOUT_S,
    IN_FLIGHT_WINDOWS_MAX,
    WINDOWS_PER_SEND,
    TelemetryUplink,
)
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.messages import AckRange, TelemetryAck
from edge_agent.contract.windows import (
    COUNTER_BYTES_MAX,
    FRAME_BYTES_MAX,
    Window,
    decode_windows,
    encoded_size,
)
from edge_agent.core.uplink_budget import MESSAGE_OVERHEAD_BYTES
from tests.support.clock import FakeClock

BOOT = 77


def window(sequence: int, *, stream: int = 0, counters: bytes = b"\x01") -> Window:
    return Window(
        stream=stream,
        sequence=sequence,
        t0_ms=1_000 + sequence,
        t1_ms=2_000 + sequence,
        reference=b"r" * 8,
        artifact=b"a" * 8,
        rows=1,
        counters=counters,
    )


class World:
    """An outbox in memory, a link that can be down, and the server's acknowledgements."""

    def __init__(self, bytes_per_day_max: int = 0, outbox: Outbox | None = None) -> None:
        self.clock = FakeClock()
        self.outbox = outbox or Outbox(None)
        self.is_up = True
        self.sent: list[bytes] = []
        self.jitter = 0.0
        meter = None
        if bytes_per_day_max:
            meter = UplinkMeter(bytes_per_day_max, self.clock, self.outbox.notes())
        self.uplink = TelemetryUplink(
            self.outbox, self.publish, self.clock, lambda: self.jitter, meter=meter
        )

    def publish(self, payload: bytes) -> bool:
        if self.is_up:
            self.sent.append(payload)
        return self.is_up

    def keep(self, count: int, *, boot: int = BOOT, first: int = 0) -> None:
        self.outbox.append([(boot, window(first + n)) for n in range(count)])

    def take_sequences(self) -> list[int]:
        sent, self.sent = self.sent, []
        return [w.sequence for payload in sent for w in decode_windows(payload).windows]

    def pump_after(self, seconds: float) -> list[int]:
        self.clock.advance(seconds)
        self.uplink.pump()
        return self.take_sequences()

    def acknowledge(self, first: int, last: int) -> None:
        self.uplink.on_ack(TelemetryAck(ranges=(AckRange(BOOT, 0, first, last),)).encode())


@pytest.fixture
def world() -> World:
    return World()


def test_windows_are_sent_oldest_first_and_once(world: World) -> None:
    world.keep(3)
    assert world.pump_after(0) == [0, 1, 2]
    assert world.pump_after(1) == []


def test_what_the_server_committed_is_forgotten(world: World) -> None:
    world.keep(3)
    world.pump_after(0)
    world.acknowledge(0, 1)
    assert world.uplink.counts()["waiting"] == 1
    assert world.pump_after(ACK_TIMEOUT_S) == [2]


def test_without_acknowledgement_windows_are_sent_again_ever_later(world: World) -> None:
    world.keep(1)
    sent_at_s = [second for second in range(215) if world.pump_after(1 if second else 0)]
    assert sent_at_s == [0, 3, 9, 21, 45, 93, 153, 213]


def test_jitter_spreads_the_second_try(world: World) -> None:
    world.jitter = 0.5
    world.keep(1)
    world.pump_after(0)
    assert world.pump_after(ACK_TIMEOUT_S * 1.5 - 0.1) == []
    assert world.pump_after(0.2) == [0]


def test_a_stream_of_new_windows_does_not_postpone_the_second_try(world: World) -> None:
    sent = []
    for n in range(8):
        world.keep(1, first=n)
        sent.append(world.pump_after(1))
    assert [n for n, sequences in enumerate(sent) if 0 in sequences] == [0, 3]


def test_a_reconnect_sends_again_at_once_with_the_same_bytes(world: World) -> None:
    world.keep(3)
    world.uplink.pump()
    before = list(world.sent)
    world.sent.clear()
    world.uplink.on_connected()
    world.uplink.pump()
    assert world.sent == before


def test_an_acknowledgement_ends_the_back_off(world: World) -> None:
    world.keep(2)
    world.pump_after(0)
    for _ in range(4):
        world.pump_after(60)
    world.acknowledge(0, 0)
    world.uplink.on_connected()
    assert world.pump_after(0) == [1]
    assert world.pump_after(ACK_TIMEOUT_S) == [1]


def test_what_the_link_does_not_take_is_tried_ever_later_and_at_once_in_a_new_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    reserve = Outbox.reserve

    def count(outbox: Outbox, *given: Any) -> Any:
        commits.append(1)
        return reserve(outbox, *given)

    monkeypatch.setattr(Outbox, "reserve", count)
    world.is_up = False
    world.keep(2)
    for _ in range(600):
        assert world.pump_after(1) == []
    assert 5 < len(commits) <= 15, "each is written to flash"
    world.is_up = True
    assert world.pump_after(60) == [0, 1], "of a session that was full"
    world.is_up = False
    world.uplink.on_connected()
    assert world.pump_after(0) == []
    world.is_up = True
    world.uplink.on_connected()
    assert world.pump_after(0) == [0, 1]


def test_unacknowledged_windows_are_bounded(world: World) -> None:
    world.keep(IN_FLIGHT_WINDOWS_MAX + 10)
    world.uplink.pump()
    sizes = [len(decode_windows(payload).windows) for payload in world.sent]
    assert max(sizes) == WINDOWS_PER_SEND
    assert len(world.take_sequences()) == IN_FLIGHT_WINDOWS_MAX
    world.acknowledge(0, 4)
    assert world.pump_after(1) == list(range(IN_FLIGHT_WINDOWS_MAX, IN_FLIGHT_WINDOWS_MAX + 5))


def test_a_frame_holds_windows_of_one_boot_and_keeps_its_bound(world: World) -> None:
    world.outbox.append([(5, window(0)), (5, window(1)), (6, window(0))])
    large = b"\x01" * COUNTER_BYTES_MAX
    world.outbox.append([(6, window(n, counters=large)) for n in range(1, 6)])
    world.uplink.pump()
    frames = [decode_windows(payload) for payload in world.sent]
    assert [(f.boot, [w.sequence for w in f.windows]) for f in frames] == [
        (5, [0, 1]),
        (6, [0, 1, 2, 3]),
        (6, [4, 5]),
    ]
    assert max(len(payload) for payload in world.sent) <= FRAME_BYTES_MAX


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"v":1,"ranges":[[1,2]]}', b"\xff" * 70_000])
def test_a_malformed_acknowledgement_is_counted_and_ignored(world: World, payload: bytes) -> None:
    world.keep(1)
    world.pump_after(0)
    world.uplink.on_ack(payload)
    assert world.uplink.malformed_acks == 1
    assert world.uplink.counts()["waiting"] == 1


def test_an_idle_pump_does_not_touch_the_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.keep(1)
    world.pump_after(0)
    monkeypatch.setattr(Outbox, "pending", lambda *_: pytest.fail("read the file"))
    assert world.pump_after(1) == []


def test_windows_that_are_due_are_closed_first() -> None:
    world = World()
    uplink = TelemetryUplink(
        world.outbox, world.publish, world.clock, lambda: 0.0, close_due=lambda: world.keep(1)
    )
    uplink.pump()
    assert world.take_sequences() == [0]


def test_what_is_sent_was_marked_and_what_is_not_was_not(world: World) -> None:
    world.is_up = False
    world.keep(IN_FLIGHT_WINDOWS_MAX)
    for _ in range(3):
        world.pump_after(1)
    marked = world.outbox.notes()["sent_id"]
    assert marked == IN_FLIGHT_WINDOWS_MAX, "the first try"
    world.keep(10, first=IN_FLIGHT_WINDOWS_MAX)
    world.pump_after(1)
    assert world.outbox.notes()["sent_id"] == marked, "one frame is tried, and that is marked"


DAY_S = 86_400
WINDOW_BYTES = encoded_size(window(0))


def run_days(world: World, days: int, *, per_hour: int, step_s: int = 300) -> list[int]:
    """Record all day, acknowledge at once; return what each day sent, payload and overhead."""
    spent, recorded = [], 0
    for _ in range(days):
        total = 0
        for second in range(0, DAY_S, step_s):
            due = per_hour * (second + step_s) // 3_600 - per_hour * second // 3_600
            world.keep(due, first=recorded)
            recorded += due
            world.clock.advance(step_s)
            world.uplink.pump()
            for payload in world.sent:
                total += len(payload) + MESSAGE_OVERHEAD_BYTES
                frame = decode_windows(payload)
                ranges = tuple(
                    AckRange(frame.boot, w.stream, w.sequence, w.sequence) for w in frame.windows
                )
                world.uplink.on_ack(TelemetryAck(ranges=ranges).encode())
            world.sent.clear()
        spent.append(total)
    return spent


def test_a_day_sends_no_more_than_its_budget_and_the_rest_waits_merged() -> None:
    world = World(20_000, Outbox(None, bytes_max=100 * WINDOW_BYTES))
    spent = run_days(world, 3, per_hour=24)  # 576 windows a day, 27 kB
    counts = world.uplink.counts()
    assert all(15_000 < total <= 20_000 for total in spent), spent
    assert counts["held"] > 0
    assert counts["merged"] > 0
    assert counts["dropped"] == 0


def test_a_budget_that_suffices_holds_nothing() -> None:
    world = World(1_000_000)
    (spent,) = run_days(world, 1, per_hour=6, step_s=600)
    counts = world.uplink.counts()
    assert (counts["held"], counts["waiting"]) == (0, 0)
    assert 144 * WINDOW_BYTES <= spent <= 144 * (WINDOW_BYTES + 100)


def test_a_restart_does_not_refill_the_budget() -> None:
    world = World(8_000)
    world.keep(100)
    world.uplink.pump()
    first = sum(len(payload) for payload in world.sent)
    assert 0 < first <= 1_000
    again = World(8_000, world.outbox)
    again.uplink.pump()
    assert again.sent == []
    assert again.uplink.counts()["held"] == 1
    assert again.uplink.counts()["used_bytes"] == first + MESSAGE_OVERHEAD_BYTES


def test_what_the_link_refuses_costs_nothing() -> None:
    world = World(8_000)
    world.keep(3)
    before = world.uplink.counts()["left_bytes"]
    world.is_up = False
    world.uplink.pump()
    assert world.uplink.counts()["left_bytes"] == before


def test_a_window_larger_than_the_bucket_leaves_and_is_paid_back() -> None:
    world = World(8_000)
    world.keep(0)
    world.outbox.append([(BOOT, window(n, counters=b"\x01" * 3_000)) for n in range(2)])
    assert world.pump_after(0) == [0]
    assert world.pump_after(4 * 3_600) == []
    assert world.pump_after(6 * 3_600) == []
    assert world.pump_after(2 * 3_600) == [0], "paid back: 7,000 bytes a day"


def test_an_idle_pump_that_waits_for_budget_does_not_touch_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(8_000)
    world.keep(100)
    world.pump_after(0)
    monkeypatch.setattr(Outbox, "pending", lambda *_: pytest.fail("read the file"))
    assert world.pump_after(1) == []
