"""Whoever broke into the server signs with its online keys and writes its files and database."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner
from sqlmodel import col, select
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from edge_agent.adapters.device_keys import make_request
from edge_agent.adapters.enrolment import keep_grant
from edge_agent.contract.assignment import Assignment, SlotAssignment
from edge_agent.contract.codes import Code
from edge_agent.errors import EnrolmentError
from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import ArtifactRow, AuditRow
from fleet_server.adapters.director import Director
from fleet_server.errors import FleetError, RefusedError
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_device_desk, build_enrolment
from tests.support.attack_moves import add_unsigned, edit_root
from tests.support.attack_payloads import COMPACT
from tests.support.attack_server import OTHER_PROFILE, UNSIGNED, V1, V2, package
from tests.support.attacks import (
    ALLOWED,
    RECOVERED,
    TOLD,
    Attack,
    AttackSuite,
    AttackWorld,
    hold,
)

attack = AttackSuite("the server's online keys")

# Against devices --------------------------------------------------------------------------------


@attack(Code.NOT_APPROVED)
def assign_what_nobody_approved(w: AttackWorld) -> None:
    """The director moves devices among what approvers signed; it approves nothing."""
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def add_a_package_to_targets(w: AttackWorld) -> None:
    """Targets need the approvers' signatures, whose keys the server never had."""
    keys = (w.server.key(name) for name in ("director", "snapshot", "timestamp"))
    add_unsigned(w.server, *keys)
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def name_a_director_of_their_own(w: AttackWorld) -> None:
    """Who the director is, is part of targets."""
    mine = CryptoSigner.generate_ed25519()

    def edit(targets: Targets) -> None:
        targets.add_key(mine.public_key, "director")

    w.server.publish_targets(edit, w.server.key("snapshot"))
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6, signer=mine))


@attack(Code.TUF_SIGNATURE)
def make_itself_an_approver_by_a_new_root(w: AttackWorld) -> None:
    """A root needs the signature of the root key, which lies with the operator."""
    mine = w.server.key("timestamp")
    files = edit_root(w, mine, lambda root: root.add_key(mine.public_key, "targets"))
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.TUF_SIGNATURE)
def sign_the_timestamp_with_the_directors_key(w: AttackWorld) -> None:
    """Each role has its own key, named in the root."""
    files = w.server.refresh()
    metadata = Metadata[Timestamp].from_bytes(files["timestamp.json"])
    metadata.signed.version += 1
    metadata.sign(w.server.key("director"))
    files["timestamp.json"] = metadata.to_bytes(COMPACT)
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.ASSIGN_SIGNATURE)
def sign_the_assignment_with_the_timestamps_key(w: AttackWorld) -> None:
    """Each role has its own key; only the delegation inside targets makes a director."""
    envelope = w.server.order(V2, 6, signer=w.server.key("timestamp"))
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.WRONG_PROFILE)
def assign_a_package_of_another_profile(w: AttackWorld) -> None:
    """The profile is signed with the package and compared with the device's own."""
    w.device.deliver(w.server.refresh(), w.server.order(OTHER_PROFILE, 6))


@attack(Code.WRONG_SLOT)
def assign_a_package_to_another_slot(w: AttackWorld) -> None:
    """The slot is signed with the package."""
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6, slot="faces"))


@attack(Code.ASSIGN_FORMAT)
def assign_more_slots_than_a_device_has(w: AttackWorld) -> None:
    """An assignment names at most 32 slots."""
    now = w.server.clock.now()
    assignment = Assignment(
        fleet="fleet-1",
        device="cam-1",
        counter=6,
        issued_at=now,
        expires_at=now.replace(year=now.year + 1),
        slots={f"slot-{n}": SlotAssignment(target=V2) for n in range(33)},
    )
    w.device.deliver(w.server.refresh(), Director(w.server.keys_dir).seal(assignment))


@attack(Code.ASSIGN_FORMAT)
def name_a_package_outside_the_store(w: AttackWorld) -> None:
    """A target path has three plain parts."""
    w.device.deliver(w.server.refresh(), w.server.order("../../etc/1/camera.tar", 6))


@attack(Code.ASSIGN_FORK)
def say_two_things_with_one_counter(w: AttackWorld) -> None:
    """The same counter must come with the same bytes."""
    w.update(V2, 6)
    w.device.deliver(w.server.refresh(), w.server.order(V1, 6))


@attack(Code.TUF_ROLLBACK, ruins_server=True)
def roll_targets_back(w: AttackWorld) -> None:
    """A version of targets a device has seen is never followed by a lower one."""
    version = Metadata[Targets].from_bytes(w.server.repository.current_targets()["targets"])
    number = version.signed.version - 1
    older = (w.server.tuf_dir / f"{number}.targets.json").read_bytes()
    w.update(V2, 6)
    w.server.publish_raw(older, number)
    w.device.deliver(w.server.refresh(), w.server.order(V1, 7))


@attack(Code.TUF_FORMAT, ruins_server=True)
def leave_targets_out_of_the_snapshot(w: AttackWorld) -> None:
    """A snapshot must name every file it named before."""
    repository = w.server.repository
    snapshot = repository._snapshot()
    w.update(V2, 6)
    bare = Snapshot(version=snapshot.version, meta={"other.json": snapshot.meta["targets.json"]})
    data = repository._sign_snapshot(bare)
    repository._sign_timestamp(bare.version, data, repository._timestamp().version)
    files = w.server.tuf_dir
    names = [f"{bare.version}.snapshot.json", "timestamp.json", "1.root.json"]
    sent = {name: (files / name).read_bytes() for name in names}
    w.device.deliver(sent, w.server.order(V1, 7))


@attack(Code.TUF_EXPIRED)
def stop_signing_that_nothing_changed(w: AttackWorld) -> None:
    """A timestamp holds for a day: a freeze blocks new installs and is reported."""
    w.advance(days=2)
    w.device.deliver(w.server.repository.bundle(), w.server.order(V2, 6))


@attack(ALLOWED)
def go_back_to_an_older_package_that_is_still_approved(w: AttackWorld) -> None:
    """Going back is a feature; a package that must not run again is withdrawn."""
    w.update(V2, 6)
    w.update(V1, 7)


@attack(Code.NOT_APPROVED)
def go_back_to_a_package_that_was_withdrawn(w: AttackWorld) -> None:
    """Withdrawing takes the package out of targets, whose version is one higher."""
    w.server.approve(withdraw=(V2,))
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))


# Locking devices out, and the way back ----------------------------------------------------------


@attack(RECOVERED)
def spend_every_counter(w: AttackWorld) -> None:
    """Counters belong to the director's keys: when approvers name another, they begin anew."""
    w.update(V1, 2**62)
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))
    assert w.device.said_codes() == {Code.ASSIGN_REPLAY}
    w.server.rotate_director()
    w.update(V2, 1)


@attack(RECOVERED)
def date_an_assignment_in_2099(w: AttackWorld) -> None:
    """The director's dates bind only its own assignments; another director begins anew."""
    future = datetime(2099, 1, 1, tzinfo=UTC)
    w.device.deliver(w.server.refresh(), w.server.order(V1, 6, issued_at=future))
    w.device.deliver(w.server.refresh(), w.server.order(V2, 7))
    assert w.device.said_codes() == {Code.ASSIGN_EXPIRED}
    w.server.rotate_director()
    w.update(V2, 1)


@attack(RECOVERED)
def spend_every_version_of_the_metadata(w: AttackWorld) -> None:
    """A root with other snapshot and timestamp keys lets their versions begin anew."""
    w.server.fast_forward_online(999_999_000)
    w.update(V1, 6)
    w.server.rotate("timestamp", "snapshot")
    w.server.fast_forward_online(50)
    w.update(V2, 7)


@attack(Code.TUF_FORMAT, ruins_server=True)
def count_versions_beyond_what_a_file_name_holds(w: AttackWorld) -> None:
    """Names of metadata files have at most nine digits."""
    w.server.fast_forward_online(2**31)
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))


# Against the people -----------------------------------------------------------------------------


def told(act: Callable[[], object], error: type[Exception], sentence: str) -> str:
    """Expect an error; return the name of its kind."""
    with pytest.raises(error, match=sentence):
        act()
    return error.__name__


@attack("RefusedError", seen=TOLD, ruins_server=True)
def have_the_approver_sign_on_top_of_forged_targets(w: AttackWorld) -> str:
    """The approver's tool verifies what it builds on with its own copy of the root."""
    add_unsigned(w.server, w.server.key("director"))
    return told(lambda: w.server.approver.reject("plant", 2, "bad"), RefusedError, "not signed by")


@attack("RefusedError", seen=TOLD, ruins_server=True)
def have_forged_targets_taken_for_an_approval(w: AttackWorld) -> str:
    """That a package is signed already is believed only of targets the approvers signed."""
    add_unsigned(w.server, w.server.key("director"))
    return told(lambda: w.server.approver.approve("plant", 2), RefusedError, "not signed by")


@attack("RefusedError", seen=TOLD, ruins_server=True)
def have_the_approver_sign_an_older_state_again(w: AttackWorld) -> str:
    """The operator's folder remembers the newest version it signed."""
    number = w.server.approve()
    older = (w.server.tuf_dir / f"{number - 1}.targets.json").read_bytes()
    w.server.publish_raw(older, number - 1)
    return told(lambda: w.server.approver.approve("plant", 99), RefusedError, "has signed")


@attack("FleetError", seen=TOLD)
def swap_the_package_before_it_is_approved(w: AttackWorld) -> str:
    """The approver's own process hashes every package it signs."""
    blob = package(UNSIGNED)
    with read_session(w.server.opened.engine) as session:
        row = session.exec(select(ArtifactRow).where(ArtifactRow.target == UNSIGNED)).one()
    path = next(p for p in w.server.workspace.objects_dir.rglob("*") if p.name == row.sha256)
    path.chmod(0o600)
    path.write_bytes(blob[:-1024] + b"\1" * 1024)
    return told(lambda: w.server.approver.approve("plant", 99), FleetError, "damaged|not what")


@attack("EnrolmentError", seen=TOLD)
def give_new_devices_a_root_of_their_own(w: AttackWorld) -> str:
    """The join string pins the root from the operator's own copy."""
    ticket = build_device_desk(w.server.opened, actor="ann").add(
        DeviceSpec(id="cam-2", profile="camera", labels={})
    )
    mine = CryptoSigner.generate_ed25519()
    files = edit_root(w, mine, lambda root: root.add_key(mine.public_key, "targets"))
    key = ec.generate_private_key(ec.SECP256R1())
    enrolment = build_enrolment(w.server.opened)
    grant = enrolment.desk.enrol(ticket.secret, make_request(key, "cam-2"))
    forged = type(grant)(
        **{name: getattr(grant, name) for name in grant.__slots__ if name != "root"},
        root=files["2.root.json"].decode(),
    )
    home = Path(w.device.directory).parent / "cam-2"
    return told(
        lambda: keep_grant(ticket, forged, enrolment.ca_pem, key, home),
        EnrolmentError,
        "root of trust",
    )


def tamper_with_audit(w: AttackWorld, change: Callable[[list[AuditRow], object], None]) -> str:
    with w.server.database() as session:
        rows = list(session.exec(select(AuditRow).order_by(col(AuditRow.id))).all())
        assert len(rows) > 3
        change(rows, session)
    with read_session(w.server.opened.engine) as session:
        breaks = list(find_breaks(iter(session.exec(select(AuditRow).order_by(col(AuditRow.id))))))
    assert breaks
    return "found"


@attack("found", seen="edgefleet audit verify")
def edit_a_row_of_the_audit_log(w: AttackWorld) -> str:
    """Each row carries a hash of itself and of the row before."""

    def change(rows: list[AuditRow], _session: object) -> None:
        rows[1].actor = "somebody else"

    return tamper_with_audit(w, change)


@attack("found", seen="edgefleet audit verify")
def remove_a_row_of_the_audit_log(w: AttackWorld) -> str:
    """Each row carries a hash of the row before; numbers leave no gap."""

    def change(rows: list[AuditRow], session: object) -> None:
        session.delete(rows[1])  # type: ignore[attr-defined]

    return tamper_with_audit(w, change)


@attack("found", seen="edgefleet audit verify")
def reorder_the_audit_log(w: AttackWorld) -> str:
    """Each row carries a hash of the row before."""

    def change(rows: list[AuditRow], _session: object) -> None:
        rows[1].object, rows[2].object = rows[2].object, rows[1].object

    return tamper_with_audit(w, change)


@attack.cases()
def test_an_attack_with_the_servers_keys_is_refused_and_seen(
    attack: Attack, world: AttackWorld
) -> None:
    hold(world, attack)
