"""A family is approved with one signature over the list of its members."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.errors import Refusal
from fleet_server.cli import model
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.keys import TargetsReview
from fleet_server.services.release import APPROVED, Release, hash_listing
from fleet_server.wiring.training import build_family_browser
from fleet_server.wiring.trust import build_pending
from tests.support.clock import FakeClock
from tests.support.families import LINES, register_member
from tests.support.key_room import KeyRoom
from tests.support.trust_fleet import make_fleet, register

A, B, C = (f"line-{route}/1/camera.tar" for route in "abc")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of three routes with a fallback, and a model that is none of it."""
    directory = tmp_path_factory.mktemp("template")
    fleet = make_fleet(directory / "fleet", FakeClock(datetime.now(UTC)))
    for route, mae in (("a", 0.5), ("b", 0.9), ("c", 0.7)):
        register_member(fleet, route, mae=mae)
    register_member(fleet, "pooled", is_fallback=True)
    register(fleet, "line-up", 1, ["camera"])
    fleet.engine.dispose()
    return directory


@pytest.fixture
def room(template: Path, tmp_path: Path) -> KeyRoom:
    shutil.copytree(template, tmp_path / "room")
    return KeyRoom(tmp_path / "room", FakeClock(datetime.now(UTC)), pytest.MonkeyPatch())


def release_of(room: KeyRoom) -> Release:
    return build_family_browser(room.fleet).view(LINES).to_approve()


def run(room: KeyRoom, *arguments: str, expect: int = 0) -> Result:
    workspace = str(room.fleet.workspace.root)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(model.app, [*arguments, "-w", workspace])
    assert result.exit_code == expect, result.output
    return result


def test_one_signature_lets_every_listed_member_run_and_nothing_else(room: KeyRoom) -> None:
    register_member(room.fleet, "late")
    listed = release_of(room)
    members = {name: number for name, number in listed.members if name != "line-late"}
    approval = room.approver().approve_release(
        Release.of_family(LINES, members), "good figures", slot="digits"
    )
    assert len(approval.targets) == 4
    assert approval.metadata_version == 2, "targets were signed once for all"
    for path in (A, B, C):
        assert room.device_runs(path).targets["digits"].path == path
    for path in ("line-late/1/camera.tar", "line-up/1/camera.tar"):
        with pytest.raises(Refusal):
            room.device_runs(path)
    assert {target.custom.slot for target in room.repository.approved().values()} == {"digits"}
    assert room.acts().count("model.approved") == 1


def test_a_member_that_changed_since_the_list_was_made_is_not_signed(room: KeyRoom) -> None:
    release = release_of(room)
    sha256 = room.approver().prepare("line-b", 1)[0].sha256
    room.fleet.objects.path(sha256).write_bytes(b"another")
    with pytest.raises(Exception, match=sha256[:12]):
        room.approver().approve_release(release, slot="line")
    assert not room.repository.approved()


def test_who_signs_second_sees_the_list_and_refuses_one_with_more_in_it(room: KeyRoom) -> None:
    room.need_two()
    first = room.approver().approve_release(release_of(room), slot="line")
    assert first.waiting
    assert not room.repository.approved()
    store = build_pending(room.fleet)
    proposal = store.load()
    assert proposal is not None
    stranger = {**proposal.detail["members"], "line-up": 1}
    store.save(replace(proposal, detail={**proposal.detail, "members": stranger}))
    shown: list[TargetsReview] = []
    with pytest.raises(RefusedError, match="lists line-up 1, which is not among the members"):
        cosign(room, shown.append)
    fewer = dict(list(proposal.detail["members"].items())[:2])
    store.save(replace(proposal, detail={**proposal.detail, "members": fewer}))
    with pytest.raises(RefusedError, match="does not hold exactly what it says"):
        cosign(room, shown.append)
    assert not shown
    store.save(proposal)
    cosign(room, shown.append)
    assert len(shown[0].mine) == 4
    assert len(room.repository.approved()) == 4


def cosign(room: KeyRoom, show: Callable[[TargetsReview], None]) -> None:
    with room.as_person("bea"):
        approval = room.approver("bea").cosign_release(APPROVED, release_of(room), show=show)
    assert not approval.waiting


def test_people_approve_look_at_and_withdraw_a_family_by_its_name(
    room: KeyRoom, tmp_path: Path
) -> None:
    listing = tmp_path / "listing.txt"
    said = run(room, "approve", LINES, "--yes", "--listing", str(listing)).stderr
    assert "about to sign 4 members of line-{route} with one signature" in said
    assert "worst 0.9 (line-b)" in said
    assert "4 packages in targets 2" in said
    signed = room.repository.approved()
    assert hash_listing(list(signed.values())) in said
    assert f"{signed[A].sha256}  {A}" in listing.read_text()
    assert "nothing had to be signed" in run(room, "approve", LINES, "--yes").stderr
    table = run(room, "ls").stdout
    assert "4 members" in table
    assert "4 approved" in table
    assert "line-b" not in table
    page = run(room, "show", LINES).stdout
    assert page.rindex("line-b") < page.rindex("line-a") < page.rindex("line-pooled")
    assert "fallback" in page
    rows = json.loads(run(room, "ls", LINES, "--json").stdout)
    assert [row["state"] for row in rows] == ["approved"] * 4
    assert "4 packages withdrawn" in run(room, "reject", LINES, "--reason", "dusk", "--yes").stderr
    assert not room.repository.approved()
    said = run(room, "reject", LINES, "--reason", "dusk", "--yes", expect=2).stderr
    assert "nothing to withdraw" in said


def test_a_rejected_member_is_left_out(room: KeyRoom) -> None:
    room.approver().reject("line-c", 1, "no lights")
    assert dict(release_of(room).members) == {"line-a": 1, "line-b": 1, "line-pooled": 1}


def test_what_is_no_family_is_said(room: KeyRoom) -> None:
    with pytest.raises(NotFoundError, match=r"no family 'bus-\{route\}'; there are: line-\{route"):
        build_family_browser(room.fleet).view("bus-{route}")
    assert "one member by its own name" in run(room, "approve", LINES, "1", expect=2).stderr


def test_new_members_are_compared_with_those_in_service(room: KeyRoom) -> None:
    for route, gain in (("a", 0.5), ("b", 0.01), ("c", -0.6)):
        register_member(room.fleet, route, 2, gain=gain)
    view = build_family_browser(room.fleet).view(LINES)
    assert {name: str(one) for name, one in view.standings.items()} == {
        "line-a": "better",
        "line-b": "within noise",
        "line-c": "worse",
        "line-pooled": "not compared",
    }


def test_a_family_is_written_as_a_page(room: KeyRoom, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "line.html"
    said = run(room, "show", LINES, "--html", str(page)).stderr
    assert "line.html: 4 members" in " ".join(said.split())
    text = page.read_text(encoding="utf-8")
    assert text.index("line-b") < text.index("line-c") < text.index("line-a"), "the worst first"
    refused = run(room, "show", LINES, "--html", str(tmp_path), expect=1).stderr
    assert "cannot be written" in " ".join(refused.split())
    assert "line-up is one model" in run(room, "show", "line-up", "--html", "x", expect=2).stderr
