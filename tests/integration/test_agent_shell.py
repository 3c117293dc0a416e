"""The agent's shell over a real disk: updates, refusals, reports, resumes, a disk that refuses."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_agent.adapters import chunk_store
from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import CHUNK_BYTES, Part
from edge_agent.core.probation import ProbationStats
from edge_agent.errors import Refusal, StorageError
from tests.support.agent import a_package
from tests.support.agent_world import World

V1, V2 = a_package("one", padding=300_000), a_package("two", padding=900_000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.connect()
    return world


def sha(world: World, blob: bytes) -> str:
    return next(s for s, server in world.servers.items() if server.blob == blob)


def refusal(world: World) -> Mapping[str, str] | None:
    return world.reports[-1].refusal


def installed(world: World, blob: bytes, version: int) -> World:
    world.assign(blob, version)
    world.run(65)
    assert world.slot().phase is SlotState.CONFIRMED
    return world


def test_an_assignment_becomes_a_confirmed_model(world: World) -> None:
    installed(world, V1, 1)
    assert world.inference.served == {"plant": sha(world, V1)}
    assert world.blobs.read(sha(world, V1)) == V1
    report = world.reports[-1]
    assert report.slots["plant"].running == report.slots["plant"].confirmed
    assert report.assignment_counter == 1
    assert report.metadata == {"targets": 1}
    assert report.capabilities == {"onnxruntime": "1.31.1"}
    assert report.outbox == {"waiting": 1, "dropped": 0}
    assert world.link.spread_s == 3.0


@pytest.mark.parametrize("is_metadata_first", [True, False], ids=["metadata", "assignment"])
def test_either_half_may_come_first_and_one_alone_does_nothing(
    world: World, is_metadata_first: bool
) -> None:
    envelope = world.offer(V1, 1)
    if is_metadata_first:
        world.send_metadata()
    else:
        world.say(Channel.DESIRED, envelope)
    world.run(40)
    assert world.verifier.asked == 0
    assert not world.agent.state.slots
    world.send_metadata()
    world.say(Channel.DESIRED, envelope)
    world.run(70)
    assert world.slot().phase is SlotState.CONFIRMED


def test_a_refusal_the_other_half_would_cure_is_reported_only_when_it_lasts(world: World) -> None:
    world.send_metadata({"root.json": b"{}"})
    world.say(Channel.DESIRED, world.offer(V1, 1))
    world.run(29)
    assert refusal(world) is None
    world.run(3)
    assert refusal(world) == {"code": "tuf-missing", "detail": "timestamp.json"}
    world.send_metadata()
    world.run(2)
    assert refusal(world) is None


def test_another_refusal_is_reported_at_once_and_changes_nothing(world: World) -> None:
    installed(world, V1, 1)
    envelope = world.offer(V2, 2)
    world.verifier.known[envelope] = Refusal(Code.WRONG_DEVICE, "cam-8")
    world.say(Channel.DESIRED, envelope)
    world.run(1)
    assert refusal(world) == {"code": "wrong-device", "detail": "cam-8"}
    assert world.slot().phase is SlotState.CONFIRMED
    assert world.inference.served == {"plant": sha(world, V1)}


def test_a_refusal_that_time_cures_is_judged_again(world: World) -> None:
    envelope = world.offer(V1, 1)
    good, world.verifier.known[envelope] = world.verifier.known[envelope], Refusal(Code.TUF_EXPIRED)
    world.send_metadata()
    world.say(Channel.DESIRED, envelope)
    world.run(5)
    assert refusal(world) == {"code": "tuf-expired", "detail": ""}
    world.verifier.known[envelope] = good
    world.run(130)
    assert world.slot().phase is SlotState.CONFIRMED


def test_the_same_messages_again_are_not_judged_again(world: World) -> None:
    installed(world, V1, 1)
    asked = world.verifier.asked
    world.disconnect()
    world.connect()
    world.send_metadata()
    world.run(2)
    assert world.verifier.asked == asked


@pytest.mark.parametrize("payload", [b"junk", b"\0" * 300_000, b""], ids=["junk", "large", "empty"])
def test_malformed_messages_on_every_topic_are_survived(world: World, payload: bytes) -> None:
    installed(world, V1, 1)
    for channel in (Channel.CHUNK, Channel.TELEMETRY_ACK, Channel.COMMAND):
        world.say(channel, payload)
    world.send_metadata({"root.json": b"[]"})
    world.say(Channel.DESIRED, world.offer(V2, 2))
    world.run(3)
    assert world.inference.served == {"plant": sha(world, V1)}
    world.send_metadata()
    world.run(70)
    assert world.inference.served == {"plant": sha(world, V2)}


def test_a_failing_candidate_is_rolled_back_and_the_report_says_why(world: World) -> None:
    installed(world, V1, 1)
    world.inference.stats = ProbationStats(requests=100, rows=100, errors=50)
    world.assign(V2, 2, rollout=7)
    world.run(5)
    report = world.reports[-1].slots["plant"]
    assert (report.state, report.code, report.rollout) == (SlotState.FAILED, "probation-errors", 7)
    assert world.inference.served == {"plant": sha(world, V1)}
    assert not world.blobs.has(sha(world, V2))


def test_a_failed_self_test_never_lets_the_candidate_answer(world: World) -> None:
    installed(world, V1, 1)
    world.offer(V2, 2)
    world.tester.bad[sha(world, V2)] = Code.SELFTEST_GOLDEN
    world.assign(V2, 2)
    world.run(5)
    report = world.reports[-1].slots["plant"]
    assert (report.code, report.detail) == ("selftest-golden", "row 3")
    assert sha(world, V2) not in world.inference.activated


def test_several_slots_are_accepted_in_one_commit(world: World) -> None:
    world.offer(V1, 1)
    world.offer(V2, 2)
    one, two = world.servers[sha(world, V1)], world.servers[sha(world, V2)]
    world.send_metadata()
    world.say(Channel.DESIRED, world.sign({"left": (one, 1), "right": (two, 2)}))
    world.run(65)
    assert world.inference.served == {"left": one.sha256, "right": two.sha256}
    assert {s.phase for s in world.agent.state.slots.values()} == {SlotState.CONFIRMED}


def test_two_slots_share_one_transfer(world: World) -> None:
    world.offer(V1, 1)
    one = world.servers[sha(world, V1)]
    world.send_metadata()
    world.say(Channel.DESIRED, world.sign({"left": (one, 1), "right": (one, 1)}))
    world.run(65)
    assert {s.phase for s in world.agent.state.slots.values()} == {SlotState.CONFIRMED}
    chunks = [index for part, index in one.served if part is Part.CHUNKS]
    assert sorted(chunks) == sorted(set(chunks))


@pytest.mark.parametrize("how", ["power", "link", "server"])
def test_an_interrupted_transfer_repeats_at_most_one_window(world: World, how: str) -> None:
    world.assign(V2, 2)
    world.work(jobs=7)
    server = world.servers[sha(world, V2)]
    assert 0 < len(server.served) < len(server.hashes) // 32
    if how == "power":
        world.cut_power()
        world.connect()
    elif how == "link":
        world.disconnect()
        world.run(30)
        world.connect()
    else:
        world.is_server_up = False
        world.work()
        world.run(15)
        world.is_server_up = True
    world.run(120)
    assert world.slot().phase is SlotState.CONFIRMED
    repeated = len(server.served) - len(set(server.served))
    assert repeated <= 4


def test_a_chunk_the_disk_did_not_keep_is_found_at_the_resume_and_fetched_again(
    world: World, tmp_path: Path
) -> None:
    world.assign(V2, 2)
    world.work(jobs=7)
    server = world.servers[sha(world, V2)]
    part = tmp_path / "parts" / f"{server.sha256}.part"
    data = bytearray(part.read_bytes())
    data[CHUNK_BYTES + 7] ^= 1
    part.write_bytes(data)
    world.cut_power()
    world.connect()
    world.run(70)
    assert world.slot().phase is SlotState.CONFIRMED
    assert server.served.count((Part.CHUNKS, 1)) == 2
    assert server.served.count((Part.CHUNKS, 0)) == 1


def test_a_transfer_goes_on_as_soon_as_the_link_is_back(world: World) -> None:
    world.is_server_up = False
    world.assign(V2, 2)
    world.work()
    world.disconnect()
    world.link.sent.clear()
    world.connect()
    assert Channel.CHUNK_REQUEST in [channel for channel, _ in world.link.sent]


def test_the_confirmed_model_answers_after_a_power_cut_without_a_server(world: World) -> None:
    installed(world, V1, 1)
    world.cut_power()
    world.run(2)
    assert world.inference.served == {"plant": sha(world, V1)}


def test_a_flipped_bit_in_the_confirmed_package_is_found_and_the_package_fetched_anew(
    world: World,
) -> None:
    installed(world, V1, 1)
    path = world.blobs.path(sha(world, V1))
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    world.cut_power()
    world.run(2)
    assert world.inference.served == {}
    world.connect()
    world.run(1)
    assert world.reports[0].slots["plant"].code == "blob-hash"
    world.run(70)
    assert world.inference.served == {"plant": sha(world, V1)}
    assert world.slot().phase is SlotState.CONFIRMED


def test_a_damaged_state_file_falls_back_to_the_state_before(world: World, tmp_path: Path) -> None:
    installed(world, V1, 1)
    world.assign(V2, 2)
    world.run(3)
    state = tmp_path / "state.json"
    state.write_bytes(state.read_bytes()[:-20])
    world.cut_power()
    world.run(2)
    assert (tmp_path / "state.damaged.json").exists()
    assert world.slot().banks.confirmed_package is not None
    world.connect()
    world.send_metadata()
    world.run(70)
    assert world.slot().phase is SlotState.CONFIRMED


def test_two_damaged_state_files_begin_anew(world: World, tmp_path: Path) -> None:
    envelope = world.assign(V1, 1)
    world.run(65)
    for name in ("state.json", "state.former.json"):
        (tmp_path / name).write_bytes(b"{}")
    world.cut_power()
    assert world.agent.state.slots == {}
    world.connect()
    world.send_metadata()
    world.say(Channel.DESIRED, envelope)
    world.run(70)
    assert world.inference.served == {"plant": sha(world, V1)}


def test_a_full_disk_stops_the_update_but_not_the_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(world, V1, 1)
    fsync = os.fsync

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    world.assign(V2, 2)
    world.run(20)
    assert world.inference.served == {"plant": sha(world, V1)}
    assert (world.reports[-1].refusal or {})["code"] == "disk-full"
    assert world.agent.state.accepted.counter == 1
    monkeypatch.setattr(os, "fsync", fsync)
    world.run(80)
    assert refusal(world) is None
    assert world.inference.served == {"plant": sha(world, V2)}


def test_too_little_room_for_a_package_is_tried_again_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chunk_store, "find_free_bytes", lambda _path: CHUNK_BYTES)
        world.assign(V1, 1)
        world.run(3)
        slot = world.reports[-1].slots["plant"]
        assert (slot.state, slot.code) == (SlotState.OFFERED, "disk-full")
    world.run(100)
    assert world.slot().phase is SlotState.CONFIRMED


def test_a_blob_already_here_is_not_fetched_again(world: World) -> None:
    installed(world, V1, 1)
    installed(world, V2, 2)
    world.assign(V1, 1)
    world.run(65)
    assert world.inference.served == {"plant": sha(world, V1)}
    assert world.servers[sha(world, V1)].served == []


def test_superseded_bytes_are_removed_once_something_is_confirmed(world: World) -> None:
    installed(world, V1, 1)
    installed(world, V2, 2)
    installed(world, a_package("three"), 3)
    assert not world.blobs.has(sha(world, V1))
    assert world.blobs.has(sha(world, V2))


def test_a_report_goes_out_at_every_connect_and_again_after_a_while(world: World) -> None:
    installed(world, V1, 1)
    world.link.sent.clear()
    world.run(600, step_s=10)
    assert world.reports == []
    world.disconnect()
    world.connect()
    assert len(world.reports) == 1
    world.run(1_200, step_s=10)
    assert len(world.reports) == 2
    assert [r.sequence for r in world.reports] == sorted({r.sequence for r in world.reports})


def test_a_report_not_taken_by_the_session_is_sent_again(world: World) -> None:
    installed(world, V1, 1)
    world.link.is_connected = False
    world.agent.handle(None)
    world.assign(V2, 2)
    world.work()
    world.link.sent.clear()
    world.connect()
    assert world.reports[-1].slots["plant"].desired is not None


def test_stopping_in_good_order_in_probation_counts_no_boot(world: World) -> None:
    installed(world, V1, 1)
    world.assign(V2, 2)
    world.run(5)
    assert world.slot().phase is SlotState.PROBATION
    for _ in range(4):
        world.agent.stop()
        world.cut_power()
        world.run(2)
    assert (world.slot().phase, world.slot().boots) == (SlotState.PROBATION, 0)


def test_an_agent_that_dies_three_times_in_probation_goes_back(world: World) -> None:
    installed(world, V1, 1)
    world.assign(V2, 2)
    world.run(5)
    for _ in range(3):
        world.cut_power()
        world.run(2)
    assert (world.slot().phase, world.slot().code) == (SlotState.FAILED, Code.PROBATION_BOOTS)
    assert world.inference.served == {"plant": sha(world, V1)}


def test_a_wish_for_more_slots_than_allowed_is_refused(world: World) -> None:
    world.offer(V1, 1)
    one = world.servers[sha(world, V1)]
    world.send_metadata()
    world.say(Channel.DESIRED, world.sign({f"slot-{n}": (one, 1) for n in range(33)}))
    world.run(2)
    assert (world.reports[-1].refusal or {})["code"] == "wrong-slot"
    assert world.agent.state.slots == {}


def test_telemetry_is_pumped_and_told_of_acknowledgements(world: World) -> None:
    world.run(3)
    assert world.telemetry.pumped >= 3
    assert world.telemetry.connected == 1
    world.say(Channel.TELEMETRY_ACK, b"ranges")
    assert world.telemetry.acks == [b"ranges"]


def test_an_unknown_input_is_loud(world: World) -> None:
    with pytest.raises(TypeError, match="no input of the agent"):
        world.agent.handle(object())


def test_reading_a_blob_that_is_not_here_names_it(world: World) -> None:
    with pytest.raises(StorageError, match="is not on this device"):
        world.blobs.read("0" * 64)
