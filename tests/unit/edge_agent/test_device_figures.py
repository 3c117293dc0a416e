import os
from pathlib import Path

import pytest

from edge_agent.adapters.device_figures import DeviceFigures
from edge_agent.contract.messages import Reported
from tests.support.clock import FakeClock

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def stat(root: Path, pid: int, busy_s: float, pages: int, *, name: str = "a) b (c") -> None:
    fields = ["R"] + ["0"] * 10 + [str(int(busy_s * TICK)), "0"] + ["0"] * 8 + [str(pages), "0"]
    (root / str(pid)).mkdir(exist_ok=True)
    (root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}")


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    for number, text in enumerate(("41000", "63500", "-127000", "bad", "999000")):
        zone = tmp_path / "thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    return tmp_path / "thermal"


def test_shares_are_of_the_time_between_two_readings(tmp_path: Path, zones: Path) -> None:
    clock, worker = FakeClock(), [7]
    figures = DeviceFigures(
        tmp_path, clock, find_worker=lambda: worker[0], proc=tmp_path, thermal=zones
    )
    stat(tmp_path, os.getpid(), 10, 100)
    stat(tmp_path, 7, 3, 50)
    first = figures.read()
    assert (first["agent_rss_bytes"], first["worker_rss_bytes"]) == (100 * PAGE, 50 * PAGE)
    assert "agent_cpu_share" not in first
    assert first["temperature_c"] == 63.5
    assert first["disk_free_bytes"] > 0
    clock.advance(10)
    stat(tmp_path, os.getpid(), 11, 100)
    stat(tmp_path, 7, 8, 60)
    second = figures.read()
    assert (second["agent_cpu_share"], second["worker_cpu_share"]) == (0.1, 0.5)
    worker[0] = 8  # another process took its place
    stat(tmp_path, 8, 0, 1)
    clock.advance(10)
    assert "worker_cpu_share" not in figures.read()


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    figures = DeviceFigures(
        missing, FakeClock(), find_worker=lambda: 1, proc=missing, thermal=missing
    )
    assert figures.read() == {}


def test_this_process_is_found_on_this_machine(tmp_path: Path) -> None:
    figures = DeviceFigures(tmp_path, FakeClock()).read()
    assert figures["agent_rss_bytes"] > 1_000_000


def test_a_report_carries_the_figures_there_and_back() -> None:
    figures = {"agent_rss_bytes": 5.0, "agent_cpu_share": 0.25}
    report = Reported(boot=1, sequence=1, at_ms=0, agent="1", slots={}, resources=figures)
    assert Reported.decode(report.encode()).resources == figures
    assert b"resources" not in Reported(boot=1, sequence=1, at_ms=0, agent="1", slots={}).encode()
