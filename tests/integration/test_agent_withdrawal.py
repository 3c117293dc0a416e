"""The whole agent when approvers withdraw: what answers, what is said, what a power cut leaves."""

from pathlib import Path

import pytest

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState
from edge_agent.contract.metadata import encode_bundle
from edge_agent.contract.package import OnWithdrawn
from edge_agent.contract.topics import Channel, meta_topic
from edge_agent.errors import Refusal, StorageError
from edge_agent.ports import MessageArrived
from tests.support.agent import ChunkServer, a_package
from tests.support.agent_world import SLOT, World
from tests.support.dying_calls import Killed, Killer, killing

V1, V2 = a_package("one"), a_package("two")
SHA1, SHA2 = ChunkServer(V1).sha256, ChunkServer(V2).sha256
PATH1, PATH2 = "model/1/camera.tar", "model/2/camera.tar"


def installed(directory: Path, *, policy: OnWithdrawn = OnWithdrawn.STOP) -> World:
    world = World(directory)
    world.on_withdrawn = policy
    world.connect()
    world.assign(V1, 1)
    world.run(65, step_s=13)
    assert world.slot().phase is SlotState.CONFIRMED
    return world


def hear(world: World, *withdrawn: str) -> None:
    """New metadata arrives in which these are not signed."""
    world.verifier.withdrawn = set(withdrawn)
    world.news += 1
    world.send_metadata({"timestamp.json": b"%d" % world.news})
    world.run(2)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return installed(tmp_path)


def test_a_withdrawn_package_stops_and_is_reported_and_its_bytes_go(world: World) -> None:
    hear(world, PATH1)
    assert world.inference.served == {}
    assert "withdrawn" in world.inference.reasons[SLOT]
    report = world.reports[-1].slots[SLOT]
    assert (report.state, report.code) == (SlotState.FAILED, "withdrawn")
    assert (report.running, report.confirmed) == (None, None)
    assert not world.blobs.has(SHA1)


@pytest.mark.parametrize("envelope", ["none", "refused", "expired"])
def test_it_stops_without_a_valid_assignment(world: World, envelope: str) -> None:
    if envelope == "none":
        world.say(Channel.DESIRED, b"")
    else:
        code = Code.ASSIGN_SIGNATURE if envelope == "refused" else Code.ASSIGN_EXPIRED
        world.verifier.known[b"{}"] = Refusal(code, "no")
        world.say(Channel.DESIRED, b"{}")
    world.run(2)
    assert world.inference.served == {SLOT: SHA1}
    hear(world, PATH1)
    assert world.inference.served == {}


def test_without_metadata_that_says_so_nothing_stops(world: World) -> None:
    world.verifier.withdrawn = {PATH1}
    world.send_metadata({"root.json": b"{}"})
    world.run(400, step_s=10)
    assert world.inference.served == {SLOT: SHA1}
    report = world.reports[-1]
    assert report.refusal == {"code": "tuf-missing", "detail": "timestamp.json"}


def test_a_kept_package_keeps_running_and_the_report_says_that_it_was_withdrawn(
    tmp_path: Path,
) -> None:
    world = installed(tmp_path, policy=OnWithdrawn.KEEP)
    hear(world, PATH1)
    assert world.inference.served == {SLOT: SHA1}
    assert "was withdrawn" in world.reports[-1].slots[SLOT].detail
    world.cut_power()
    world.run(2)
    assert world.inference.served == {SLOT: SHA1}
    world.connect()
    hear(world)
    assert "withdrawn" not in world.reports[-1].slots[SLOT].detail


def test_signed_and_assigned_again_it_starts_again_by_way_of_the_self_test(world: World) -> None:
    hear(world, PATH1)
    tested = len(world.tester.tested)
    hear(world)
    world.run(70, step_s=5)
    assert world.slot().phase is SlotState.CONFIRMED
    assert world.inference.served == {SLOT: SHA1}
    assert len(world.tester.tested) == tested + 1


def test_a_candidate_returns_to_the_confirmed_package(world: World) -> None:
    world.assign(V2, 2)
    world.run(10)
    assert world.slot().phase is SlotState.PROBATION
    hear(world, PATH2)
    assert world.inference.served == {SLOT: SHA1}
    report = world.reports[-1].slots[SLOT]
    assert (report.state, report.code) == (SlotState.FAILED, "withdrawn")
    assert world.slot().bad == ()


def test_what_was_switched_off_meanwhile_does_not_answer_after_its_start(world: World) -> None:
    world.verifier.withdrawn = {PATH1}
    world.send_metadata({"timestamp.json": b"news"})
    job = world.jobs.waiting.popleft()[1]
    job()  # trusted on disk; the power goes before the agent hears of it
    activated = len(world.inference.activated)
    world.cut_power()
    world.run(2)
    assert (activated, world.inference.activated) == (1, [])
    assert world.inference.served == {}
    assert world.slot().code is Code.WITHDRAWN


def test_a_full_disk_does_not_keep_other_slots_from_starting(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.connect()
    world.offer(V1, 1)
    world.offer(V2, 2)
    one, two = world.servers[SHA1], world.servers[SHA2]
    world.send_metadata()
    world.say(Channel.DESIRED, world.sign({"left": (one, 1), "right": (two, 2)}))
    world.run(65, step_s=5)
    world.verifier.withdrawn = {PATH1}
    world.send_metadata({"timestamp.json": b"news"})
    world.jobs.waiting.popleft()[1]()
    with pytest.MonkeyPatch.context() as patch:

        def refuse(_store: object, _state: object) -> None:
            raise StorageError(Code.DISK_FULL, "full")

        patch.setattr(type(world.store), "save", refuse)
        world.cut_power()
        world.run(8)
        assert world.inference.served == {"right": SHA2}
    world.run(10)
    assert world.inference.served == {"right": SHA2}
    assert world.slot("left").code is Code.WITHDRAWN


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_file_system_call_of_a_withdrawal_ends_in_silence(
    tmp_path: Path, after: bool
) -> None:
    at, was_killed = 0, True
    while was_killed:
        at += 1
        world = installed(tmp_path / str(at))
        was_killed = False
        with killing(Killer(at, after=after)):
            try:
                hear(world, PATH1)
            except Killed:
                was_killed = True
        world.cut_power()
        world.run(2)
        assert world.inference.served == {}, f"it answers after a kill at call {at}"
        assert world.slot().code is Code.WITHDRAWN
        if at % 4 == 0:
            world.connect()
            hear(world)
            world.say(Channel.DESIRED, world.offer(V1, 1))
            world.run(70, step_s=35)
            assert world.inference.served == {SLOT: SHA1}, f"stuck after a kill at call {at}"
    assert at > 8


@pytest.mark.parametrize("is_early", [True, False])
def test_only_the_bins_that_are_needed_are_heard_and_judged(world: World, is_early: bool) -> None:
    topic, other = meta_topic("packages-1f"), meta_topic("packages-20")
    payload = encode_bundle({"3.packages-1f.json": b"{}"})
    if is_early:
        world.agent.handle(MessageArrived(topic, payload))
    assert world.agent.ignored_messages == is_early
    world.verifier.bins = frozenset({"packages-1f"})
    hear(world)
    assert world.link.watched == {topic}
    seen = world.verifier.judged
    world.agent.handle(MessageArrived(other, payload))
    world.run(2)
    assert world.verifier.judged == seen
    world.agent.handle(MessageArrived(topic, payload))
    world.run(2)
    assert world.verifier.judged == seen + 1
    assert world.verifier.files["3.packages-1f.json"] == b"{}"
    world.agent.handle(MessageArrived(topic, payload))
    world.run(2)
    assert world.verifier.judged == seen + 1
    world.verifier.bins = frozenset()
    hear(world)
    assert world.link.watched == frozenset()
    assert "3.packages-1f.json" not in world.verifier.files


@pytest.mark.parametrize(
    "payload",
    [
        b"junk",
        encode_bundle({"3.packages-20.json": b"{}"}),
        encode_bundle({"3.packages-1f.json": b"{}", "timestamp.json": b"{}"}),
        b"\0" * 300_000,
        b"",
    ],
    ids=["junk", "other bin", "more than the bin", "large", "empty"],
)
def test_a_bin_that_is_none_counts_as_missing(world: World, payload: bytes) -> None:
    world.verifier.bins = frozenset({"packages-1f"})
    hear(world)
    world.agent.handle(MessageArrived(meta_topic("packages-1f"), payload))
    world.run(2)
    assert set(world.verifier.files) == {"timestamp.json"}
    assert world.inference.served == {SLOT: SHA1}
