"""Keys change over a real workspace; the device's real verifier follows from its first root."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.codes import Code
from edge_agent.errors import Refusal
from fleet_server.adapters.operator_folder import CHANGE, RETIRED
from fleet_server.errors import MisuseError, NotFoundError, RefusedError
from fleet_server.ports.keys import KeyAct
from fleet_server.wiring.keys import create_approver, list_roles, pin_root, read_public_key
from fleet_server.wiring.trust import build_operator
from tests.support.clock import FakeClock
from tests.support.key_room import V1, V2, KeyRoom
from tests.support.trust_fleet import make_fleet, register

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    fleet = make_fleet(directory / "fleet", FakeClock(START))
    for version in (1, 2):
        register(fleet, "digits", version, ["camera"])
    fleet.engine.dispose()
    return directory


@pytest.fixture
def make_room(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], KeyRoom]:
    def make(name: str) -> KeyRoom:
        shutil.copytree(template, tmp_path / name)
        room = KeyRoom(tmp_path / name, FakeClock(START), monkeypatch)
        room.approver().approve("digits", 1)
        room.device_runs()
        return room

    return make


@pytest.fixture
def room(make_room: Callable[[str], KeyRoom]) -> KeyRoom:
    return make_room("room")


# Rotation -----------------------------------------------------------------------------------------

ROLES = ("root", "targets", "snapshot", "timestamp", "director")


@pytest.mark.parametrize("role", ROLES)
def test_every_key_is_replaced_and_devices_follow(room: KeyRoom, role: str) -> None:
    before = room.keyids(role)
    outcome = room.rotate(role)
    assert not outcome.waiting
    assert set(room.keyids(role)).isdisjoint(before)
    assert room.device_runs().targets["digits"].path == V1
    room.approver().approve("digits", 2)
    assert room.device_runs(V2).targets["digits"].path == V2
    assert "keys.rotate" in room.acts()


def test_all_keys_are_replaced_one_after_the_other_and_twice(room: KeyRoom) -> None:
    for role in (*ROLES, *ROLES):
        room.rotate(role)
    assert room.device_runs().metadata["root"] == 9  # the director is not in the root


def test_a_former_approver_key_signs_nothing_any_more(room: KeyRoom) -> None:
    stolen = room.directory / "stolen"
    shutil.copytree(room.folder("ann"), stolen)
    room.rotate("targets")
    room._patch.setenv("EDGEFLEET_OPERATOR", str(stolen))
    with pytest.raises(RefusedError, match=r"is no approver of this fleet.*add-approver"):
        room.approver().approve("digits", 2)


def test_former_keys_of_people_are_kept_aside_and_said_of_servers_destroyed(room: KeyRoom) -> None:
    room.rotate("root")
    room.rotate("root")
    room.rotate("snapshot")
    roles = {role.name: role for role in list_roles(room.fleet)}
    assert [path.name for path in roles["root"].retired] == [
        "root.pem.retired-1",
        "root.pem.retired-2",
    ]
    assert roles["root"].retired[0].stat().st_mode & 0o777 == 0o600
    assert roles["snapshot"].retired == ()


def test_the_successor_of_an_encrypted_key_is_encrypted(
    room: KeyRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_PASSPHRASE", "correct horse")
    room.rotate("targets")  # the former one was plain
    path = room.folder("ann") / "approver.pem"
    assert b"ENCRYPTED" in path.read_bytes()
    monkeypatch.delenv("EDGEFLEET_PASSPHRASE")
    with pytest.raises(RefusedError, match="has a passphrase"):
        room.rotate("targets")
    assert not list(room.folder("ann").glob("*.next"))


def test_an_approver_key_that_was_lost_is_replaced_by_the_root(room: KeyRoom) -> None:
    (room.folder("ann") / "approver.pem").unlink()
    room.rotate("targets")
    assert room.device_runs().targets["digits"].path == V1
    room.approver().approve("digits", 2)


def test_old_assignments_do_not_come_back_with_a_new_director(room: KeyRoom) -> None:
    old = room.order(V1, 7)
    room.rotate("director")
    with pytest.raises(Refusal) as refusal:
        room.verifier().evaluate(room.repository.bundle(), old, room.accepted)
    assert refusal.value.code is Code.ASSIGN_SIGNATURE
    assert room.device_runs(counter=1).accepted.counter == 1


def test_a_retired_director_is_never_named_again(room: KeyRoom) -> None:
    keys_dir = room.fleet.workspace.keys_dir
    former = (keys_dir / "director.pem").read_bytes()
    (retired,) = room.keyids("director")
    room.rotate("director")
    assert retired in (room.folder("ann") / RETIRED).read_text()
    (keys_dir / "director.pem").write_bytes(former)
    operator = build_operator(room.fleet)
    current = room.repository.current_targets()
    from tuf.api.metadata import Metadata, Targets

    from fleet_server.adapters.key_files import load_key
    from fleet_server.adapters.target_layout import COMPACT, name_director

    metadata = Metadata[Targets].from_bytes(current["targets"])
    name_director(metadata.signed, load_key(keys_dir / "director.pem").public_key)
    metadata.signed.version += 1
    with pytest.raises(RefusedError, match=r"was retired: its old assignments"):
        operator.review(current, {"targets": metadata.to_bytes(COMPACT)})


def test_versions_that_a_thief_ran_up_are_left_behind(room: KeyRoom) -> None:
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

    from fleet_server.adapters.target_layout import COMPACT

    files, keys = room.repository.bundle(), room.repository._keys
    snapshot = next(
        Metadata[Snapshot].from_bytes(data) for name, data in files.items() if "snapshot" in name
    )
    snapshot.signed.version = 900_000_000
    snapshot.sign(keys.signer("snapshot"))
    data = snapshot.to_bytes(COMPACT)
    timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"])
    timestamp.signed.version = 900_000_000
    timestamp.signed.snapshot_meta = MetaFile.from_data(900_000_000, data, ["sha256"])
    timestamp.sign(keys.signer("timestamp"))
    evil = {**files, "900000000.snapshot.json": data, "timestamp.json": timestamp.to_bytes(COMPACT)}
    room.verifier().evaluate(evil, room.order(V1, 50), room.accepted)
    with pytest.raises(Refusal) as refusal:
        room.device_runs(counter=51)
    assert refusal.value.code is Code.TUF_ROLLBACK
    room.rotate("timestamp")
    room.rotate("snapshot")
    assert room.device_runs(counter=52).targets["digits"].path == V1


# Who approves -------------------------------------------------------------------------------------


def test_a_second_approver_alone_may_approve_while_one_must_sign(room: KeyRoom) -> None:
    keyid = room.add("bea")
    assert keyid in room.keyids("targets")
    with room.as_person("bea"):
        approval = room.approver("bea").approve("digits", 2)
    assert approval.keyid == keyid
    assert room.device_runs(V2).targets["digits"].path == V2


def test_two_must_sign_from_the_moment_both_have_agreed(room: KeyRoom) -> None:
    room.need_two()
    assert room.device_runs().targets["digits"].path == V1
    assert room.approver().approve("digits", 2).waiting
    with pytest.raises(Refusal):
        room.device_runs(V2)


def test_removing_an_approver_ends_what_that_person_may_do(room: KeyRoom) -> None:
    keyid = room.add("bea")
    room.change(KeyAct.REMOVE, "targets", keyid=keyid[:8])
    with room.as_person("bea"), pytest.raises(RefusedError, match="is no approver"):
        room.approver("bea").approve("digits", 2)
    assert room.device_runs().targets["digits"].path == V1


def test_what_only_the_removed_person_had_signed_is_signed_anew(room: KeyRoom) -> None:
    keyid = room.add("bea")
    with room.as_person("bea"):
        room.approver("bea").approve("digits", 2)
    room.change(KeyAct.REMOVE, "targets", keyid=keyid)
    assert room.device_runs(V2).targets["digits"].path == V2


@pytest.mark.parametrize(
    ("act", "values", "sentence"),
    [
        (KeyAct.THRESHOLD, {"threshold": 2}, "has 1 keys, a threshold of 2 locks everybody out"),
        (KeyAct.REMOVE, {"keyid": ""}, "names 1 keys of targets"),
        (KeyAct.REMOVE, {"keyid": "zzz"}, "names 0 keys of targets"),
        (KeyAct.ADD, {"public_pem": b"no key"}, "holds no public key"),
    ],
)
def test_what_would_lock_everybody_out_is_refused(
    room: KeyRoom, act: KeyAct, values: dict[str, Any], sentence: str
) -> None:
    before = room.repository.roots()
    with pytest.raises(RefusedError, match=sentence):
        room.change(act, "targets", **values)
    assert room.repository.roots() == before
    assert not (room.folder("ann") / CHANGE).exists()


def test_the_last_key_of_a_role_stays(room: KeyRoom) -> None:
    (keyid,) = room.keyids("targets")
    with pytest.raises(RefusedError, match="locks everybody out"):
        room.change(KeyAct.REMOVE, "targets", keyid=keyid)


def test_one_key_counts_once_and_no_key_of_the_server_is_a_persons(room: KeyRoom) -> None:
    from fleet_server.adapters.key_files import load_key, public_pem

    keys_dir = room.fleet.workspace.keys_dir
    own = public_pem(load_key(room.folder("ann") / "approver.pem").public_key)
    with pytest.raises(RefusedError, match="is a key of targets already"):
        room.change(KeyAct.ADD, "targets", public_pem=own)
    servers = public_pem(load_key(keys_dir / "snapshot.pem").public_key)
    with pytest.raises(RefusedError, match="one of the server's"):
        room.change(KeyAct.ADD, "targets", public_pem=servers)


def test_a_root_that_lists_one_key_under_two_names_is_stored_by_nobody(room: KeyRoom) -> None:
    from securesystemslib.signer import SSlibKey
    from tuf.api.metadata import Metadata, Root

    from fleet_server.adapters.key_files import load_key
    from fleet_server.adapters.root_edits import next_root, parse_root
    from fleet_server.adapters.target_layout import COMPACT

    root = next_root(parse_root(room.repository.root()).signed, room.clock.now())
    key = load_key(room.folder("ann") / "approver.pem").public_key
    twin = SSlibKey("f" * 64, key.keytype, key.scheme, dict(key.keyval))
    root.add_key(twin, "targets")
    root.roles["targets"].threshold = 2
    metadata = Metadata[Root](root)
    metadata.sign(load_key(room.folder("ann") / "root.pem"))
    with pytest.raises(RefusedError, match="one key counts once"):
        room.repository.store_root(metadata.to_bytes(COMPACT))


def test_a_private_key_is_not_taken_for_a_public_one(room: KeyRoom) -> None:
    with pytest.raises(RefusedError, match="it stays with its owner"):
        read_public_key(room.folder("ann") / "approver.pem")


def test_two_root_keys_may_both_be_needed(room: KeyRoom) -> None:
    room.add("bea", role="root")
    bea = room.folder("bea")
    (bea / "approver.pem").rename(bea / "root.pem")
    assert room.change(KeyAct.THRESHOLD, "root", threshold=2).waiting
    assert not room.cosign_keys("bea").waiting
    assert "root keys signed" in room.rotate("snapshot").waiting
    assert not room.cosign_keys("bea").waiting
    assert room.device_runs().metadata["root"] == 4


def test_only_one_change_waits_and_it_can_be_dropped(room: KeyRoom) -> None:
    room.need_two()
    assert room.rotate("director").waiting
    with pytest.raises(RefusedError, match=r"keys.rotate director waits.*forget-pending"):
        room.rotate("timestamp")
    with pytest.raises(RefusedError, match="signed it already"):
        room.cosign_keys("ann")
    room.desk().forget_pending("changed our mind")
    assert not list(room.fleet.workspace.keys_dir.glob("*.next"))
    with pytest.raises(NotFoundError, match="no change of keys waits"):
        room.cosign_keys("bea")
    room.rotate("timestamp")
    assert room.device_runs().targets["digits"].path == V1


def test_a_second_person_completes_what_the_first_staged(room: KeyRoom) -> None:
    room.need_two()
    before = room.keyids("targets")
    assert room.rotate("targets").waiting
    assert not room.cosign_keys("bea").waiting
    assert room.keyids("targets") != before
    assert room.rotate("targets").is_completed  # ann's new key moves into its place
    assert room.approver().approve("digits", 2).waiting
    with room.as_person("bea"):
        assert not room.approver("bea").cosign("approved", "digits", 2).waiting
    assert room.device_runs(V2).targets["digits"].path == V2


def test_a_proposal_of_keys_that_slips_in_a_package_is_not_signed(room: KeyRoom) -> None:
    from dataclasses import replace

    from fleet_server.adapters.approver_keys import sign_files
    from fleet_server.wiring.trust import build_pending

    room.need_two()
    room.rotate("director")
    store = build_pending(room.fleet)
    proposal = store.load()
    assert proposal is not None
    operator = build_operator(room.fleet)
    slipped = room.approver().prepare("digits", 2)
    current = room.repository.current_targets()
    files = operator.edit(current, add=slipped, withdraw=())
    store.save(replace(proposal, files=sign_files(files, [operator.folder.signer("targets")])))
    with pytest.raises(RefusedError, match="does not hold exactly what it says"):
        room.cosign_keys("bea")


# The own copy of the root -------------------------------------------------------------------------


def test_a_server_with_another_root_is_not_signed_for(room: KeyRoom, tmp_path: Path) -> None:
    foreign = make_fleet(tmp_path / "foreign", room.clock)
    shutil.rmtree(room.fleet.workspace.tuf_dir)
    shutil.copytree(foreign.workspace.tuf_dir, room.fleet.workspace.tuf_dir)
    for role in ROLES[:3]:
        with pytest.raises(RefusedError, match="do not sign it before you know why"):
            room.rotate(role)
    with pytest.raises(RefusedError, match="do not sign it before you know why"):
        room.approver().approve("digits", 2)
    foreign.engine.dispose()


def test_every_folder_follows_the_root_and_pins_only_what_it_was_told(room: KeyRoom) -> None:
    room.add("bea")
    room.rotate("root")
    room.rotate("snapshot")
    with room.as_person("bea"):
        room.approver("bea").approve("digits", 2)
        assert (room.folder("bea") / "root.json").read_bytes() == room.repository.root()
    with room.as_person("cal"), pytest.raises(RefusedError, match="no root with sha256"):
        pin_root(room.fleet, "0" * 64)


def test_a_key_in_a_folder_is_never_replaced(room: KeyRoom) -> None:
    with pytest.raises(RefusedError, match="never replaced"):
        create_approver(room.folder("ann"), slot=2, module=None, ask=None)


def test_which_key_is_replaced_must_be_said_when_there_are_several(room: KeyRoom) -> None:
    room.add("bea")
    (room.folder("ann") / "approver.pem").unlink()
    with pytest.raises(MisuseError, match="--key says which"):
        room.rotate("targets")
