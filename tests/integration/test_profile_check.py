"""``edgefleet profile`` and ``device show`` on a workspace: what fits, why not, how fast."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlmodel import col
from typer.testing import CliRunner, Result

from device_profiles.calibration import CALL, Calibration
from device_profiles.catalog import load_profile
from edge_agent.contract.fields import dump_object
from edge_agent.contract.messages import Reported, Running, SlotReport, SlotState
from edge_agent.contract.package import EVIDENCE, REFERENCE, pack_members, unpack_members
from edge_agent.contract.windows import Window
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference, reference_hash
from edge_agent.statistics.varint import encode_counters
from fleet_server.adapters.database.engine import write_session
from fleet_server.adapters.database.tables import DeviceRow, SlotRow
from fleet_server.adapters.system_clock import SystemClock
from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.bootstrap import Fleet
from fleet_server.cli import app
from fleet_server.ports.telemetry import DeviceWindow, WindowBatch
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_device_desk
from tests.support.clock import FakeClock
from tests.support.serving import build_classifier
from tests.support.trust_fleet import make_fleet, register

HERE = Calibration(onnxruntime="1.31.1", threads=1, ms={CALL: 0.1, "matmul_fp32": 1.0})
SLOW = Calibration(onnxruntime="1.31.1", threads=1, ms={CALL: 1.0, "matmul_fp32": 10.0})
GRAPH = {"ir": 8, "opset": 15, "opset_ml": 0, "operators": {"Gemm": 1}, "bytes": 500}


def package(**needs: Any) -> bytes:
    """Build a package with a real drift reference and evidence as the builder writes it."""
    evidence = {
        "precision": "fp32",
        "graph": GRAPH,
        "needs": {"operators": {"Gemm": 13}, **needs},
        "measured_with": {"calibration": HERE.to_json()},
    }
    members = unpack_members(build_classifier().blob)
    return pack_members({**members, EVIDENCE: dump_object(evidence)})


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = make_fleet(tmp_path, FakeClock())
    blobs = {
        "camera": package(),
        "raspberry-pi-3": package(operators={"Attention": 23}),
    }
    register(fleet, "digits", 1, list(blobs), packages=blobs)
    return fleet


def add_device(fleet: Fleet, device_id: str, profile: str, **capabilities: Any) -> int:
    build_device_desk(fleet).add(
        DeviceSpec(id=device_id, profile=profile, labels={}), ttl=timedelta(hours=1)
    )
    target = f"digits/1/{profile}.tar"
    running = Running(target=target, sha256="0" * 64)
    report = Reported(
        boot=1,
        sequence=1,
        at_ms=0,
        agent="1",
        slots={"default": SlotReport(state=SlotState.CONFIRMED, running=running)},
        capabilities={"arch": "x86_64", "onnxruntime": "1.31.1", **capabilities},
    )
    with write_session(fleet.engine) as session:
        row = session.scalars(select(DeviceRow).where(col(DeviceRow.id) == device_id)).one()
        row.enrolled_at = fleet.clock.now()
        row.reported = report.encode().decode()
        session.add(row)
        session.add(
            SlotRow(
                device=row.number or 0,
                slot="default",
                state="confirmed",
                running_target=target,
                changed_at=fleet.clock.now(),
            )
        )
        return int(row.number or 0)


def edgefleet(fleet: Fleet | None, *words: str) -> Result:
    where = ["-w", str(fleet.workspace.root)] if fleet is not None else []
    return CliRunner().invoke(app, [*words, *where], env={"COLUMNS": "200"})


def report_latencies(fleet: Fleet, device: int, bin_: int, requests: int) -> None:
    """Put one window of the camera's package into the store."""
    sha256 = fleet.objects.put(package())
    encoded = unpack_members(package())[REFERENCE]
    layout = CounterLayout.of(Reference.decode(encoded))
    counters = np.zeros(layout.size, np.int64)
    counters[layout.latency.start + bin_] = requests
    now_at = SystemClock().now()  # the command looks at the true clock
    at_ms = int(now_at.timestamp() * 1_000) - 60_000
    window = Window(
        stream=0,
        sequence=0,
        t0_ms=at_ms,
        t1_ms=at_ms + 1_000,
        reference=reference_hash(encoded),
        artifact=bytes.fromhex(sha256)[:8],
        rows=requests,
        counters=encode_counters(counters),
    )
    store = SqliteWindowStore(fleet.workspace.telemetry_db, retention=timedelta(days=7))
    store.append(WindowBatch(received_at=now_at, windows=[DeviceWindow(device, 1, window)]))
    store.close()


def test_every_profile_says_what_fits_and_why_not(fleet: Fleet) -> None:
    done = edgefleet(fleet, "profile", "check", "digits", "--json")
    assert done.exit_code == 0, done.output
    fits = {one["profile"]: one for one in json.loads(done.stdout)["profiles"]}
    assert fits["camera"]["fits"] is True
    assert fits["raspberry-pi-3"]["fits"] is False
    (misfit,) = fits["raspberry-pi-3"]["misfits"]
    assert misfit["field"] == "operators"
    assert misfit["need"] == "Attention 23"
    assert fits["raspberry-pi-5"]["target"] is None
    assert fits["raspberry-pi-5"]["fits_package_of"] == ["camera"]
    shown = edgefleet(fleet, "profile", "check", "digits", "1")
    assert "the package of camera would fit" in " ".join(shown.stdout.split())


def test_devices_are_named_with_what_they_lack(fleet: Fleet) -> None:
    add_device(fleet, "cam-1", "camera")
    add_device(fleet, "cam-2", "camera", ram_bytes=1_000_000, libc="musl 1.2")
    done = edgefleet(fleet, "profile", "check", "digits")
    assert done.exit_code == 1, done.output
    words = " ".join(done.stdout.split())
    assert "1 of 2" in words
    assert "cam-2" in words
    assert "libc_min: needs glibc 2.28 or newer, has musl 1.2" in words
    found = json.loads(edgefleet(fleet, "profile", "check", "digits", "--json").stdout)
    by_id = {one["device"]: one for one in found["devices"]}
    assert by_id["cam-1"]["fits"] is True
    assert [m["field"] for m in by_id["cam-2"]["misfits"]] == ["libc_min", "rss_bytes_max"]


def test_latency_is_an_estimate_until_devices_report(fleet: Fleet) -> None:
    number = add_device(fleet, "cam-1", "camera", calibration=SLOW.to_json())
    done = edgefleet(fleet, "profile", "check", "digits")
    assert "~10 ms (8 to 12.5)" in done.stdout
    assert "~ is an estimate" in done.stderr
    assert "~10 ms (8 to 12.5)" in edgefleet(fleet, "device", "show", "cam-1").stdout
    report_latencies(fleet, number, 4, 200)
    found = json.loads(edgefleet(fleet, "profile", "check", "digits", "--json").stdout)
    (device,) = found["devices"]
    assert device["latency"]["source"] == "reported"
    assert device["latency"]["requests"] == 200
    assert device["latency"]["low_ms"] < device["latency"]["high_ms"]
    shown = json.loads(edgefleet(fleet, "device", "show", "cam-1", "--json").stdout)
    assert shown["latency"]["default"]["source"] == "reported"


def test_without_calibration_the_figure_is_said_to_be_of_another_machine(fleet: Fleet) -> None:
    done = edgefleet(fleet, "profile", "check", "digits")
    assert "1 ms (here)" in done.stdout
    assert "edge-agent doctor --calibrate" in done.stderr


def test_a_model_that_does_not_exist_is_named(fleet: Fleet) -> None:
    done = edgefleet(fleet, "profile", "check", "digit")
    assert done.exit_code == 1
    assert "did you mean 'digits'" in done.stderr


def test_a_file_dropped_in_is_a_profile_and_a_wrong_one_is_named(fleet: Fleet) -> None:
    folder = fleet.workspace.root / "profiles"
    folder.mkdir(exist_ok=True)
    from device_profiles import catalog

    camera = (Path(catalog.__file__).parent / "data" / "camera.toml").read_text()
    (folder / "door.toml").write_text(camera.replace('id = "camera"', 'id = "door"'))
    done = edgefleet(fleet, "profile", "ls")
    assert (done.exit_code, "door" in done.stdout) == (0, True)
    wrong = camera.replace('id = "camera"', 'id = "gate"').replace("cores = 2", "cores = 0")
    (folder / "gate.toml").write_text(wrong)
    done = edgefleet(fleet, "profile", "ls")
    assert done.exit_code == 2
    assert "gate.toml line 8: cores: must be an integer from 1" in " ".join(done.stderr.split())
    assert "door" in done.stdout
    assert edgefleet(fleet, "profile", "show", "gate").exit_code == 2
    checked = json.loads(edgefleet(fleet, "profile", "check", "digits", "--json").stdout)
    assert "door" in {one["profile"] for one in checked["profiles"]}


def test_show_gives_every_key_as_the_file_has_it(fleet: Fleet) -> None:
    said = json.loads(edgefleet(fleet, "profile", "show", "camera", "--json").stdout)
    assert said == json.loads(json.dumps(load_profile("camera").to_table()))
    assert "telemetry.window_s" in edgefleet(fleet, "profile", "show", "camera").stdout


@pytest.mark.parametrize("verb", ["ls", "show", "check"])
def test_every_help_has_an_example(verb: str) -> None:
    shown = edgefleet(None, "profile", verb, "--help").stdout
    assert f"Example: edgefleet profile {verb}" in " ".join(shown.split())
