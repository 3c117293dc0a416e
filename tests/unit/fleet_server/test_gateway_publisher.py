"""The broker's retained copies follow the database, whatever is killed in between."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.contract.metadata import decode_bundle
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic
from fleet_server.errors import NotFoundError
from fleet_server.ports.gateway import Envelope
from fleet_server.services import publish_state
from fleet_server.services.publish_state import MARKER_TOPIC, PublishState


@dataclass
class FakeOutbox:
    counters: dict[int, int] = field(default_factory=dict)
    published: dict[int, int] = field(default_factory=dict)

    def _envelope(self, device: int) -> Envelope:
        counter = self.counters[device]
        return Envelope(device, f"d-{device}", counter, f"{device}:{counter}".encode())

    def load_unpublished(self, limit: int) -> list[Envelope]:
        waiting = [d for d, c in sorted(self.counters.items()) if c > self.published.get(d, 0)]
        return [self._envelope(d) for d in waiting[:limit]]

    def load_published(self, after_device: int, limit: int) -> list[Envelope]:
        had = [d for d in sorted(self.published) if d > after_device]
        return [self._envelope(d) for d in had[:limit]]

    def mark_published(self, envelopes: object) -> None:
        assert isinstance(envelopes, list)
        for e in envelopes:
            self.published[e.device] = max(e.counter, self.published.get(e.device, 0))

    def published_mark(self) -> str:
        count = len(self.published)
        return f"{count}:{sum(self.published.values())}" if count else ""


@dataclass
class FakeMetadata:
    version: int = 1
    is_broken: bool = False

    def bundle(self) -> dict[str, bytes]:
        if self.is_broken:
            raise NotFoundError("timestamp.json is missing")
        return {"timestamp.json": f"{self.version}".encode()}


@dataclass
class FakeBroker:
    """Keeps retained messages; can be killed back to an older state."""

    epoch: int = 1
    retained: dict[str, bytes] = field(default_factory=dict)
    saved: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    held: str | None = ""
    drops_after: int | None = None

    def publish_retained(self, messages: object) -> list[bool]:
        assert isinstance(messages, list)
        taken = []
        for topic, payload in messages:
            if self.drops_after == 0 or not self.epoch:
                taken.append(False)
                continue
            if self.drops_after is not None:
                self.drops_after -= 1
            self.retained[topic] = payload
            self.log.append(topic)
            taken.append(True)
        return taken

    def read_marker(self) -> str | None:
        return self.held

    def reconnect(self) -> None:
        self.epoch += 1
        self.held = self.retained.get(MARKER_TOPIC, b"").decode()

    def kill(self) -> None:
        self.retained = dict(self.saved)
        self.reconnect()


@dataclass
class World:
    outbox: FakeOutbox = field(default_factory=FakeOutbox)
    metadata: FakeMetadata = field(default_factory=FakeMetadata)
    broker: FakeBroker = field(default_factory=FakeBroker)

    def __post_init__(self) -> None:
        self.publisher = self.start()

    def start(self) -> PublishState:
        self.publisher = PublishState(
            self.outbox,
            self.metadata,
            self.broker,
            stamp_of_metadata=lambda: self.metadata.version,
        )
        return self.publisher

    def settle(self) -> None:
        for _ in range(50):
            if not self.publisher.step():
                return
        raise AssertionError("the publisher does not come to rest")

    def desired(self, device: int) -> bytes | None:
        return self.broker.retained.get(device_topic(f"d-{device}", Channel.DESIRED))


def test_metadata_goes_before_assignments_and_the_marker_last() -> None:
    world = World(FakeOutbox({1: 1, 2: 4}))
    world.settle()
    topics = [device_topic(f"d-{n}", Channel.DESIRED) for n in (1, 2)]
    assert world.broker.log[:3] == [META_TOPIC, *topics]
    assert world.broker.log[-1] == MARKER_TOPIC
    assert world.outbox.published == {1: 1, 2: 4}
    assert decode_bundle(world.broker.retained[META_TOPIC]) == {"timestamp.json": b"1"}


def test_nothing_new_is_nothing_sent() -> None:
    world = World(FakeOutbox({1: 1}))
    world.settle()
    world.broker.log.clear()
    world.settle()
    assert world.broker.log == []


def test_changed_metadata_is_published_again() -> None:
    world = World()
    world.settle()
    world.metadata.version = 2
    world.settle()
    assert decode_bundle(world.broker.retained[META_TOPIC]) == {"timestamp.json": b"2"}


def test_no_assignment_leaves_without_its_metadata() -> None:
    world = World(FakeOutbox({1: 1}), FakeMetadata(is_broken=True))
    world.settle()
    assert world.broker.log == []
    world.metadata.is_broken = False
    world.settle()
    assert world.outbox.published == {1: 1}


def test_what_the_broker_did_not_acknowledge_is_sent_again() -> None:
    world = World(FakeOutbox({1: 1, 2: 1, 3: 1}), broker=FakeBroker(drops_after=2))
    world.settle()
    assert world.outbox.published == {1: 1}
    world.broker.drops_after = None
    world.settle()
    assert world.outbox.published == {1: 1, 2: 1, 3: 1}


def test_without_a_connection_nothing_is_marked() -> None:
    world = World(FakeOutbox({1: 1}), broker=FakeBroker(epoch=0))
    world.settle()
    assert world.outbox.published == {}


def test_a_reconnect_to_the_same_broker_repeats_metadata_only() -> None:
    world = World(FakeOutbox({1: 1, 2: 1}))
    world.settle()
    world.broker.log.clear()
    world.broker.reconnect()
    world.settle()
    assert world.broker.log == [META_TOPIC]
    assert world.publisher.repeated == 0


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_broker_that_lost_its_state_gets_everything_again(is_restarted: bool) -> None:
    world = World(FakeOutbox(dict.fromkeys(range(1, 6), 1)))
    world.settle()
    world.broker.kill()
    if is_restarted:
        world.start()
    world.settle()
    assert [world.desired(n) for n in range(1, 6)] == [f"{n}:1".encode() for n in range(1, 6)]
    assert world.publisher.repeated == 5


def test_a_broker_that_went_back_a_little_is_noticed() -> None:
    world = World(FakeOutbox({1: 1}))
    world.settle()
    world.broker.saved = dict(world.broker.retained)  # its last autosave
    world.outbox.counters |= {1: 2, 2: 1}
    world.settle()
    world.broker.kill()
    assert world.desired(1) == b"1:1"
    world.settle()
    assert (world.desired(1), world.desired(2)) == (b"1:2", b"2:1")


def test_new_assignments_do_not_wait_for_the_marker() -> None:
    world = World(FakeOutbox({1: 1}), broker=FakeBroker(held=None))
    world.settle()
    assert world.outbox.published == {1: 1}
    assert MARKER_TOPIC not in world.broker.retained
    world.broker.held = ""
    world.settle()
    assert world.broker.retained[MARKER_TOPIC] == b"1:1"


def test_pages_reach_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_state, "PAGE", 2)
    world = World(FakeOutbox(dict.fromkeys(range(1, 8), 1)))
    world.settle()
    world.broker.kill()
    world.settle()
    assert all(world.desired(n) for n in range(1, 8))


class PublisherMachine(RuleBasedStateMachine):
    """Kill broker and gateway, drop messages, change desires: at rest the broker is right."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.is_settled = False

    @rule(device=st.integers(1, 4))
    def assign(self, device: int) -> None:
        counters = self.world.outbox.counters
        counters[device] = counters.get(device, 0) + 1
        self.is_settled = False

    @rule()
    def change_metadata(self) -> None:
        self.world.metadata.version += 1
        self.is_settled = False

    @rule()
    def autosave(self) -> None:
        self.world.broker.saved = dict(self.world.broker.retained)

    @rule()
    def kill_broker(self) -> None:
        self.world.broker.kill()
        self.is_settled = False

    @rule()
    def kill_gateway(self) -> None:
        self.world.start()
        self.world.broker.reconnect()
        self.is_settled = False

    @rule(count=st.integers(0, 3))
    def lose_the_connection_soon(self, count: int) -> None:
        self.world.broker.drops_after = count
        self.world.publisher.step()
        self.world.broker.drops_after = None
        self.world.broker.reconnect()
        self.is_settled = False

    @rule()
    def step_once(self) -> None:
        self.world.publisher.step()

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.is_settled = True

    @invariant()
    def the_broker_holds_the_truth_at_rest(self) -> None:
        if not self.is_settled:
            return
        world = self.world
        for device, counter in world.outbox.counters.items():
            assert world.desired(device) == f"{device}:{counter}".encode()
        bundle = decode_bundle(world.broker.retained[META_TOPIC])
        assert bundle == {"timestamp.json": f"{world.metadata.version}".encode()}


TestPublisherMachine = PublisherMachine.TestCase
TestPublisherMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
