"""Every attack against the real repository and the real verifier, each refused by its own code.

After it the device still accepts the next honest message, unless the attack spoilt the server.
"""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets, Timestamp

from edge_agent.contract.assignment import PAYLOAD_TYPE
from edge_agent.contract.codes import Code
from edge_agent.errors import Refusal
from fleet_server.adapters.director import Director
from fleet_server.adapters.target_layout import COMPACT
from tests.support.trust import (
    OTHER_PROFILE,
    UNSIGNED,
    V1,
    V2,
    TrustWorld,
    make_target,
    newest,
)

Attack = Callable[[TrustWorld], None]
ATTACKS: list[tuple[Code, Attack, bool]] = []


def attack(code: Code, *, spoils_server: bool = False) -> Callable[[Attack], Attack]:
    def register(function: Attack) -> Attack:
        ATTACKS.append((code, function, spoils_server))
        return function

    return register


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    """The device runs digits/1 (counter 5); digits/2 was approved after that."""
    world = TrustWorld(tmp_path_factory.mktemp("template"))
    world.approve(V1, OTHER_PROFILE)
    world.handle(world.refresh(), world.assign(V1, 5))
    world.approve(V2)
    return world


@pytest.fixture
def world(template: TrustWorld, tmp_path: Path) -> TrustWorld:
    return template.copy(tmp_path / "world")


def edit_json(envelope: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    value = json.loads(envelope)
    edit(value)
    return json.dumps(value).encode()


# The broker or the network --------------------------------------------------------------------


@attack(Code.ASSIGN_REPLAY)
def replay_an_older_assignment(w: TrustWorld) -> None:
    old = w.assign(V1, 5)
    w.handle(w.refresh(), w.assign(V2, 6))
    w.handle(w.refresh(), old)


@attack(Code.ASSIGN_SIGNATURE)
def edit_the_assignment(w: TrustWorld) -> None:
    def edit(value: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(value["payload"]))
        payload["counter"] = 7
        value["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    w.handle(w.refresh(), edit_json(w.assign(V2, 6), edit))


@attack(Code.ASSIGN_SIGNATURE)
def sign_the_assignment_with_another_key(w: TrustWorld) -> None:
    forger = Director(w.keys_dir)
    forger._signer = CryptoSigner.generate_ed25519()
    w.handle(w.refresh(), w.assign(V2, 6, director=forger))


@attack(Code.ASSIGN_SIGNATURE)
def strip_the_signature(w: TrustWorld) -> None:
    envelope = edit_json(w.assign(V2, 6), lambda value: value.update(signatures=[]))
    w.handle(w.refresh(), envelope)


@attack(Code.ASSIGN_SIGNATURE)
def sign_the_assignment_with_the_timestamp_key(w: TrustWorld) -> None:
    forger = Director(w.keys_dir)
    forger._signer = w.key("timestamp")
    w.handle(w.refresh(), w.assign(V2, 6, director=forger))


@attack(Code.WRONG_DEVICE)
def redirect_the_assignment_of_another_device(w: TrustWorld) -> None:
    w.handle(w.refresh(), w.assign(V2, 6, device="cam-2"))


@attack(Code.WRONG_FLEET)
def replay_across_fleets(w: TrustWorld) -> None:
    w.handle(w.refresh(), w.assign(V2, 6, fleet="fleet-2"))


@attack(Code.ASSIGN_TYPE)
def confuse_the_payload_type(w: TrustWorld) -> None:
    payload = Envelope.from_dict(json.loads(w.assign(V2, 6))).payload
    envelope = Envelope(payload, "application/vnd.in-toto+json", {})
    envelope.sign(w.key("director"))
    w.handle(w.refresh(), json.dumps(envelope.to_dict()).encode())


@attack(Code.ASSIGN_FORMAT)
def send_garbage_as_assignment(w: TrustWorld) -> None:
    w.handle(w.refresh(), b"\xff{")


@attack(Code.ASSIGN_FORMAT)
def send_a_payload_that_is_not_base64(w: TrustWorld) -> None:
    w.handle(w.refresh(), edit_json(w.assign(V2, 6), lambda v: v.update(payload="\u00e4")))


@attack(Code.ASSIGN_FORMAT)
def repeat_one_signature(w: TrustWorld) -> None:
    envelope = edit_json(w.assign(V2, 6), lambda v: v.update(signatures=v["signatures"] * 2))
    w.handle(w.refresh(), envelope)


@attack(Code.ASSIGN_FORMAT)
def send_a_signed_payload_of_a_newer_contract(w: TrustWorld) -> None:
    envelope = Envelope(b'{"v":99}', PAYLOAD_TYPE, {})
    envelope.sign(w.key("director"))
    w.handle(w.refresh(), json.dumps(envelope.to_dict()).encode())


@attack(Code.ASSIGN_SIZE)
def send_a_huge_assignment(w: TrustWorld) -> None:
    w.handle(w.refresh(), b"x" * 16_385)


@attack(Code.TUF_ROLLBACK)
def replay_old_metadata(w: TrustWorld) -> None:
    w.advance(days=0.5)
    old = w.refresh()
    w.approve(UNSIGNED)
    w.handle(w.refresh(), w.assign(V2, 6))
    w.handle(old, w.assign(V1, 7))


@attack(Code.TUF_ROLLBACK)
def replay_old_metadata_with_an_assignment_that_passed_before(w: TrustWorld) -> None:
    old, envelope = w.refresh(), w.assign(V1, 6)
    w.handle(old, envelope)
    w.approve(UNSIGNED)
    with pytest.raises(Refusal):
        w.handle(w.refresh(), b"{}")
    w.handle(old, envelope)


@attack(Code.TUF_HASH)
def mix_old_targets_with_a_new_snapshot(w: TrustWorld) -> None:
    files = w.refresh()
    name = newest(files, "targets")
    older = f"{int(name.split('.')[0]) - 1}.targets.json"
    files[name] = (w.directory / "tuf" / older).read_bytes()
    w.handle(files, w.assign(V2, 6))


@attack(Code.TUF_HASH)
def mix_an_old_snapshot_with_a_new_timestamp(w: TrustWorld) -> None:
    files = w.refresh()
    name = newest(files, "snapshot")
    older = f"{int(name.split('.')[0]) - 1}.snapshot.json"
    files[name] = (w.directory / "tuf" / older).read_bytes()
    w.handle(files, w.assign(V2, 6))


@attack(Code.TUF_MISSING)
def withhold_targets(w: TrustWorld) -> None:
    files = w.refresh()
    del files[newest(files, "targets")]
    w.handle(files, w.assign(V2, 6))


@attack(Code.TUF_MISSING)
def send_no_metadata(w: TrustWorld) -> None:
    w.handle({}, w.assign(V2, 6))


@attack(Code.TUF_FORMAT)
def send_garbage_as_timestamp(w: TrustWorld) -> None:
    w.handle(w.refresh() | {"timestamp.json": b"{}"}, w.assign(V2, 6))


@attack(Code.TUF_FORMAT)
def send_deep_json_as_timestamp(w: TrustWorld) -> None:
    deep = b"[" * 8_000 + b"]" * 8_000
    w.handle(w.refresh() | {"timestamp.json": deep}, w.assign(V2, 6))


@attack(Code.TUF_SIZE)
def send_an_endless_timestamp(w: TrustWorld) -> None:
    w.handle(w.refresh() | {"timestamp.json": b" " * 20_000}, w.assign(V2, 6))


@attack(Code.TUF_SIGNATURE)
def forge_the_timestamp(w: TrustWorld) -> None:
    files = w.refresh()
    metadata = Metadata[Timestamp].from_bytes(files["timestamp.json"])
    metadata.signed.version += 9
    metadata.sign(CryptoSigner.generate_ed25519())
    w.handle(files | {"timestamp.json": metadata.to_bytes(COMPACT)}, w.assign(V2, 6))


@attack(Code.TUF_EXPIRED)
def hold_back_news_for_two_days(w: TrustWorld) -> None:
    files = w.refresh()
    w.advance(days=2)
    w.handle(files, w.assign(V2, 6))


@attack(Code.ASSIGN_EXPIRED)
def hold_back_an_assignment_for_eight_days(w: TrustWorld) -> None:
    envelope = w.assign(V2, 6)
    w.advance(days=8)
    w.handle(w.refresh(), envelope)


@attack(Code.TUF_SIGNATURE)
def bring_another_root(w: TrustWorld) -> None:
    root = Metadata[Root].from_bytes(w.pinned_root)
    root.signed.version = 2
    root.signed.add_key(CryptoSigner.generate_ed25519().public_key, "targets")
    root.sign(CryptoSigner.generate_ed25519())
    w.handle(w.refresh() | {"2.root.json": root.to_bytes(COMPACT)}, w.assign(V2, 6))


# The server's online keys ----------------------------------------------------------------------


@attack(Code.NOT_APPROVED)
def assign_what_nobody_approved(w: TrustWorld) -> None:
    w.handle(w.refresh(), w.assign(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, spoils_server=True)
def add_a_target_with_online_keys(w: TrustWorld) -> None:
    add_target(w, w.key("director"), w.key("snapshot"), w.key("timestamp"))
    w.handle(w.refresh(), w.assign(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, spoils_server=True)
def add_a_target_with_one_of_two_approvers(w: TrustWorld) -> None:
    need_two_approvers(w)
    add_target(w, w.key("approver"))
    w.handle(w.refresh(), w.assign(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, spoils_server=True)
def let_one_approver_pose_as_two(w: TrustWorld) -> None:
    second = need_two_approvers(w)
    add_target(w, w.key("approver"))
    value = json.loads(w.repository.current_targets()["targets"])
    value["signatures"].append({**value["signatures"][0], "keyid": second.public_key.keyid})
    w.publish_raw(json.dumps(value).encode(), value["signed"]["version"])
    w.handle(w.refresh(), w.assign(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE)
def change_the_root_without_its_key(w: TrustWorld) -> None:
    root = Metadata[Root].from_bytes(w.pinned_root)
    root.signed.version = 2
    root.signed.add_key(w.key("timestamp").public_key, "targets")
    root.sign(w.key("timestamp"))
    w.handle(w.refresh() | {"2.root.json": root.to_bytes(COMPACT)}, w.assign(V2, 6))


@attack(Code.WRONG_PROFILE)
def assign_a_package_of_another_profile(w: TrustWorld) -> None:
    w.handle(w.refresh(), w.assign(OTHER_PROFILE, 6))


@attack(Code.WRONG_SLOT)
def assign_a_package_to_another_slot(w: TrustWorld) -> None:
    w.handle(w.refresh(), w.assign(V2, 6, slot="faces"))


@attack(Code.TUF_ROLLBACK, spoils_server=True)
def roll_targets_back(w: TrustWorld) -> None:
    version = Metadata[Targets].from_bytes(w.repository.current_targets()["targets"]).signed.version
    older = (w.directory / "tuf" / f"{version - 1}.targets.json").read_bytes()
    w.handle(w.refresh(), w.assign(V2, 6))
    w.publish_raw(older, version - 1)
    w.handle(w.refresh(), w.assign(V1, 7))


@attack(Code.NOT_APPROVED)
def assign_what_was_withdrawn(w: TrustWorld) -> None:
    w.approve(withdraw=(V2,))
    w.handle(w.refresh(), w.assign(V2, 6))


@attack(Code.ASSIGN_FORK)
def say_two_things_with_one_counter(w: TrustWorld) -> None:
    w.handle(w.refresh(), w.assign(V2, 6))
    w.handle(w.refresh(), w.assign(V1, 6))


@attack(Code.TUF_FORMAT)
def sign_a_target_whose_words_contradict_its_path(w: TrustWorld) -> None:
    def edit(targets: Targets) -> None:
        targets.targets[V2].unrecognized_fields["custom"]["version"] = 1

    w.publish_targets(edit, w.key("approver"))
    w.handle(w.refresh(), w.assign(V2, 6))


# Keys that were revoked -------------------------------------------------------------------------


@attack(Code.ASSIGN_SIGNATURE)
def use_the_former_director_key(w: TrustWorld) -> None:
    former = Director(w.keys_dir)
    w.rotate_director()
    w.handle(w.refresh(), w.assign(V2, 6, director=former))


@attack(Code.TUF_SIGNATURE, spoils_server=True)
def use_a_former_approver_key(w: TrustWorld) -> None:
    former = w.key("approver")
    root = Metadata[Root].from_bytes(w.repository.root())
    root.signed.version += 1
    root.signed.revoke_key(former.public_key.keyid, "targets")
    root.signed.add_key(CryptoSigner.generate_ed25519().public_key, "targets")
    root.sign(w.key("root"))
    w.repository.store_root(root.to_bytes(COMPACT))
    add_target(w, former)
    w.handle(w.refresh(), w.assign(UNSIGNED, 6))


# The device's clock -----------------------------------------------------------------------------


@attack(Code.ASSIGN_EXPIRED)
def turn_the_clock_back_to_revive_an_assignment(w: TrustWorld) -> None:
    old = w.assign(V2, 7)
    w.advance(days=30)
    w.approve(UNSIGNED)
    w.handle(w.refresh(), w.assign(V1, 6))
    w.device_clock.advance(-30 * 86_400)
    w.handle(w.refresh(), old)


@attack(Code.TUF_EXPIRED)
def lose_the_clock_and_the_metadata_and_replay(w: TrustWorld) -> None:
    old = w.refresh()
    w.advance(days=60)
    w.approve(UNSIGNED)
    w.handle(w.refresh(), w.assign(V1, 6))
    shutil.rmtree(w.directory / "device-cam-1")
    w.device_clock._now = datetime(1970, 1, 2, tzinfo=UTC)
    w.handle(old, w.assign(V1, 7))


@attack(Code.TUF_EXPIRED)
def set_the_clock_far_ahead(w: TrustWorld) -> None:
    w.device_clock.advance(400 * 86_400)
    try:
        w.handle(w.refresh(), w.assign(V2, 6))
    finally:
        w.device_clock.advance(-400 * 86_400)


def need_two_approvers(w: TrustWorld) -> CryptoSigner:
    second = CryptoSigner.generate_ed25519()
    root = Metadata[Root].from_bytes(w.repository.root())
    root.signed.version += 1
    root.signed.add_key(second.public_key, "targets")
    root.signed.roles["targets"].threshold = 2
    root.sign(w.key("root"))
    w.repository.store_root(root.to_bytes(COMPACT))
    w.publish_targets(lambda _: None, w.key("approver"), second)
    return second


def add_target(w: TrustWorld, *signers: CryptoSigner) -> None:
    target = make_target(UNSIGNED)

    def edit(targets: Targets) -> None:
        targets.targets[UNSIGNED] = TargetFile(
            target.size_bytes,
            {"sha256": target.sha256},
            UNSIGNED,
            {"custom": target.custom.to_json()},
        )

    w.publish_targets(edit, *signers)


@pytest.mark.parametrize(
    ("code", "act", "spoils_server"), ATTACKS, ids=[act.__name__ for _, act, _ in ATTACKS]
)
def test_an_attack_is_refused_by_its_code(
    code: Code, act: Attack, spoils_server: bool, world: TrustWorld
) -> None:
    with pytest.raises(Refusal) as refusal:
        act(world)
    assert refusal.value.code is code
    assert refusal.value.detail

    if not spoils_server:
        verified = world.handle(world.refresh(), world.assign(V1, 1_000))
        assert verified.targets["digits"].path == V1
