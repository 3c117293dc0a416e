"""``edgefleet keys`` and ``model approve`` as two people meet them, one command after the other."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleet_server.cli import app
from fleet_server.core.checkup import Finding, Grade
from fleet_server.wiring.checkup_keys import check_metadata, check_operator_keys, check_pending
from tests.support.clock import FakeClock
from tests.support.trust_fleet import make_fleet, register


class Desk:
    """One workspace; commands of ann, and of bea with a folder of her own."""

    def __init__(self, directory: Path) -> None:
        self.bea = directory / "bea"
        self.clock = FakeClock(datetime.now(UTC))
        self.fleet = make_fleet(directory / "fleet", self.clock)
        self.root = self.fleet.workspace.root
        for version in (1, 2):
            register(self.fleet, "digits", version, ["camera"])

    def run(self, *arguments: str, expect: int = 0, bea: bool = False) -> Result:
        env: Mapping[str, str] = {
            "COLUMNS": "300",
            "EDGEFLEET_WORKSPACE": str(self.root),
            "EDGEFLEET_OPERATOR": str(self.bea) if bea else "",
        }
        result = CliRunner(env=env).invoke(app, arguments)
        assert result.exit_code == expect, result.output
        return result


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.fleet.engine.dispose()


def words(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_a_team_of_two_is_made_approves_and_is_taken_apart(desk: Desk) -> None:
    shown = json.loads(desk.run("keys", "show", "--json").stdout)
    assert [root["version"] for root in shown["roots"]] == [1]
    assert shown["pending"] is None
    first = desk.run("model", "approve", "digits", "1")
    assert "has not seen targets before: 0 packages" in words(first)
    assert "+ digits/1/camera.tar" in words(first)
    assert "when withdrawn: stop" in words(first)

    made = desk.run("keys", "create-approver", str(desk.bea), bea=True)
    public = made.stdout.strip()
    assert public.endswith("approver.pub")
    assert "PRIVATE" not in Path(public).read_text()
    added = desk.run("keys", "add-approver", public)
    assert "targets: + key" in words(added)
    assert "root: version 2" in words(added)
    assert "in force: keys.add targets" in words(added)
    desk.run("keys", "pin", shown["root_sha256"], bea=True)

    assert "waiting for 1 of" in words(desk.run("keys", "threshold", "2"))
    assert "targets: 1 -> 2 must sign" in words(desk.run("keys", "cosign", bea=True))
    assert "2 of 2" in desk.run("keys", "ls").stdout

    waiting = desk.run("model", "approve", "digits", "2", "--on-withdrawn", "keep")
    assert "edgefleet model approve digits 2 --cosign" in words(waiting)
    listed = json.loads(desk.run("model", "approve", "--pending", "--json").stdout)
    assert [one["subject"] for one in listed] == ["digits/2"]
    assert "model.approved digits/2" in words(desk.run("keys", "show"))
    assert "forget-pending" in words(desk.run("keys", "rotate", "timestamp", expect=1))
    signed = desk.run("model", "approve", "digits", "2", "--cosign", bea=True)
    assert "approved: digits 2, 1 packages" in words(signed)
    assert "when withdrawn: keep" in words(signed)

    assert "waiting" in words(
        desk.run("model", "reject", "digits", "1", "--reason", "confuses 3 and 8")
    )
    rejected = desk.run("model", "reject", "digits", "1", "--cosign", bea=True)
    assert "- digits/1/camera.tar" in words(rejected)

    assert "locks everybody out" in words(desk.run("keys", "threshold", "3", expect=1))
    (bea,) = set(json.loads(desk.run("keys", "show", "targets", "--json").stdout)["roles"][0]
                 ["keyids"]) - set(shown["roles"][1]["keyids"])  # fmt: skip
    assert "lower the threshold" in words(desk.run("keys", "remove-approver", bea, expect=1))
    desk.run("keys", "threshold", "1")
    assert "targets: - key" in words(desk.run("keys", "remove-approver", bea[:10]))
    assert "nothing waits" in words(desk.run("model", "approve", "--pending"))
    assert desk.run("audit", "verify").exit_code == 0
    acts = desk.run("audit", "ls").stdout
    for act in ("keys.add", "keys.threshold", "keys.remove", "keys.propose", "model.proposed"):
        assert act in acts


@pytest.mark.parametrize("role", ["root", "approver", "snapshot", "timestamp", "director"])
def test_each_key_is_rotated_by_one_command(desk: Desk, role: str) -> None:
    name = "targets" if role == "approver" else role
    before = json.loads(desk.run("keys", "show", name, "--json").stdout)["roles"][0]
    rotated = desk.run("keys", "rotate", role)
    after = json.loads(desk.run("keys", "show", name, "--json").stdout)["roles"][0]
    assert after["keyids"] != before["keyids"]
    assert f"in force: keys.rotate {name}" in words(rotated)
    assert bool(after["retired_files"]) == (role in ("root", "approver"))
    assert ("destroy it" in words(rotated)) == bool(after["retired_files"])


def test_wrong_words_are_one_sentence(desk: Desk) -> None:
    assert "no role 'targetz'; there are root" in words(
        desk.run("keys", "show", "targetz", expect=2)
    )
    assert "no change of keys waits" in words(desk.run("keys", "cosign", expect=1))
    assert "say what" in words(desk.run("model", "approve", expect=2))
    assert "no key" in words(desk.run("keys", "add-approver", "nowhere.pub", expect=1))


# doctor -------------------------------------------------------------------------------------------


def grades(findings: Iterator[Finding]) -> list[tuple[Grade, str]]:
    return [(finding.grade, finding.what.split()[0]) for finding in findings]


def test_doctor_warns_of_peoples_signatures_long_before_they_run_out(desk: Desk) -> None:
    now = desk.clock.now()
    fresh = {what: grade for grade, what in grades(check_metadata(desk.fleet, now))}
    assert set(fresh.values()) == {Grade.GOOD}
    for days, root, targets in ((160, Grade.GOOD, Grade.WARNING), (680, Grade.WARNING, Grade.BAD)):
        later = now + timedelta(days=days)
        found = {what: grade for grade, what in grades(check_metadata(desk.fleet, later))}
        assert (found["root"], found["targets"]) == (root, targets)


def test_doctor_says_what_has_waited_longer_than_a_day(desk: Desk) -> None:
    now = desk.clock.now()
    assert list(check_pending(desk.fleet, now)) == []
    desk.run("keys", "create-approver", str(desk.root.parent / "cal"))
    desk.run("keys", "add-approver", str(desk.root.parent / "cal" / "approver.pub"))
    desk.run("keys", "threshold", "2")
    (finding,) = check_pending(desk.fleet, now + timedelta(days=2))
    assert finding.grade is Grade.WARNING
    assert finding.what.startswith("keys.threshold targets waits")
    desk.run("keys", "forget-pending", "--reason", "a test")


def test_doctor_judges_keys_by_who_owns_the_server(desk: Desk) -> None:
    assert check_operator_keys(desk.fleet).grade is Grade.WARNING
    assert "approver.pem" in check_operator_keys(desk.fleet).what
    if os.geteuid() == 0:  # only root can give the folder to somebody else
        os.chown(desk.fleet.workspace.server_dir, 65_534, 65_534)
        assert check_operator_keys(desk.fleet).grade is Grade.GOOD
        os.chown(desk.fleet.workspace.server_dir, 0, 0)
