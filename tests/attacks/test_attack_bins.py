"""Whoever holds broker or online keys of a fleet so large that targets lie in hash bins."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, SuccinctRoles, Targets

from edge_agent.contract.codes import Code
from edge_agent.contract.topics import meta_topic
from fleet_server.adapters.target_layout import resign_all
from tests.support.attack_moves import target_of
from tests.support.attack_payloads import COMPACT, bundle_of, zeros_bomb
from tests.support.attack_server import UNSIGNED, V1, V2, V3, package
from tests.support.attacks import IGNORED, Attack, AttackSuite, AttackWorld, hold
from tests.support.target_bins import BIN_BITS, approve_in_bins, sign_with_approver

attack = AttackSuite("the broker or the online keys of a fleet in hash bins")
OTHERS = tuple(f"digits/{number}/camera.tar" for number in range(1, 9))
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def in_bins(
    template: AttackWorld, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AttackWorld]:
    """The world of all attacks, beyond the limit of flat targets; the device has followed."""
    world = template.copy(tmp_path_factory.mktemp("bins") / "template")
    approve_in_bins(world.server, *OTHERS)
    world.update(V1, 6)
    yield world
    world.close()


@pytest.fixture
def world(in_bins: AttackWorld, tmp_path: Path) -> Iterator[AttackWorld]:
    world = in_bins.copy(tmp_path / "world")
    yield world
    world.close()


def role_for(path: str) -> str:
    """Name of the bin that speaks for a path."""
    return SuccinctRoles([], 1, BIN_BITS, "packages").get_role_for_target(path)


def touched(w: AttackWorld) -> tuple[Files, str, bytes]:
    """Approve something in the bin of ``plant`` 3, whose newest file the device does not have.

    Returns every file, the name of that bin's, and its former bytes.
    """
    role = role_for(V3)
    old = w.server.repository.current_targets()[role]
    paths = (f"digits/{number}/camera.tar" for number in range(100, 200))
    approve_in_bins(w.server, next(path for path in paths if role_for(path) == role))
    files = w.server.refresh()
    return files, next(name for name in files if f".{role}." in name), old


def deliver_bin(w: AttackWorld, payload: bytes) -> None:
    """Deliver honest metadata, and a payload in the place of the bin of ``plant`` 3."""
    files, name, _ = touched(w)
    del files[name]
    w.device.deliver(files, w.server.order(V3, 7), for_s=2)
    w.device.say_on(meta_topic(role_for(V3)), payload)
    w.device.run(35)


@attack(Code.TUF_MISSING)
def withhold_the_bin_of_a_package(w: AttackWorld) -> None:
    """A set that is not whole is never acted on."""
    files, name, _ = touched(w)
    del files[name]
    w.device.deliver(files, w.server.order(V3, 7))


@attack(Code.TUF_ROLLBACK)
def play_an_old_bin_under_a_new_snapshot(w: AttackWorld) -> None:
    """The snapshot, and targets, say the version of every bin."""
    files, name, old = touched(w)
    w.device.deliver(files | {name: old}, w.server.order(V3, 7))


@attack(Code.TUF_ROLLBACK)
def hand_out_another_bin_in_its_place(w: AttackWorld) -> None:
    """The snapshot, and targets, say the version of every bin."""
    files, name, _ = touched(w)
    other = next(n for n in files if "packages-" in n and n != name)
    w.device.deliver(files | {name: files[other]}, w.server.order(V3, 7))


@attack(Code.TUF_FORMAT)
def hand_out_another_bin_of_the_same_version(w: AttackWorld) -> None:
    """The approvers sign a bin's name in it; what it does not hold is not taken for withdrawn."""
    role = role_for(V3)
    sign_all(w)
    files = w.server.refresh()
    name = next(n for n in files if f".{role}." in n)
    version = name.partition(".")[0]
    other = next(n for n in files if n.startswith(f"{version}.packages-") and n != name)
    w.device.deliver(files | {name: files[other]}, w.server.order(V3, 7))


@attack(Code.TUF_SIGNATURE)
def forge_a_bin(w: AttackWorld) -> None:
    """The delegation says whose signature counts."""
    files, name, _ = touched(w)
    w.device.deliver(files | {name: with_unsigned(files[name])}, w.server.order(V3, 7))


@attack(Code.TUF_SIGNATURE)
def hand_out_a_bin_of_another_fleet(w: AttackWorld) -> None:
    """Another fleet's approvers are not this one's."""
    files, name, _ = touched(w)
    foreign = Metadata[Targets].from_bytes(files[name])
    foreign.sign(CryptoSigner.generate_ed25519())
    w.device.deliver(files | {name: foreign.to_bytes(COMPACT)}, w.server.order(V3, 7))


def with_unsigned(data: bytes, *signers: CryptoSigner) -> bytes:
    metadata = Metadata[Targets].from_bytes(data)
    metadata.signed.targets[UNSIGNED] = target_of(UNSIGNED, package(UNSIGNED))
    metadata.signed.version += 1
    metadata.signatures.clear()
    for signer in signers or (CryptoSigner.generate_ed25519(),):
        metadata.sign(signer, append=True)
    return metadata.to_bytes(COMPACT)


@attack(Code.TUF_FORMAT)
def send_a_decompression_bomb_as_a_bin(w: AttackWorld) -> None:
    """Bins together inflate within one bound."""
    deliver_bin(w, zeros_bomb(50_000_000))


@attack(Code.TUF_FORMAT)
def send_garbage_as_a_bin(w: AttackWorld) -> None:
    """What does not inflate is malformed, and keeps nothing else from being heard."""
    deliver_bin(w, b"garbage")


@attack(Code.TUF_FORMAT)
def smuggle_a_timestamp_in_a_bins_message(w: AttackWorld) -> None:
    """The message of a bin carries that bin and nothing else."""
    deliver_bin(w, bundle_of({"timestamp.json": "{}", "9.root.json": "{}"}))


@attack(IGNORED)
def send_bins_nobody_asked_for(w: AttackWorld) -> None:
    """A device keeps only the bins of packages that it is assigned or holds."""
    for number in range(16):
        w.device.say_on(meta_topic(f"packages-{number:x}"), b"x" * 200_000)
    w.device.say_on("ef/v1/meta/packages-zz", b"x")
    w.device.run(3)


@attack(Code.NOT_APPROVED)
def assign_a_package_withdrawn_from_its_bin(w: AttackWorld) -> None:
    """Withdrawing takes the package out of its bin, whose version targets names."""
    approve_in_bins(w.server, withdraw=(V2,))
    w.device.deliver(w.server.refresh(), w.server.order(V2, 7))


def sign_all(w: AttackWorld) -> None:
    """Sign every file anew, so that all bins are of one version."""
    repository = w.server.repository
    root = Metadata[Root].from_bytes(repository.root()).signed
    edited = resign_all(repository.current_targets(), root, w.server.clock.now())
    repository.store_targets(sign_with_approver(w.server, edited))


def publish_bin(w: AttackWorld, data: bytes, role: str = "") -> None:
    """Publish a file of the bin of ``plant`` 3, or of another, with the online keys."""
    role, repository = role or role_for(V3), w.server.repository
    version = Metadata[Targets].from_bytes(data).signed.version
    timestamp_version = repository._timestamp().version
    repository._publish({role: data}, {role: version}, repository._snapshot(), timestamp_version)


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def add_a_package_to_a_bin_with_the_online_keys(w: AttackWorld) -> None:
    """Bins need the approvers' signatures like targets itself."""
    files, name, _ = touched(w)
    publish_bin(w, with_unsigned(files[name], w.server.key("snapshot")))
    w.device.deliver(w.server.refresh(), w.server.order(V3, 7))


@attack(Code.TUF_FORMAT, ruins_server=True)
def swap_bins_with_the_online_keys(w: AttackWorld) -> None:
    """A bin that bears another's name is refused, and no running package taken for withdrawn."""
    sign_all(w)
    files = w.server.refresh()
    role = role_for(V1)
    name = next(n for n in files if f".{role}." in n)
    version = name.partition(".")[0]
    other = next(n for n in files if n.startswith(f"{version}.packages-") and n != name)
    publish_bin(w, files[other], role)
    w.device.deliver(w.server.refresh(), w.server.order(V1, 7))


@attack(Code.TUF_ROLLBACK, ruins_server=True)
def vouch_for_an_old_bin_with_the_online_keys(w: AttackWorld) -> None:
    """Targets, which approvers sign, names the version of every bin."""
    _, _, old = touched(w)
    publish_bin(w, old)
    w.device.deliver(w.server.refresh(), w.server.order(V3, 7))


@attack.cases()
def test_an_attack_on_a_fleet_in_bins_is_refused_and_seen(
    attack: Attack, world: AttackWorld
) -> None:
    hold(world, attack)
