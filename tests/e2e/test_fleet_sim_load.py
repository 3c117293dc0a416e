"""fleet-sim against the real gateway and broker: everyone connects, updates, counts, drifts."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select
from typer.testing import CliRunner

from edge_agent.contract.package import EVIDENCE
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import DeviceRow
from simulators.cli import app
from simulators.faults import Faults
from tests.support.agent_fleet import PROFILE, AgentLab
from tests.support.serving import build_classifier

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("fleet-sim")]
DEVICES = 30


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path_factory.mktemp("sim"))
    yield lab
    lab.stop()


def start(lab: AgentLab, *options: str) -> subprocess.Popen[str]:
    program = "from simulators.cli import main; main()"
    where = ("--workspace", str(lab.workspace.root), "--profiles", PROFILE, "--json")
    return subprocess.Popen(
        [sys.executable, "-c", program, "load", *where, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(simulation: subprocess.Popen[str]) -> dict[str, Any]:
    simulation.send_signal(signal.SIGTERM)
    output, words = simulation.communicate(timeout=30)
    assert simulation.returncode == 0, words
    assert "Traceback" not in words, words
    figures: dict[str, Any] = json.loads(output)
    return figures


def package(seed: int) -> bytes:
    evidence = {"precision": "fp32", "graph": {"ir": 8, "opset": 13, "opset_ml": 0}}
    encoded = json.dumps(evidence).encode()
    return build_classifier(seed=seed, edit=lambda m: {**m, EVIDENCE: encoded}).blob


def test_devices_connect_update_fail_and_count_as_real_ones_do(
    lab: AgentLab, tmp_path: Path
) -> None:
    names = [f"sim-{n + 1:04d}" for n in range(DEVICES)]
    rows = tmp_path / "rows.csv"
    built = build_classifier(seed=1)
    lines = [",".join(map(str, row)) for row in built.rows[:200].tolist()]
    rows.write_text("\n".join([",".join(built.schema.columns), *lines]))
    simulation = start(
        lab,
        *("--devices", str(DEVICES), "--rows", str(rows), "--window-s", "1", "--seed", "5"),
        *("--fail-rate", "0.3", "--disconnect-rate", "300", "--drift", "f0:+9", "--drift-at", "1"),
    )
    try:
        lab.wait(lambda: simulation.poll() is None and is_known(lab, names), timeout_s=60)
        blob = package(1)
        target = lab.release("plant", 1, blob)
        for name in names:
            lab.wish(name, target)
        ended = ("confirmed", "failed")
        lab.wait(lambda: all(state_of(lab, name) in ended for name in names), timeout_s=60)
        lab.wait(lambda: len(lab.telemetry_rows()) >= DEVICES, timeout_s=30)
    finally:
        figures = finish(simulation)
    sha256 = lab.slot_rows(names[0])["plant"].running_sha256 or lab.fleet.objects.put(blob)
    faults = Faults(seed=5, fail_rate=0.3)
    broken = {name for name in names if faults.breaks(name, sha256)}
    assert broken
    assert {name for name in names if state_of(lab, name) == "failed"} == broken
    assert {lab.slot_rows(name)["plant"].code for name in broken} == {"selftest-crash"}
    assert figures["running"] == {"plant/1": DEVICES - len(broken)}
    assert figures["errors"] == figures["windows_dropped"] == 0
    assert figures["is_drifted"]
    assert figures["connects"] > DEVICES, "nobody was cut off"
    kept = lab.telemetry_rows()
    assert len(kept) == len(set(kept))
    assert figures["windows_waiting"] <= DEVICES
    lab.wait(lambda: not any(lab.device_row(name).is_online for name in names))


def is_known(lab: AgentLab, names: list[str]) -> bool:
    """Every device is in the database and has reported at least once."""
    with read_session(lab.fleet.engine) as session:
        reported = session.exec(select(DeviceRow.id).where(DeviceRow.reported != "")).all()
    return set(names) <= set(reported)


def state_of(lab: AgentLab, name: str) -> str:
    row = lab.slot_rows(name).get("plant")
    return row.state if row else ""


def test_a_second_run_is_the_same_fleet(lab: AgentLab) -> None:
    identities = lab.workspace.root / "simulated" / "identities.json"
    seen = []
    for devices in (4, 3):
        simulation = start(lab, "--devices", str(devices), "--duration", "3")
        output, words = simulation.communicate(timeout=40)
        assert simulation.returncode == 0, words
        assert json.loads(output)["connected"] == devices
        seen.append(json.loads(identities.read_text()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--devices", "0"), 2, "--devices"),
        (("--devices", "1", "--drift", "f0"), 2, "must be FEATURE"),
        (("--devices", "1", "--drift", "f0:+1"), 2, "--drift-at or --drift-when"),
        (("--devices", "1", "--rows", "missing.csv"), 1, "does not exist"),
        (("--devices", "1", "--profiles", "camara"), 1, "camera"),
        (("--devices", "1", "--prefix", "Sim"), 2, "--prefix"),
        (("--devices", "1", "--label", "x"), 2, "KEY=VALUE"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_anything_connects(
    lab: AgentLab, options: tuple[str, ...], code: int, words: str
) -> None:
    result = CliRunner().invoke(app, ["load", "-w", str(lab.workspace.root), *options])
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_a_server_that_is_down_is_unreachable(lab: AgentLab) -> None:
    lab.broker.stop()
    try:
        result = CliRunner().invoke(app, ["load", "-w", str(lab.workspace.root), "--devices", "1"])
    finally:
        lab.broker.start()
    assert result.exit_code == 3
    assert "edgefleet up" in result.stderr
