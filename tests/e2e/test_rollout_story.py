"""Rollouts with real server, broker and agents: kills, an offline device, a release that fails."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet_server.cli.in_process import read_in_process
from fleet_server.demo.field import Digits, invert, load_digits, write_spec
from fleet_server.demo.processes import FleetProcesses
from fleet_server.demo.traffic import Application
from fleet_server.free_ports import find_free_ports
from tests.support.warm_commands import WarmCommands, WarmFleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
CAMERA_ONLY = """[profiles]
camera = { label_flips_max = 0.02, metric_drop_max = 0.01 }
"""


@pytest.fixture
def fleet(tmp_path: Path, warm_commands: WarmCommands) -> Iterator[FleetProcesses]:
    fleet = WarmFleet(tmp_path, warm_commands, read=read_in_process)
    broker, server, api = (str(p) for p in find_free_ports(3))
    fleet.run(
        "init", str(fleet.workspace), "--broker-port", broker, "--server-port", server,
        "--api-port", api,
    )  # fmt: skip
    yield fleet
    fleet.stop_all()


def train(fleet: FleetProcesses, name: str, digits: Digits, *, is_inverted: bool = False) -> None:
    pixels = invert(digits.train_pixels) if is_inverted else digits.train_pixels
    spec = write_spec(fleet.root / "data", name, pixels, digits.train_digits)
    text = spec.read_text()
    text = text.replace("[256, 128], max_iter = 200", "[32], max_iter = 300")
    spec.write_text(text[: text.index("[profiles]")] + CAMERA_ONLY)
    fleet.run("train", str(spec))


def application(device: str, port: int, digits: Digits) -> Application:
    images = [
        (row, str(digit))
        for row, digit in zip(
            digits.field_pixels.tolist(), digits.field_digits.tolist(), strict=True
        )
    ]
    return Application(device, port, "digits", images, interval_s=0.06)


def plan(fleet: FleetProcesses, version: int) -> str:
    planned = fleet.json(
        "rollout", "plan", "digits", str(version), "--group", "cameras", "--stages", "1,rest",
        "--probation", "2s", "--probation-rows", "60", "--on-inconclusive", "advance",
    )  # fmt: skip
    return str(planned["id"])


def running(fleet: FleetProcesses) -> dict[str, str]:
    devices: list[dict[str, Any]] = fleet.json("device", "ls")
    return {d["id"]: d["slots"].get("digits", {}).get("running", "") for d in devices}


def state(fleet: FleetProcesses, rollout: str) -> str:
    return str(fleet.json("rollout", "show", rollout)["state"])


def test_a_fleet_lives_through_kills_an_offline_device_and_a_bad_release(
    fleet: FleetProcesses,
) -> None:
    digits = load_digits()
    fleet.start_server()
    train(fleet, "v1", digits)
    refused = fleet.run(
        "rollout", "plan", "digits", "1", "--group", "cameras", "--stages", "100%", expect=None
    )
    assert refused.returncode == 1  # no such group yet, and nobody approved version 1
    fleet.run("group", "set", "cameras", "--where", "profile=camera")
    empty = fleet.run(
        "rollout", "plan", "digits", "1", "--group", "cameras", "--stages", "100%", expect=1
    )
    assert "cameras" in empty.stderr or "approved" in empty.stderr

    ports = find_free_ports(3)
    names = [f"cam-{n}" for n in (1, 2, 3)]
    options = ("--http-port", "--window-s", "2")
    agents = {
        name: fleet.start_agent(name, "camera", options[0], str(port), *options[1:])
        for name, port in zip(names, ports, strict=True)
    }
    applications = [application(n, p, digits) for n, p in zip(names, ports, strict=True)]
    for app in applications:
        app.start()
    fleet.wait(
        lambda: sum(d["state"] == "online" for d in fleet.json("device", "ls")) == 3,
        what="three cameras online",
    )
    unapproved = fleet.run(
        "rollout", "plan", "digits", "1", "--group", "cameras", "--stages", "100%", expect=1
    )
    assert "approve" in unapproved.stderr
    fleet.run("model", "approve", "digits", "1", "--yes")

    # cam-3 goes away before the offer: it blocks nobody and catches up when it is back.
    agents["cam-3"].stop()
    fleet.wait(
        lambda: {d["id"]: d["state"] for d in fleet.json("device", "ls")}["cam-3"] == "offline",
        what="cam-3 to be offline",
    )
    first = plan(fleet, 1)
    fleet.run("rollout", "start", first)
    up = json.loads((fleet.workspace / "server" / "up.json").read_text())
    os.kill(up["children"]["controller"], signal.SIGKILL)
    fleet.wait(lambda: state(fleet, first) == "completed", what="version 1", timeout_s=90)
    assert running(fleet) == {
        "cam-1": "digits/1/camera.tar",
        "cam-2": "digits/1/camera.tar",
        "cam-3": "",
    }
    os.kill(up["children"]["gateway"], signal.SIGKILL)
    agents["cam-3"].start()
    fleet.wait(
        lambda: running(fleet)["cam-3"] == "digits/1/camera.tar",
        what="cam-3 to catch up",
        timeout_s=90,
    )

    # Version 2 reads ink as paper: its own held-out rows like it, the field does not.
    train(fleet, "v2", digits, is_inverted=True)
    fleet.run("model", "approve", "digits", "2", "--yes")
    second = plan(fleet, 2)
    fleet.run("rollout", "start", second)
    watched = fleet.run("rollout", "watch", second, expect=1)
    assert "failed" in watched.stdout + watched.stderr
    fleet.wait(lambda: state(fleet, second) == "rolled_back", what="the way back", timeout_s=60)
    assert set(running(fleet).values()) == {"digits/1/camera.tar"}
    shown = fleet.json("rollout", "show", second)
    reached = [s for s in shown["stages"] if set(s["outcomes"]) - {"pending"}]
    assert len(reached) == 1
    assert shown["failures"][0]["code"] == "probation-output"

    for app in applications:
        app.stop()
    failed = {a.device_id: a.answers().failures for a in applications if a.answers().failed}
    failed.pop("cam-3", None)  # its agent was stopped on purpose
    assert failed == {}
    fleet.run("audit", "verify")


def test_what_does_not_exist_is_refused_with_the_next_step(fleet: FleetProcesses) -> None:
    for command, says in (
        (("model", "show", "digits", "1"), "edgefleet train"),
        (("model", "approve", "digits", "9", "--yes"), "digits"),
        (("rollout", "show", "4"), "4"),
        (("rollout", "start", "4"), "4"),
        (("device", "show", "cam-9"), "cam-9"),
        (("device", "add", "cam-9", "--profile", "kamera"), "camera"),
        (("drift", "show", "digits"), "digits"),
        (("train", str(fleet.root / "nowhere.toml")), "nowhere.toml"),
    ):
        code, said = read_in_process(list(command), fleet.environment)
        assert code in (1, 2), command
        assert says in said, (command, said)
    join = fleet.run(
        "join", "ef1:broken", "--dir", str(fleet.root / "d"), program="edge-agent", expect=None
    )
    assert join.returncode in (1, 2)
    assert not (fleet.root / "d").exists() or not any((fleet.root / "d").iterdir())
