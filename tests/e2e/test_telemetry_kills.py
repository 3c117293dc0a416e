"""No window is lost and none counted twice over SIGKILLs of broker and gateway under load.

The devices are the agent's own outbox, uplink and link. The same harness must find a gateway that
acknowledges before it commits.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.gateway import WorkspaceLab
from tests.support.telemetry_load import LoadedDevice

DEVICES = 4
WINDOWS = 1_600
RATE = 250.0
"""Windows per second and device: the load lasts as long as the kills do."""
GOOD, EARLY = ("-m", "fleet_server.workers.gateway"), ("-m", "tests.support.gateway_early_ack")
DONE_S_MAX = 90.0
SEED = 5

pytestmark = pytest.mark.e2e


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[WorkspaceLab]:
    lab = WorkspaceLab(tmp_path / "ws")
    yield lab
    lab.stop()


def run_load(lab: WorkspaceLab, kills: Sequence[str], command: Sequence[str]) -> Counter[object]:
    """Load the fleet, kill ``broker`` and ``gateway`` in turn, wait for the outboxes to empty.

    Returns:
        How often each (device, boot, stream, sequence) is stored.
    """
    random_ = random.Random(SEED)
    names = [f"load-{n}" for n in range(DEVICES)]
    lab.add_devices(names)
    lab.broker.start()
    lab.start_gateway(command=command)
    lab.wait_until_ready()
    devices = [
        LoadedDevice(lab, name, 100 + n, windows=WINDOWS, windows_per_s=RATE)
        for n, name in enumerate(names)
    ]
    try:
        for device in devices:
            device.start()
        for victim in kills:
            inserted = lab.totals().get("inserted", 0)
            # Some windows must pass between two kills, or the second meets an idle gateway; the
            # pause lets kills fall anywhere between two commits.
            lab.wait(lambda before=inserted: lab.totals().get("inserted", 0) > before + 50)  # type: ignore[misc]
            time.sleep(random_.uniform(0, 0.25))
            if victim == "broker":
                lab.kill_broker()
                lab.broker.start()
            else:
                lab.kill_gateway()
                lab.start_gateway(command=command)
        lab.wait(lambda: all(d.is_done for d in devices), timeout_s=DONE_S_MAX)
        assert [d.outbox.counts()["dropped"] for d in devices] == [0] * DEVICES
    finally:
        for device in devices:
            device.stop()
    return Counter(lab.telemetry_rows())


def wanted(lab: WorkspaceLab) -> set[object]:
    numbers = [lab.device_row(f"load-{n}").number for n in range(DEVICES)]
    return {
        (number, 100 + n, k % 2, k // 2) for n, number in enumerate(numbers) for k in range(WINDOWS)
    }


def test_kills_of_broker_and_gateway_lose_and_double_nothing(lab: WorkspaceLab) -> None:
    stored = run_load(lab, ["broker", "gateway"] * 3, GOOD)
    assert wanted(lab) - stored.keys() == set()
    assert stored.keys() - wanted(lab) == set()
    assert {count for count in stored.values() if count != 1} == set()
    totals = lab.totals()
    assert totals["inserted"] == DEVICES * WINDOWS
    assert totals["received"] == totals["inserted"] + totals.get("duplicates", 0)


def test_the_harness_finds_a_gateway_that_acknowledges_too_early(lab: WorkspaceLab) -> None:
    stored = run_load(lab, ["gateway"] * 4, EARLY)
    assert len(wanted(lab) - stored.keys()) > 0
