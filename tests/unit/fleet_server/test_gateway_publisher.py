"""The broker's retained copies follow the database, whatever is killed in between."""

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.contract.metadata import decode_bundle
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic, meta_topic
from fleet_server.errors import NotFoundError
from fleet_server.ports.gateway import BinFile, Envelope
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


BINS = tuple(f"packages-{n:x}" for n in range(5))


def bin_content(role: str, version: int) -> bytes:
    return f"{role} {version}".encode()


@dataclass
class FakeMetadata:
    """Metadata of a version; its bins have versions of their own."""

    version: int = 1
    is_broken: bool = False
    bin_versions: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    named: dict[int, dict[str, int]] = field(default_factory=dict)
    """Bins that the metadata of each version names."""

    def bundle(self) -> dict[str, bytes]:
        if self.is_broken:
            raise NotFoundError("timestamp.json is missing")
        return {"timestamp.json": f"{self.version}".encode()}

    def bins(self, bundle: object) -> list[BinFile]:
        assert bundle == self.bundle()
        return [
            BinFile(role, version, hashlib.sha256(bin_content(role, version)).hexdigest())
            for role, version in sorted(self.bin_versions.items())
        ]

    def read_bin(self, bin_file: BinFile) -> bytes:
        if bin_file.role in self.lost:
            raise NotFoundError(f"{bin_file.role} is missing")
        return bin_content(bin_file.role, bin_file.version)

    def change_bins(self, *roles: str) -> None:
        for role in roles:
            self.bin_versions[role] = self.bin_versions.get(role, 0) + 1
        self.version += 1
        self.named[self.version] = dict(self.bin_versions)


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


# Hash bins --------------------------------------------------------------------------------------


def start_with_bins(**changes: object) -> World:
    world = World(FakeOutbox({1: 1}), **changes)  # type: ignore[arg-type]
    world.metadata.change_bins(*BINS)
    return world


def held_bins(world: World) -> dict[str, bytes]:
    """What the broker holds of the bins, by file name."""
    found: dict[str, bytes] = {}
    for role in BINS:
        payload = world.broker.retained.get(meta_topic(role))
        found.update(decode_bundle(payload) if payload else {})
    return found


def test_bins_go_before_the_metadata_that_names_them() -> None:
    world = start_with_bins()
    world.settle()
    bins = [meta_topic(role) for role in BINS]
    desired = device_topic("d-1", Channel.DESIRED)
    assert world.broker.log == [*bins, META_TOPIC, desired, MARKER_TOPIC]
    assert held_bins(world) == {f"1.{role}.json": bin_content(role, 1) for role in BINS}
    assert world.publisher.bins == 5


def test_only_changed_bins_are_published() -> None:
    world = start_with_bins()
    world.settle()
    world.broker.log.clear()
    world.metadata.change_bins(BINS[3])
    world.settle()
    assert world.broker.log == [meta_topic(BINS[3]), META_TOPIC, MARKER_TOPIC]
    assert f"2.{BINS[3]}.json" in held_bins(world)


def test_metadata_waits_for_every_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_state, "PAGE", 2)
    world = start_with_bins(broker=FakeBroker(drops_after=3))
    world.settle()
    assert META_TOPIC not in world.broker.retained
    assert world.outbox.published == {}
    world.broker.drops_after = None
    world.broker.log.clear()
    world.settle()
    assert world.broker.log[:3] == [meta_topic(BINS[3]), meta_topic(BINS[4]), META_TOPIC]


def test_pages_of_bins_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_state, "BINS_BYTES_PAGE", 1)
    world = start_with_bins()
    assert world.publisher.step()
    assert world.broker.log == [meta_topic(BINS[0])]


def test_a_bin_that_is_gone_holds_the_metadata_back() -> None:
    world = start_with_bins()
    world.metadata.lost.add(BINS[4])
    world.settle()
    assert world.broker.retained == {}
    world.metadata.lost.clear()
    world.settle()
    assert META_TOPIC in world.broker.retained


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_broker_that_holds_the_bins_is_not_given_them_again(is_restarted: bool) -> None:
    world = start_with_bins()
    world.settle()
    world.broker.log.clear()
    world.broker.reconnect()
    if is_restarted:
        world.start()
    world.settle()
    assert world.broker.log == [META_TOPIC]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_broker_that_lost_its_state_gets_all_bins_again(is_restarted: bool) -> None:
    world = start_with_bins()
    world.settle()
    world.broker.kill()
    if is_restarted:
        world.start()
    world.settle()
    assert held_bins(world) == {f"1.{role}.json": bin_content(role, 1) for role in BINS}
    assert world.desired(1) == b"1:1"


def test_a_broker_that_went_back_a_little_gets_its_bins_again() -> None:
    world = start_with_bins()
    world.settle()
    world.broker.saved = dict(world.broker.retained)
    world.metadata.change_bins(BINS[0])
    world.settle()
    world.broker.kill()
    assert f"1.{BINS[0]}.json" in held_bins(world)
    world.settle()
    assert f"2.{BINS[0]}.json" in held_bins(world)
    assert world.publisher.repeated == 0


def test_a_fleet_without_bins_has_the_marker_it_always_had() -> None:
    world = World(FakeOutbox({1: 1}))
    world.settle()
    assert world.broker.retained[MARKER_TOPIC] == b"1:1"


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
        self.world.metadata.change_bins()
        self.is_settled = False

    @rule(role=st.sampled_from(BINS))
    def change_a_bin(self, role: str) -> None:
        metadata = self.world.metadata
        metadata.change_bins(*(() if metadata.bin_versions else BINS), role)
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

    @invariant()
    def the_broker_holds_every_bin_at_rest(self) -> None:
        world = self.world
        if self.is_settled:
            versions = world.metadata.bin_versions
            wanted = {f"{n}.{role}.json": bin_content(role, n) for role, n in versions.items()}
            assert held_bins(world) == wanted

    @invariant()
    def metadata_at_the_broker_never_names_a_bin_that_is_not_there(self) -> None:
        payload = self.world.broker.retained.get(META_TOPIC)
        if payload is None:
            return
        version = int(decode_bundle(payload)["timestamp.json"])
        held = {role: int(n) for n, role, _ in (n.split(".") for n in held_bins(self.world))}
        for role, wanted in self.world.metadata.named.get(version, {}).items():
            assert held.get(role, 0) >= wanted


TestPublisherMachine = PublisherMachine.TestCase
TestPublisherMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
