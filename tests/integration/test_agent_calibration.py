"""Measuring the reference graphs on a device: in a child, remembered, told; and what goes wrong."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles.calibration import GRAPHS, Calibration
from device_profiles.narrowing import find_capabilities
from edge_agent.adapters.calibration_file import (
    FILE,
    CalibrationError,
    load_calibration,
    measure_device,
    save_calibration,
)
from edge_agent.adapters.capability_probe import find_machine_facts
from edge_agent.cli import main
from edge_agent.core.checkup import judge_capabilities, judge_speed


@pytest.fixture(scope="module")
def measured() -> Calibration:
    return measure_device(1)


def test_every_reference_graph_is_measured_in_a_child(measured: Calibration) -> None:
    assert set(measured.ms) == set(GRAPHS)
    assert measured.threads == 1
    assert Calibration.from_report(measured.to_json()) is not None


def test_what_was_measured_goes_with_the_capabilities(
    tmp_path: Path, measured: Calibration
) -> None:
    assert "calibration" not in find_machine_facts(tmp_path)
    save_calibration(tmp_path, measured)
    said = find_machine_facts(tmp_path)["calibration"]
    assert Calibration.from_report(said) == load_calibration(tmp_path)
    assert len(json.dumps(said)) < 1_024


def test_figures_of_another_release_are_not_told(tmp_path: Path, measured: Calibration) -> None:
    save_calibration(tmp_path, replace(measured, onnxruntime="1.0.0"))
    assert load_calibration(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"suite": 1}', b"x" * 20_000, b'{"suite": 1, "ms": {"call": 1}}'],
)
def test_a_damaged_file_counts_as_not_measured(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert load_calibration(tmp_path) is None
    assert "calibration" not in find_machine_facts(tmp_path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os.kill(os.getpid(), 4)", "died of SIGILL"),
        ("raise SystemExit('no runtime')", "status 1: no runtime"),
        ("print('hello')", "nothing sensible"),
        ("print('{\"suite\": 1}' + ' ' * 20000)", "nothing sensible"),
    ],
)
def test_a_measurement_that_goes_wrong_says_how(body: str, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        measure_device(1, child=(sys.executable, "-c", body))


def test_doctor_measures_remembers_and_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--dir", str(tmp_path), "--json", "--calibrate"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = find_capabilities(said)
    assert found is not None
    assert found.calibration == load_calibration(tmp_path)
    assert found.opset_max is not None
    assert found.providers
    (speed,) = [check for check in said if check["check"] == "speed"]
    assert "matmul_int8" in speed["detail"]


def test_what_never_was_measured_has_a_next_step() -> None:
    assert "--calibrate" in judge_speed(None).next_step
    assert judge_speed({"call": 1.0}, missing="/srv/agent").next_step.startswith(
        "/srv/agent is not there yet, so nothing is kept"
    )
    assert judge_capabilities({"runtime_fault": "died of SIGILL"}).is_bad
    assert "no int8 dot products" in judge_capabilities({"cpu_flags": ["avx2"]}).detail
