"""Keys change while packages lie in hash bins; the device's real verifier follows."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.contract.codes import Code
from edge_agent.errors import Refusal
from fleet_server.adapters.target_layout import edit_targets
from fleet_server.ports.keys import KeyAct
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
def room(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRoom:
    """Four bins from the first package on."""
    defaults = edit_targets.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "flat_targets_max", 0)
    monkeypatch.setitem(defaults, "bin_bits", 2)
    shutil.copytree(template, tmp_path / "room")
    room = KeyRoom(tmp_path / "room", FakeClock(START), monkeypatch)
    room.approver().approve("digits", 1)
    assert set(room.repository.current_targets()) == {
        "targets",
        "approved",
        *(f"packages-{n}" for n in range(4)),
    }
    room.device_runs()
    return room


@pytest.mark.parametrize("role", ["targets", "snapshot", "director"])
def test_every_key_is_replaced_and_devices_follow(room: KeyRoom, role: str) -> None:
    before = room.keyids(role)
    assert not room.rotate(role).waiting
    assert set(room.keyids(role)).isdisjoint(before)
    assert room.device_runs().targets["digits"].path == V1
    room.approver().approve("digits", 2)
    assert room.device_runs(V2).targets["digits"].path == V2


def test_two_people_approve_into_bins_and_one_cannot(room: KeyRoom) -> None:
    keyid = room.need_two()
    room.device_runs()
    room.approver().approve("digits", 2)
    assert V2 not in room.repository.approved()
    with room.as_person("bea"):
        room.approver("bea").cosign("approved", "digits", 2)
    assert V2 in room.repository.approved()
    assert room.device_runs(V2).targets["digits"].path == V2
    assert keyid in room.keyids("targets")


def test_an_approver_who_left_signs_no_bin_any_more(room: KeyRoom) -> None:
    keyid = room.add("bea")
    with room.as_person("bea"):
        room.approver("bea").approve("digits", 2)
    room.device_runs(V2)
    room.change(KeyAct.REMOVE, "targets", keyid=keyid)
    room.device_runs(V2)
    for role, data in room.repository.current_targets().items():
        assert keyid.encode() not in data, role


def test_a_withdrawn_package_is_refused_after_a_rotation_too(room: KeyRoom) -> None:
    room.approver().approve("digits", 2)
    room.rotate("targets")
    room.approver().reject("digits", 2, "counts badly")
    with pytest.raises(Refusal) as refusal:
        room.device_runs(V2)
    assert refusal.value.code is Code.NOT_APPROVED
