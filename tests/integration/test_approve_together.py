"""Two people approve one state: each sees and rebuilds what is signed, on the own machine."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.contract.package import OnWithdrawn
from edge_agent.errors import Refusal
from fleet_server.adapters.approver_keys import sign_files
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.keys import Proposal, TargetsReview
from fleet_server.services.approve_model import Approval
from fleet_server.wiring.trust import build_operator, build_pending
from tests.support.clock import FakeClock
from tests.support.key_room import V1, V2, KeyRoom
from tests.support.trust_fleet import make_fleet, register

START = datetime(2026, 3, 1, tzinfo=UTC)


def open_room(directory: Path, clock: FakeClock) -> KeyRoom:
    return KeyRoom(directory, clock, pytest.MonkeyPatch())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann and bea must both sign; digits 1 is approved by both, 2 and 3 are not."""
    directory = tmp_path_factory.mktemp("template")
    fleet = make_fleet(directory / "fleet", FakeClock(START))
    for version in (1, 2, 3):
        register(fleet, "digits", version, ["camera"])
    fleet.engine.dispose()
    room = open_room(directory, FakeClock(START))
    room.approver().approve("digits", 1)
    room.need_two()
    room.fleet.engine.dispose()
    return directory


@pytest.fixture
def room(template: Path, tmp_path: Path) -> KeyRoom:
    shutil.copytree(template, tmp_path / "room")
    return open_room(tmp_path / "room", FakeClock(START))


def cosign(
    room: KeyRoom,
    name: str,
    version: int,
    decision: str = "approved",
    show: Callable[[TargetsReview], None] | None = None,
) -> Approval:
    with room.as_person(name):
        return room.approver(name).cosign(decision, "digits", version, show=show)


def pending(room: KeyRoom) -> Proposal:
    proposal = build_pending(room.fleet).load()
    assert proposal is not None
    return proposal


def test_what_one_signed_waits_and_is_in_force_with_the_second(room: KeyRoom) -> None:
    first = room.approver().approve("digits", 2, "good figures")
    assert "1 of 2 approvers signed, waiting for 1 of" in first.waiting
    assert V2 not in room.repository.approved()
    with pytest.raises(Refusal):
        room.device_runs(V2)
    shown: list[TargetsReview] = []
    second = cosign(room, "bea", 2, show=shown.append)
    assert not second.waiting
    assert list(shown[0].mine) == [V2]
    assert room.device_runs(V2).targets["digits"].path == V2
    assert room.acts().count("model.proposed") == 1
    assert "model.approved" in room.acts()
    assert build_pending(room.fleet).load() is None


def test_withdrawing_needs_both_as_well(room: KeyRoom) -> None:
    assert room.approver().reject("digits", 1, "confuses 3 and 8").waiting
    assert room.device_runs(V1).targets["digits"].path == V1
    assert not cosign(room, "bea", 1, "rejected").waiting
    with pytest.raises(Refusal):
        room.device_runs(V1)


def test_who_signed_already_does_not_count_twice(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    with pytest.raises(RefusedError, match=r"has signed it already.*somebody else"):
        cosign(room, "ann", 2)
    shutil.copytree(room.folder("ann"), room.directory / "cal")  # ann under another name
    with pytest.raises(RefusedError, match="has signed it already"):
        cosign(room, "cal", 2)
    assert V2 not in room.repository.approved()


def test_a_stranger_does_not_count(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    shutil.copytree(room.folder("bea"), room.directory / "cal")
    (room.folder("cal") / "approver.pem").unlink()
    from fleet_server.adapters.key_files import create_key

    create_key(room.folder("cal") / "approver.pem")
    with pytest.raises(RefusedError, match="is no approver of this fleet"):
        cosign(room, "cal", 2)


def test_one_thing_waits_at_a_time_and_is_superseded_only_in_words(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    with pytest.raises(RefusedError, match=r"model.approved digits/2 waits.*forget-pending"):
        room.approver().approve("digits", 3)
    with pytest.raises(RefusedError, match=r"what waits is model.approved digits/2"):
        cosign(room, "bea", 3)
    with pytest.raises(RefusedError, match=r"what waits is model.approved digits/2"):
        cosign(room, "bea", 2, "rejected")
    room.desk().forget_pending("the wrong one")
    with pytest.raises(NotFoundError, match="nothing waits"):
        cosign(room, "bea", 2)
    assert room.approver().approve("digits", 3).waiting
    assert "keys.forget-pending" in room.acts()


# A server in bad hands ----------------------------------------------------------------------------


def slip_in_another_package(room: KeyRoom) -> None:
    """The server's thief also has ann's machine and key: the set holds more than it says."""
    operator = build_operator(room.fleet)
    add = [*room.approver().prepare("digits", 2), *room.approver().prepare("digits", 3)]
    files = operator.edit(room.repository.current_targets(), add=add, withdraw=())
    proposal = replace(pending(room), files=sign_files(files, [operator.folder.signer("targets")]))
    build_pending(room.fleet).save(proposal)


def withdraw_something_as_well(room: KeyRoom) -> None:
    operator = build_operator(room.fleet)
    add = room.approver().prepare("digits", 2)
    files = operator.edit(room.repository.current_targets(), add=add, withdraw=[V1])
    proposal = replace(pending(room), files=sign_files(files, [operator.folder.signer("targets")]))
    build_pending(room.fleet).save(proposal)


def change_what_happens_when_withdrawn(room: KeyRoom) -> None:
    build = build_pending(room.fleet)
    build.save(replace(pending(room), detail={"slot": None, "on_withdrawn": "keep"}))


def change_the_package_in_the_store(room: KeyRoom) -> None:
    path = room.fleet.objects.path(room.approver().prepare("digits", 2)[0].sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (slip_in_another_package, "does not hold exactly what it says"),
        (withdraw_something_as_well, "does not hold exactly what it says"),
        (change_what_happens_when_withdrawn, "does not hold exactly what it says"),
        (change_the_package_in_the_store, "damaged on disk"),
    ],
)
def test_a_doctored_proposal_is_not_signed(
    room: KeyRoom, tamper: Callable[[KeyRoom], None], sentence: str
) -> None:
    room.approver().approve("digits", 2)
    tamper(room)
    with pytest.raises(Exception, match=sentence):
        cosign(room, "bea", 2)
    assert V2 not in room.repository.approved()


def test_signatures_that_are_not_valid_are_not_even_kept(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    proposal = pending(room)
    text = proposal.files["targets"].replace(b'"slot":"digits"', b'"slot":"others"')
    assert text != proposal.files["targets"]
    with pytest.raises(RefusedError, match="signature"):
        build_pending(room.fleet).save(replace(proposal, files={"targets": text}))


def test_a_damaged_or_endless_proposal_is_named_and_can_be_dropped(room: KeyRoom) -> None:
    path = room.fleet.workspace.server_dir / "pending.json"
    path.write_text("[" * 100_000)
    with pytest.raises(RefusedError, match="forget-pending"):
        room.approver().approve("digits", 2)
    room.desk().forget_pending("damaged")
    assert room.approver().approve("digits", 2).waiting


# What a person sees -------------------------------------------------------------------------------


def test_what_others_signed_meanwhile_is_shown_as_theirs(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    cosign(room, "bea", 2)
    shown: list[TargetsReview] = []
    room.approver().approve("digits", 3, show=shown.append)
    assert list(shown[0].others) == [V2]
    assert len(shown[0].others_keyids) == 2
    assert list(shown[0].mine) == ["digits/3/camera.tar"]
    assert (shown[0].current_version, shown[0].following_version) == (4, 5)


def test_what_devices_do_when_it_is_withdrawn_is_signed(room: KeyRoom) -> None:
    room.approver().approve("digits", 2, on_withdrawn=OnWithdrawn.KEEP)
    cosign(room, "bea", 2)
    assert room.repository.approved()[V2].custom.on_withdrawn is OnWithdrawn.KEEP


def test_a_decision_that_was_interrupted_when_all_had_signed_is_completed(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    store = build_pending(room.fleet)
    with room.as_person("bea"):
        signer = build_operator(room.fleet).folder.signer("targets")
    proposal = pending(room)
    store.save(replace(proposal, files=sign_files(proposal.files, [signer])))
    assert not room.approver().approve("digits", 2).waiting
    assert V2 in room.repository.approved()
