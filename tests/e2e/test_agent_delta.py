"""Real agents, gateway and broker: packages travel compressed, then as what changed."""

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.messages import Reported
from edge_agent.contract.package import EVIDENCE
from fleet_server.run_state import read_heartbeat
from fleet_server.wiring.devices import build_device_reader
from fleet_server.wiring.encodings import list_encodings
from fleet_server.wiring.training import build_browser
from tests.support.agent_fleet import AgentLab
from tests.support.serving import build_classifier

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("agent-delta")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentLab]:
    lab = AgentLab(tmp_path_factory.mktemp("delta"))
    yield lab
    lab.stop()


def package(seed: int, *, filler: int = 300_000, note: str = "") -> bytes:
    """A sound package; most of it is the same whatever the seed, and hardly compresses."""
    body = base64.b64encode(random.Random(filler).randbytes(filler)).decode()
    evidence = {
        "precision": "fp32",
        "graph": {"ir": 8, "opset": 13, "opset_ml": 0},
        "filler": body,
        "note": note,
    }
    return build_classifier(
        seed=seed, edit=lambda m: {**m, EVIDENCE: json.dumps(evidence).encode()}
    ).blob


def transfer_of(lab: AgentLab, device_id: str) -> dict[str, Any]:
    report = Reported.decode(lab.device_row(device_id).reported.encode())
    said: dict[str, Any] = report.slots["plant"].extra["transfer"]
    return said


def test_a_device_gets_what_changed_and_says_so(lab: AgentLab) -> None:
    directory = lab.join("dev-delta")
    lab.run_agent(directory)
    one, two = package(1), package(2)
    first = lab.release("plant", 1, one)
    lab.wish("dev-delta", first)
    lab.wait_for_slot("dev-delta", "confirmed", first)
    lab.wait(lambda: transfer_of(lab, "dev-delta")["encoding"] == "zstd")
    said = transfer_of(lab, "dev-delta")
    assert said["package_bytes"] == len(one)
    assert said["received_bytes"] < 0.85 * len(one)
    second = lab.release("plant", 2, two)
    lab.wish("dev-delta", second)
    lab.wait_for_slot("dev-delta", "confirmed", second)
    lab.wait(lambda: transfer_of(lab, "dev-delta")["encoding"] == "zstd-delta")
    said = transfer_of(lab, "dev-delta")
    assert said["received_bytes"] < 0.05 * len(two)
    assert "problem" not in said
    lab.wait(lambda: read_heartbeat(lab.workspace.server_dir, "gateway")["encodings_made"] >= 3)
    view = build_device_reader(lab.fleet).show("dev-delta")
    assert view.device.transfers["plant"] == said
    version = build_browser(lab.fleet).get_version("plant", 2)
    listed = {e["base"]: (e["encoding"], e["bytes"]) for e in list_encodings(lab.fleet, version)}
    assert set(listed) == {"", first}
    assert listed[first][0] == "zstd-delta"
    assert listed[first][1] < listed[""][1] < len(two)


def test_a_gateway_killed_while_it_encodes_makes_it_again(lab: AgentLab) -> None:
    directory = lab.join("dev-killed")
    lab.run_agent(directory)
    scratch = lab.workspace.encodings_dir / "scratch"
    target = lab.release("plant", 3, package(3, filler=6_000_000))
    lab.wish("dev-killed", target)
    lab.wait(lambda: bool(running_encoders(lab.workspace.root)), timeout_s=30)
    lab.kill_gateway()
    lab.start_gateway()
    lab.wait_for_slot("dev-killed", "confirmed", target, timeout_s=120)
    assert transfer_of(lab, "dev-killed")["encoding"] == "zstd"
    lab.wait(lambda: not list(scratch.iterdir()))


def running_encoders(root: Path) -> list[int]:
    """Find children that encode packages of this workspace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"fleet_server.workers.encode_package" in words and str(root).encode() in words:
            found.append(int(path.parent.name))
    return found
