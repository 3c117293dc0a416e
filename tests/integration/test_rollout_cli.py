"""The commands on a real workspace: signed packages, real database, no processes."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col
from typer.testing import CliRunner, Result

from edge_agent.contract.assignment import Assignment
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import (
    ArtifactRow,
    AssignmentRow,
    DesiredRow,
    DeviceRow,
    SlotRow,
)
from fleet_server.cli import app
from fleet_server.wiring.devices import build_assignment_desk
from fleet_server.wiring.rollouts import build_runner
from fleet_server.wiring.trust import build_approver
from tests.support.clock import FakeClock
from tests.support.trust_fleet import make_fleet, register

REASON = ["--reason", "because the test says so"]
WIDE = ["--max-parallel", "100"]


class Workbench:
    """A workspace with ``m`` 1 approved for cameras, ten cameras and a gateway."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.fleet = make_fleet(root, self.clock)
        register(self.fleet, "m", 1, ["camera"])
        register(self.fleet, "m", 2, ["camera"])
        build_approver(self.fleet, actor="ann").approve("m", 1)
        with write_session(self.fleet.engine) as session:
            for k in range(1, 11):
                self._add(session, f"cam-{k:02d}", "camera", is_online=True)
            self._add(session, "gw-01", "iot-gateway", is_online=True)

    def _add(self, session: Any, name: str, profile: str, *, is_online: bool) -> None:
        now = self.clock.now()
        row = DeviceRow(
            id=name, profile=profile, created_at=now, enrolled_at=now, is_online=is_online
        )
        session.add(row)

    def run(self, *arguments: str, code: int = 0) -> Result:
        command = [arguments[0], arguments[1], *arguments[2:]]
        result = CliRunner().invoke(
            app, [*command, "--workspace", str(self.fleet.workspace.root)], terminal_width=120
        )
        assert result.exit_code == code, f"{command}: {result.output}\n{result.exception!r}"
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def plan(self, *options: str) -> int:
        asked = ("m", "1", "--group", "all", "--stages", "100%", *options)
        number: int = self.json("rollout", "plan", *asked)["id"]
        return number

    def look(self) -> None:
        build_runner(self.fleet).run_once()

    def report(self, *, state: str = "confirmed", code: str = "") -> None:
        """Let every device that was assigned something say how it went."""
        with write_session(self.fleet.engine) as session:
            sha256 = dict(
                session.execute(sa.select(col(ArtifactRow.target), col(ArtifactRow.sha256))).all()
            )
            session.execute(sa.update(AssignmentRow).values(is_stale=False, counter=0))
            session.execute(sa.update(DeviceRow).values(reported='{"assignment_counter": 9}'))
            for row in session.scalars(sa.select(DesiredRow)).all():
                target = row.target if state == "confirmed" else ""
                session.merge(
                    SlotRow(
                        device=row.device,
                        slot=row.slot,
                        state=state,
                        running_target=target,
                        running_sha256=sha256.get(target, ""),
                        confirmed_target=target,
                        confirmed_sha256=sha256.get(target, ""),
                        code=code,
                        rollout=row.rollout,
                        changed_at=self.clock.now(),
                    )
                )


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture(scope="module")
def still_bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """For commands that are refused and leave nothing behind."""
    bench = Workbench(tmp_path_factory.mktemp("still"))
    bench.run("group", "set", "gone", "site=nowhere")
    bench.run("group", "set", "gateways", "--where", "profile=iot-gateway")
    return bench


def test_a_rollout_from_plan_to_completion(bench: Workbench) -> None:
    planned = bench.run(
        "rollout", "plan", "m", "1", "--group", "all", "--stages", "20%,100%", *WIDE
    )
    assert "camera 2" in planned.stdout
    assert "not offered: 1 device, no-artifact (for example gw-01" in planned.stderr
    assert "rollout 1 is a draft; next: edgefleet rollout start 1" in planned.stderr
    assert "is a draft" in bench.run("rollout", "watch", "1", code=1).stderr
    started = bench.run("rollout", "start", "1")
    assert "2 devices in the first stage, 10 in all" in started.stderr
    assert "`edgefleet up` is not running" in started.stderr
    for _ in range(4):
        bench.look()
        bench.report()
    bench.look()
    shown = bench.json("rollout", "show", "1")
    assert shown["state"] == "completed"
    assert shown["sentence"] == "m 1 is confirmed on 10 devices."
    assert [stage["outcomes"] for stage in shown["stages"]] == [{"confirmed": 2}, {"confirmed": 8}]
    assert shown["left_out"][0]["reason"] == "no-artifact"
    assert bench.json("model", "show", "m", "1")["version"] == 1
    watched = bench.run("rollout", "watch", "1")
    assert watched.stdout.startswith("2026-")
    assert "completed: 10 confirmed." in watched.stdout
    text = bench.run("rollout", "show", "1").stdout
    assert "ok  1 20%" in text
    assert "10 devices say they run m 1 now" in text
    explained = bench.run("rollout", "explain", "1").stdout
    assert "judged again from these: the same" in explained
    assert bench.json("rollout", "explain", "1")[-1]["is_same"] is True
    assert "completed" in bench.run("rollout", "ls").stdout
    assert bench.json("rollout", "ls", "--last", "1")[0]["id"] == 1


def test_a_wish_for_shadowing_goes_from_the_plan_into_every_signed_assignment(
    bench: Workbench,
) -> None:
    asked = ["--shadow", "2m", "--shadow-rows", "50", "--shadow-share", "20%", "--shadow-cpu", "3%"]
    number = bench.plan(*WIDE, *asked)
    bench.run("rollout", "start", str(number))
    bench.look()
    desk = build_assignment_desk(bench.fleet)
    while desk.sign_stale():
        continue
    with read_session(bench.fleet.engine) as session:
        envelopes = session.scalars(sa.select(col(AssignmentRow.envelope))).all()
    assert len(envelopes) == 10
    for envelope in envelopes:
        payload = base64.b64decode(json.loads(envelope)["payload"])
        assert Assignment.decode(payload).slots["m"].shadow == ShadowPolicy(
            duration_s=120, rows_min=50, timeout_s=3_600, share=0.2, cpu_share=0.03
        )


def test_a_halt_and_a_return(bench: Workbench) -> None:
    number = bench.plan(*WIDE)
    bench.run("rollout", "start", str(number))
    bench.look()
    bench.report(state="failed", code="selftest-golden")
    bench.look()
    bench.look()
    bench.look()
    shown = bench.json("rollout", "show", str(number))
    assert shown["state"] == "rolled_back"
    assert shown["failures"][0]["code"] == "selftest-golden"
    assert bench.run("rollout", "watch", str(number), code=1).stdout.count("\n") == 1
    listed = bench.json("rollout", "show", str(number), "--devices", "failed", "--limit", "3")
    assert [m["outcome"] for m in listed] == ["failed"] * 3
    assert "selftest-golden" in bench.run("rollout", "show", str(number)).stdout
    with read_session(bench.fleet.engine) as session:
        assert session.scalars(sa.select(DesiredRow)).all() == []


def test_acts_say_their_effect_and_a_dry_run_changes_nothing(bench: Workbench) -> None:
    number = str(bench.plan("--max-parallel", "2"))
    bench.run("rollout", "start", number, "--dry-run")
    assert bench.json("rollout", "show", number)["state"] == "draft"
    bench.run("rollout", "start", number)
    bench.look()
    assert (
        "would be paused: 8 devices not offered"
        in bench.run("rollout", "pause", number, *REASON, "--dry-run").stderr
    )
    assert (
        "is paused: 8 devices not offered for now, 2 in flight finish"
        in bench.run("rollout", "pause", number, *REASON).stderr
    )
    assert "8 devices still to be offered" in bench.run("rollout", "resume", number, *REASON).stderr
    assert (
        "is rolling back: 2 devices return"
        in bench.run("rollout", "rollback", number, *REASON).stderr
    )
    draft = str(bench.plan())
    assert "is aborted" in bench.run("rollout", "abort", draft, *REASON).stderr
    acts = {row["act"] for row in bench.json("audit", "ls")}
    assert {"rollout.plan", "rollout.pause", "rollout.resume", "rollout.roll_back"} <= acts


def test_a_dry_run_of_a_plan_stores_nothing(bench: Workbench) -> None:
    found = bench.json("rollout", "plan", "m", "1", "--group", "all", "--dry-run")
    assert found["id"] is None
    assert sorted(d for stage in found["stages"] for d in stage["devices"]) == [
        f"cam-{k:02d}" for k in range(1, 11)
    ]
    assert bench.json("rollout", "ls") == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rollout", "plan", "m", "2", "--group", "all"], 1, "m 2 is registered, not approved"),
        (["rollout", "plan", "m", "9", "--group", "all"], 1, "no version 9"),
        (["rollout", "plan", "m", "1", "--group", "nope"], 1, "no group 'nope'"),
        (["rollout", "plan", "m", "1", "--group", "gone"], 1, "group gone has no devices"),
        (["rollout", "plan", "m", "1", "--group", "gateways"], 1, "nobody in group gateways"),
        (["rollout", "plan", "m", "1", "--group", "all", "--stages", "5%"], 2, "in no stage"),
        (["rollout", "plan", "m", "1", "--group", "all", "--goal", "x"], 2, "--goal 'x'"),
        (["rollout", "plan", "m", "1", "--group", "all", "--soak", "x"], 2, "--soak 'x'"),
        (["rollout", "plan", "m", "1", "--group", "all", "--slot", "other"], 1, "slot: needs m"),
        (["rollout", "start", "9"], 1, "no rollout 9; there is none yet"),
        (["rollout", "show", "9"], 1, "no rollout 9"),
        (["rollout", "pause", "9", "--reason", "short"], 2, "8 to 400"),
        (["group", "set", "x", "site="], 2, "expected a value"),
        (["group", "set", "x"], 2, "give the query once"),
        (["group", "set", "all", "site=a"], 2, "group name 'all'"),
        (["group", "show", "nope"], 1, "there are: gateways, gone"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    still_bench: Workbench, arguments: Sequence[str], code: int, words: str
) -> None:
    result = still_bench.run(*arguments, code=code)
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_groups_are_listed_and_shown(bench: Workbench) -> None:
    said = bench.run("group", "set", "cameras", "profile=camera and id!=cam-01")
    assert "group cameras means 9 devices now" in said.stderr
    assert bench.json("group", "ls") == [
        {"name": "all", "query": "all", "count": 11},
        {"name": "cameras", "query": "profile=camera and id!=cam-01", "count": 9},
    ]
    assert bench.json("group", "show", "cameras")["devices"][0] == "cam-02"
    assert "cam-10" in bench.run("group", "show", "cameras").stdout


def test_a_workspace_nobody_runs_ends_the_watching(bench: Workbench) -> None:
    number = str(bench.plan())
    bench.run("rollout", "start", number)
    result = bench.run("rollout", "watch", number, "--patience", "0s", code=3)
    assert "edgefleet up is not running" in result.stderr
