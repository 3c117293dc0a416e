"""What the device accepts, what it keeps, and how it gets back on its feet."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.contract.codes import Code
from edge_agent.core.verified import AcceptedTrust
from edge_agent.errors import Refusal
from fleet_server.adapters.approver_keys import sign_files
from fleet_server.errors import RefusedError
from tests.support.trust import (
    NOW,
    OTHER_PROFILE,
    UNSIGNED,
    V1,
    V2,
    TrustWorld,
    make_target,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    world = TrustWorld(tmp_path_factory.mktemp("template"))
    world.approve(V1, V2, OTHER_PROFILE)
    world.handle(world.refresh(), world.assign(V1, 5))
    return world


@pytest.fixture
def world(template: TrustWorld, tmp_path: Path) -> TrustWorld:
    return template.copy(tmp_path / "world")


def refusal_of(world: TrustWorld, files: dict[str, bytes], envelope: bytes) -> Code:
    with pytest.raises(Refusal) as refusal:
        world.handle(files, envelope)
    return refusal.value.code


def test_an_assignment_comes_back_with_what_to_fetch_and_what_to_commit(world: TrustWorld) -> None:
    verified = world.handle(world.refresh(), world.assign(V2, 6))
    assert verified.assignment.counter == verified.accepted.counter == 6
    target = verified.targets["digits"]
    assert (target.path, target.size_bytes, target.custom.version) == (V2, len(V2), 2)
    assert verified.accepted.time_floor_at == NOW
    assert set(verified.metadata) == {"root", "timestamp", "snapshot", "targets"}
    assert AcceptedTrust.from_json(verified.accepted.to_json()) == verified.accepted


def test_going_back_on_purpose_takes_a_higher_counter(world: TrustWorld) -> None:
    world.handle(world.refresh(), world.assign(V2, 6))
    verified = world.handle(world.refresh(), world.assign(V1, 7))
    assert verified.targets["digits"].path == V1


def test_delivering_again_changes_nothing(world: TrustWorld) -> None:
    files, envelope = world.refresh(), world.assign(V2, 6)
    first = world.handle(files, envelope)
    assert world.handle(files, envelope) is first
    assert world.handle(world.refresh(), envelope).accepted == first.accepted


def test_delivering_again_to_a_restarted_agent_is_accepted(world: TrustWorld) -> None:
    files, envelope = world.refresh(), world.assign(V2, 6)
    first = world.handle(files, envelope)
    world.verifier = world.make_verifier()
    assert world.handle(files, envelope).accepted == first.accepted


def test_what_was_evaluated_but_not_committed_may_come_again(world: TrustWorld) -> None:
    before = world.accepted
    world.handle(world.refresh(), world.assign(V2, 6))
    world.accepted = before
    assert world.handle(world.refresh(), world.assign(V1, 6)).accepted.counter == 6


def test_what_passed_once_stops_passing_when_a_date_runs_out(world: TrustWorld) -> None:
    files, envelope = world.refresh(), world.assign(V2, 6, days=0.25)
    world.handle(files, envelope)
    world.advance(days=0.26)
    assert refusal_of(world, files, envelope) is Code.ASSIGN_EXPIRED
    world.advance(days=1)
    assert refusal_of(world, files, envelope) is Code.TUF_EXPIRED


def test_a_target_without_a_slot_may_run_in_any(world: TrustWorld) -> None:
    world.publish_targets(
        lambda targets: targets.targets[V2].unrecognized_fields["custom"].update(slot=""),
        world.key("approver"),
    )
    assert "faces" in world.handle(world.refresh(), world.assign(V2, 6, slot="faces")).targets


@pytest.mark.parametrize("torn", ["timestamp", "snapshot", "targets", "root"])
def test_metadata_torn_by_a_power_cut_is_fetched_anew(world: TrustWorld, torn: str) -> None:
    (world.directory / "device-cam-1" / f"{torn}.json").write_bytes(b"\0" * 100)
    world.verifier = world.make_verifier()
    assert world.handle(world.refresh(), world.assign(V2, 6)).accepted.counter == 6


def test_metadata_swapped_on_disk_is_not_believed_between_two_calls(world: TrustWorld) -> None:
    files = world.refresh()
    world.handle(files, world.assign(V2, 6))
    (world.directory / "device-cam-1" / "targets.json").write_bytes(b"{}")
    assert world.handle(files, world.assign(V1, 7)).targets["digits"].path == V1


def test_a_full_or_broken_disk_is_said_by_a_code_that_may_be_tried_again(world: TrustWorld) -> None:
    broken = world.make_verifier("cam-9")
    (world.directory / "device-cam-9").write_text("a file where the folder should be")
    with pytest.raises(Refusal) as refusal:
        broken.evaluate(world.refresh(), world.assign(V2, 1, device="cam-9"), AcceptedTrust())
    assert refusal.value.code is Code.DISK_ERROR


# Recovery after a stolen online key; must end accepted -------------------------------------------


def test_recovers_from_a_counter_at_its_end_when_the_director_is_replaced(
    world: TrustWorld,
) -> None:
    world.handle(world.refresh(), world.assign(V1, 2**62))
    assert refusal_of(world, world.refresh(), world.assign(V2, 6)) is Code.ASSIGN_REPLAY
    world.rotate_director()
    assert world.handle(world.refresh(), world.assign(V2, 1)).accepted.counter == 1


def test_recovers_from_an_assignment_issued_in_2099(world: TrustWorld) -> None:
    future = datetime(2099, 1, 1, tzinfo=UTC)
    world.handle(world.refresh(), world.assign(V1, 6, issued_at=future))
    assert refusal_of(world, world.refresh(), world.assign(V2, 7)) is Code.ASSIGN_EXPIRED
    assert world.accepted.time_floor_at == NOW  # no online key moves the floor of metadata
    world.rotate_director()
    assert world.handle(world.refresh(), world.assign(V2, 1)).targets["digits"].path == V2


def test_recovers_from_metadata_versions_at_their_end(world: TrustWorld) -> None:
    world.fast_forward_online(2**31)
    world.handle(world.refresh(), world.assign(V1, 6))
    world.rotate("timestamp", "snapshot")
    world.fast_forward_online(50)
    assert world.handle(world.refresh(), world.assign(V2, 7)).targets["digits"].path == V2


def test_a_clock_of_1970_still_updates(world: TrustWorld) -> None:
    world.device_clock._now = datetime(1970, 1, 2, tzinfo=UTC)
    assert world.handle(world.refresh(), world.assign(V2, 6)).accepted.time_floor_at == NOW


def test_devices_follow_a_chain_of_roots(world: TrustWorld) -> None:
    for _ in range(3):
        world.rotate()
    assert world.handle(world.refresh(), world.assign(V2, 6)).metadata["root"] == 4


# Figures ------------------------------------------------------------------------------------------


def test_a_repeated_evaluation_costs_next_to_nothing(world: TrustWorld) -> None:
    files, envelope = world.refresh(), world.assign(V2, 6)
    world.handle(files, envelope)
    started = time.thread_time()
    for _ in range(100):
        world.handle(files, envelope)
    assert time.thread_time() - started < 0.1  # 1 ms each; measured 0.03 ms


# The server's side of the same rules -------------------------------------------------------------


def test_the_server_stores_no_targets_that_the_approvers_did_not_sign(world: TrustWorld) -> None:
    before = world.repository.current_targets()
    files = world.operator.edit(before, add=[make_target(UNSIGNED)], withdraw=())
    with pytest.raises(RefusedError, match="nothing was stored"):
        world.repository.store_targets(sign_files(files, [CryptoSigner.generate_ed25519()]))
    assert world.repository.current_targets() == before


def test_the_server_stores_targets_only_in_order(world: TrustWorld) -> None:
    files = world.operator.sign_targets(world.repository.current_targets(), add=[], withdraw=[])
    world.repository.store_targets(files)
    with pytest.raises(RefusedError, match="does not follow"):
        world.repository.store_targets(files)


def test_the_server_stores_no_targets_dated_ahead(world: TrustWorld) -> None:
    world.operator._clock = type(world.clock)(datetime(2099, 1, 1, tzinfo=UTC))
    with pytest.raises(RefusedError, match="set the clocks"):
        world.approve(UNSIGNED)


def test_the_operator_signs_no_base_that_others_made(world: TrustWorld) -> None:
    world.publish_targets(lambda _: None, world.key("director"))
    with pytest.raises(RefusedError, match="not signed by this fleet's approvers"):
        world.approve(UNSIGNED)


def test_the_operator_signs_no_state_older_than_one_already_signed(world: TrustWorld) -> None:
    old = world.repository.current_targets()
    world.approve(UNSIGNED)
    with pytest.raises(RefusedError, match="has signed"):
        world.operator.sign_targets(old, add=[], withdraw=[])


def test_online_metadata_is_signed_hourly_and_daily(world: TrustWorld) -> None:
    repository = world.repository
    assert not repository.refresh_online()
    versions = [repository._timestamp().version, repository._snapshot().version]
    world.clock.advance(3_700)
    assert repository.refresh_online()
    assert not repository.refresh_online()
    assert [repository._timestamp().version, repository._snapshot().version] == [
        versions[0] + 1,
        versions[1],
    ]
    world.clock.advance(90_000)
    assert repository.refresh_online()
    assert repository._snapshot().version == versions[1] + 1


def test_two_processes_may_write_and_old_versions_go(world: TrustWorld) -> None:
    other = type(world.repository)(world.directory / "tuf", world.keys_dir, world.clock)
    for number in range(20):
        world.approve(f"digits/{number + 10}/camera.tar")
        assert f"digits/{number + 10}/camera.tar" in other.approved()
    names = {path.name for path in (world.directory / "tuf").iterdir()}
    assert "1.root.json" in names
    assert sum(name.endswith(".targets.json") for name in names) == 16
    assert world.handle(other.bundle(), world.assign(V2, 6)).accepted.counter == 6


def test_an_interrupted_init_is_completed(world: TrustWorld) -> None:
    from fleet_server.adapters.tuf_repository import create_repository

    def create() -> bytes:
        return create_repository(
            world.directory / "again",
            keys_dir=world.directory / "again-keys",
            operator_dir=world.directory / "again-operator",
            clock=world.clock,
        ).root()

    first = create()
    key = (world.directory / "again-operator" / "approver.pem").read_bytes()
    (world.directory / "again" / "timestamp.json").unlink()
    assert create() == first
    assert (world.directory / "again-operator" / "approver.pem").read_bytes() == key
    mode = (world.directory / "again-keys" / "director.pem").stat().st_mode
    assert mode & 0o777 == 0o600
