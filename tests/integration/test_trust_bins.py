"""Hash bins in the server's metadata: what is stored, what is refused, what a cut leaves."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edge_agent.contract.codes import Code
from edge_agent.errors import Refusal
from fleet_server.adapters.target_layout import COMPACT, resign_all
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.errors import RefusedError
from tests.support.target_bins import (
    PATHS,
    all_files,
    approve_in_bins,
    is_as_signed,
    look_up,
    sign_edit,
    sign_with_approver,
)
from tests.support.trust import V1, V2, TrustWorld, make_target

Files = dict[str, bytes]
EXTRA = "digits/40/camera.tar"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    world = TrustWorld(tmp_path_factory.mktemp("bins") / "template")
    approve_in_bins(world, *PATHS[:3])
    approve_in_bins(world, *PATHS[3:8])
    return world


@pytest.fixture
def world(template: TrustWorld, tmp_path: Path) -> TrustWorld:
    """Eight packages in four bins, ``targets`` of version 3."""
    return template.copy(tmp_path / "world")


def read_state(world: TrustWorld) -> tuple[dict[str, bytes], object]:
    """What a process that starts now finds."""
    fresh = TufRepository(world.tuf_dir, world.keys_dir, world.clock)
    return all_files(fresh), fresh.approved()


# Devices in service -------------------------------------------------------------------------------


def test_a_device_in_service_follows_from_flat_targets_into_bins(tmp_path: Path) -> None:
    world = TrustWorld(tmp_path / "world")
    approve_in_bins(world, V1, V2)
    world.handle(all_files(world.repository), world.assign(V1, 1))
    floor_at = world.accepted.time_floor_at
    world.advance(days=1)
    approve_in_bins(world, *PATHS[2:8])
    world.repository.refresh_online()
    verified = world.handle(all_files(world.repository), world.assign(V2, 2))
    assert verified.targets["digits"].sha256 == make_target(V2).sha256
    # The director was kept: the counter did not start anew, and the date moved.
    assert (world.accepted.counter, world.accepted.time_floor_at > floor_at) == (2, True)


def test_a_withdrawn_package_is_not_approved_any_more(world: TrustWorld) -> None:
    world.handle(all_files(world.repository), world.assign(V2, 1))
    approve_in_bins(world, withdraw=(V2,))
    with pytest.raises(Refusal) as refusal:
        world.handle(all_files(world.repository), world.assign(V2, 2))
    assert refusal.value.code is Code.NOT_APPROVED


def test_an_old_bin_that_a_stolen_snapshot_key_vouches_for_is_refused(world: TrustWorld) -> None:
    """Also by a device that never saw a newer one: ``targets`` names the bin's version."""
    before = world.repository.current_targets()
    changed = approve_in_bins(world, withdraw=(V2,))
    (bin_,) = set(changed) - {"targets"}
    repository = world.repository
    repository._publish(
        {bin_: before[bin_]}, {bin_: 1}, repository._snapshot(), repository._timestamp().version
    )
    found = look_up(
        world.directory / "foreign",
        world.pinned_root,
        all_files(repository),
        V2,
        world.clock.now(),
    )
    assert found is not None  # a client that knows only TUF is taken in
    with pytest.raises(Refusal) as refusal:
        world.handle(all_files(repository), world.assign(V2, 1))
    assert refusal.value.code is Code.TUF_ROLLBACK


# What the server refuses --------------------------------------------------------------------------

Tamper = Callable[[TrustWorld, Files], Files]
TAMPERED: list[tuple[str, Tamper]] = []


def tamper(words: str) -> Callable[[Tamper], Tamper]:
    """Register a set of files that must be refused with these words."""

    def register(act: Tamper) -> Tamper:
        TAMPERED.append((words, act))
        return act

    return register


def change(world: TrustWorld, files: Files, role: str, edit: Callable[[Targets], None]) -> Files:
    """Edit one file and have the approver sign it: mistakes of an entitled person's tool."""
    metadata = Metadata[Targets].from_bytes(files[role])
    edit(metadata.signed)
    return {**files, **sign_with_approver(world, {role: metadata})}


def the_bin(files: Files) -> str:
    (role,) = set(files) - {"targets"}
    return role


@tamper("packages-. was signed by 0/1 keys")
def sign_a_bin_with_the_server_key(w: TrustWorld, files: Files) -> Files:
    metadata = Metadata[Targets].from_bytes(files[the_bin(files)])
    metadata.sign(w.key("snapshot"))
    return {**files, the_bin(files): metadata.to_bytes(COMPACT)}


@tamper("version 3 does not follow 1")
def skip_a_version_of_a_bin(w: TrustWorld, files: Files) -> Files:
    return change(w, files, the_bin(files), lambda t: setattr(t, "version", 3))


@tamper("do not name the versions of the files beside them")
def leave_a_bin_out(_: TrustWorld, files: Files) -> Files:
    return {"targets": files["targets"]}


@tamper("do not name the versions of the files beside them")
def name_no_versions(w: TrustWorld, files: Files) -> Files:
    return change(w, files, "targets", lambda t: t.unrecognized_fields.pop("x-versions"))


@tamper("x-versions is not of 4 bins")
def name_too_few_versions(w: TrustWorld, files: Files) -> Files:
    def edit(targets: Targets) -> None:
        targets.unrecognized_fields["x-versions"]["packages"].pop()

    return change(w, files, "targets", edit)


@tamper("every approval signs targets anew")
def leave_targets_out(_: TrustWorld, files: Files) -> Files:
    return {the_bin(files): files[the_bin(files)]}


@tamper("devices look in packages-")
def put_a_package_into_targets(w: TrustWorld, files: Files) -> Files:
    (target,) = (
        t
        for p, t in Metadata[Targets].from_bytes(files[the_bin(files)]).signed.targets.items()
        if p == EXTRA
    )
    return change(w, files, "targets", lambda t: t.targets.update({EXTRA: target}))


@tamper("nothing delegates to 'packages-4'")
def add_a_bin(_: TrustWorld, files: Files) -> Files:
    return {**files, "packages-4": files[the_bin(files)]}


@tamper("nothing delegates to '../evil'")
def name_a_path(_: TrustWorld, files: Files) -> Files:
    return {**files, "../evil": files[the_bin(files)]}


@tamper("delegate to none")
def go_back_to_flat_targets(w: TrustWorld, files: Files) -> Files:
    def edit(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        del targets.delegations.roles["approved"]

    return change(w, files, "targets", edit)


@tamper("set the clocks")
def store_an_expired_bin(w: TrustWorld, files: Files) -> Files:
    return change(w, files, the_bin(files), lambda t: setattr(t, "expires", w.clock.now()))


@tamper("the limit is 5000000")
def store_an_endless_bin(_: TrustWorld, files: Files) -> Files:
    return {**files, the_bin(files): files[the_bin(files)] + b" " * 5_000_000}


@tamper("is not a sha256")
def store_what_devices_cannot_read(w: TrustWorld, files: Files) -> Files:
    def edit(targets: Targets) -> None:
        targets.targets[EXTRA].hashes["sha256"] = "abc"

    return change(w, files, the_bin(files), edit)


@tamper("approved would be signed with the server's key")
def let_the_server_key_speak_for_packages(w: TrustWorld, files: Files) -> Files:
    def edit(targets: Targets) -> None:
        targets.add_key(w.key("snapshot").public_key, "approved")

    return change(w, files, "targets", edit)


@tamper("approved speaks for")
def let_approved_speak_for_everything(w: TrustWorld, files: Files) -> Files:
    def edit(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles["approved"].paths = ["*"]

    return change(w, files, "targets", edit)


def change_approved(w: TrustWorld, files: Files, edit: Callable[[Targets], None]) -> Files:
    def grow(targets: Targets) -> None:
        targets.version += 1
        edit(targets)

    approved = w.repository.current_targets()["approved"]
    return change(w, {**files, "approved": approved}, "approved", grow)


@tamper("the bins would be signed with the server's key")
def let_the_server_key_speak_for_bins(w: TrustWorld, files: Files) -> Files:
    return change_approved(w, files, lambda t: t.add_key(w.key("snapshot").public_key, ""))


@tamper("devices know up to 4096 packages")
def delegate_to_bins_of_another_name(w: TrustWorld, files: Files) -> Files:
    def edit(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.succinct_roles is not None
        targets.delegations.succinct_roles.name_prefix = "other"

    return change_approved(w, files, edit)


@pytest.mark.parametrize(("words", "act"), TAMPERED, ids=[act.__name__ for _, act in TAMPERED])
def test_files_that_break_a_rule_are_refused_and_nothing_changes(
    words: str, act: Tamper, world: TrustWorld
) -> None:
    before = read_state(world)
    files = act(world, sign_edit(world, add=[EXTRA]))
    with pytest.raises(RefusedError, match=words):
        world.repository.store_targets(files)
    assert read_state(world) == before
    approve_in_bins(world, EXTRA)
    assert EXTRA in world.repository.approved()


def test_new_approvers_take_over_every_bin(world: TrustWorld) -> None:
    former = world.key("approver")
    new = CryptoSigner.generate_ed25519()
    metadata = Metadata[Root].from_bytes(world.repository.root())
    metadata.signed.version += 1
    metadata.signed.revoke_key(former.public_key.keyid, "targets")
    metadata.signed.add_key(new.public_key, "targets")
    metadata.sign(world.key("root"))
    world.repository.store_root(metadata.to_bytes(COMPACT))
    edited = resign_all(world.repository.current_targets(), metadata.signed, world.clock.now())
    assert len(edited) == 6
    for signed in edited.values():
        signed.sign(new)
    files = {role: signed.to_bytes(COMPACT) for role, signed in edited.items()}
    left_out = {role: data for role, data in files.items() if role != "packages-2"}
    with pytest.raises(RefusedError, match=r"packages-2 was signed by 0/1 keys"):
        world.repository.store_targets(left_out)
    assert world.repository.store_targets(files) == 4
    found = world.handle(all_files(world.repository), world.assign(V2, 1))
    assert found.targets["digits"].path == V2


# Cuts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first_in_bins", [True, False])
def test_a_cut_while_storing_leaves_the_state_before(
    is_first_in_bins: bool,
    template: TrustWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_first_in_bins:
        world = TrustWorld(tmp_path / "world")
        approve_in_bins(world, *PATHS[:3])
    else:
        world = template.copy(tmp_path / "world")
    before = read_state(world)
    files = sign_edit(world, add=PATHS[3:9])
    real_sync, left = os.fsync, 0

    def sync_or_cut(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "power cut")
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_or_cut)
    cuts = 0
    while True:
        left = cuts  # one effect further each time
        try:
            world.repository.store_targets(files)
        except OSError:
            cuts += 1
            if read_state(world) == before:
                continue
        break  # behind timestamp.json, the commit point
    assert cuts >= len(files) + 3
    assert PATHS[8] in world.repository.approved()
    assert look_up(
        tmp_path / "client",
        world.pinned_root,
        all_files(world.repository),
        PATHS[8],
        world.clock.now(),
    )


def test_old_versions_of_bins_go(world: TrustWorld) -> None:
    for number in range(8):
        approve_in_bins(world, *((EXTRA,) if number % 2 else ()), withdraw=(EXTRA,))
    names = [path.name for path in world.tuf_dir.iterdir()]
    bins = [name for name in names if ".packages-" in name]
    assert len(bins) == 3 + 3 * 1  # three versions of the one that changed
    assert "1.approved.json" in names
    assert look_up(
        world.directory / "client",
        world.pinned_root,
        all_files(world.repository),
        V2,
        world.clock.now(),
    )


def test_a_changed_bin_alone_is_read_again(
    world: TrustWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.repository.approved()
    approve_in_bins(world, EXTRA)
    asked: list[str] = []
    read = type(world.repository._folder).read

    def note(folder: object, name: str) -> bytes:
        asked.append(name)
        return read(folder, name)  # type: ignore[arg-type]

    monkeypatch.setattr(type(world.repository._folder), "read", note)
    assert EXTRA in world.repository.approved()
    assert sum("packages-" in name for name in asked) == 1
    asked.clear()
    world.repository.approved()
    assert asked == ["timestamp.json"]


# Online keys --------------------------------------------------------------------------------------


def rotate(world: TrustWorld, *roles: str) -> None:
    world.rotate(*roles)
    world.repository.republish_online()


def online_versions(world: TrustWorld) -> tuple[int, int]:
    files = world.repository.bundle()
    (snapshot,) = (data for name, data in files.items() if name.endswith(".snapshot.json"))
    return (
        Metadata[Snapshot].from_bytes(snapshot).signed.version,
        Metadata[Timestamp].from_bytes(files["timestamp.json"]).signed.version,
    )


@pytest.mark.parametrize("kind", ["device", "foreign client"])
def test_new_online_keys_end_a_fast_forward(kind: str, world: TrustWorld, tmp_path: Path) -> None:
    """A thief ran the numbers up with the stolen keys, towards devices only."""
    thief = world.copy(tmp_path / "thief")
    repository = thief.repository
    repository._publish({}, {}, _at(repository._snapshot(), 900_000_000), 900_000_000)

    def accept(files: Files, counter: int) -> bool:
        if kind == "device":
            return world.handle(files, world.assign(V2, counter)).targets["digits"].path == V2
        found = look_up(tmp_path / "client", world.pinned_root, files, V2, world.clock.now())
        return is_as_signed(found, make_target(V2))

    assert accept(all_files(repository), 1)
    with pytest.raises((Refusal, RepositoryError)):
        accept(all_files(world.repository), 2)
    rotate(world, "snapshot", "timestamp")
    assert online_versions(world) == (1, 1)
    assert accept(all_files(world.repository), 2)
    approve_in_bins(world, EXTRA)
    assert accept(all_files(world.repository), 3)
    new_root = {"2.root.json": world.repository.root()}
    with pytest.raises((Refusal, RepositoryError, DownloadError)):
        accept({**all_files(repository), **new_root}, 4)


def test_absurd_versions_on_the_server_itself_end_with_new_keys(world: TrustWorld) -> None:
    repository = world.repository
    repository._publish({}, {}, _at(repository._snapshot(), 900_000_000), 900_000_000)
    rotate(world, "snapshot", "timestamp")
    assert online_versions(world) == (1, 1)
    snapshots = [path.name for path in world.tuf_dir.glob("*.snapshot.json")]
    assert snapshots == ["1.snapshot.json"]
    world.handle(all_files(repository), world.assign(V2, 1))


def _at(snapshot: Snapshot, version: int) -> Snapshot:
    snapshot.version = version
    return snapshot


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_one_new_online_key_is_accepted(role: str, world: TrustWorld) -> None:
    world.handle(all_files(world.repository), world.assign(V2, 1))
    before = online_versions(world)
    rotate(world, role)
    # A timestamp whose key stays may never name a lower snapshot.
    expected = (before[0] + 1, before[1] + 1 if role == "snapshot" else 1)
    assert online_versions(world) == expected
    world.handle(all_files(world.repository), world.assign(V2, 2))


def test_a_cut_between_a_new_root_and_its_first_snapshot_heals_by_itself(
    world: TrustWorld,
) -> None:
    world.handle(all_files(world.repository), world.assign(V2, 1))
    running = TufRepository(world.tuf_dir, world.keys_dir, world.clock)
    assert not running.refresh_online()
    world.rotate("snapshot", "timestamp")
    assert running.refresh_online()
    assert not running.refresh_online()
    world.handle(all_files(running), world.assign(V2, 2))


def test_a_key_that_the_root_does_not_name_signs_nothing(world: TrustWorld) -> None:
    former = (world.keys_dir / "timestamp.pem").read_bytes()
    world.rotate("snapshot", "timestamp")
    (world.keys_dir / "timestamp.pem").write_bytes(former)
    before = world.repository.bundle()
    with pytest.raises(RefusedError, match="not the timestamp key that the root names"):
        world.repository.republish_online()
    assert world.repository.bundle() == before
