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
RATE = 60.0
"""Windows per second and device, as long as the kills last."""
GOOD, EARLY = ("-m", "fleet_server.workers.gateway"), ("-m", "tests.support.gateway_early_ack")
DONE_S_MAX = 90.0
SEED = 5

pytestmark = pytest.mark.e2e


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[WorkspaceLab]:
    lab = WorkspaceLab(tmp_path / "ws")
    yield lab
    lab.stop()


def run_load(
    lab: WorkspaceLab, kills: Sequence[str], command: Sequence[str]
) -> tuple[set[object], Counter[object]]:
    """Load the fleet, kill ``broker`` and ``gateway`` in turn, wait for the outboxes to empty.

    Returns:
        Each (device, boot, stream, sequence) recorded, and how often each is stored.
    """
    random_ = random.Random(SEED)
    names = [f"load-{n}" for n in range(DEVICES)]
    lab.add_devices(names)
    lab.broker.start()
    lab.start_gateway(command=command)
    lab.wait_until_ready()
    devices = [LoadedDevice(lab, name, 100 + n, windows_per_s=RATE) for n, name in enumerate(names)]
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
        for device in devices:
            device.finish()
        lab.wait(lambda: all(d.is_done for d in devices), timeout_s=DONE_S_MAX)
        assert [d.outbox.counts()["dropped"] for d in devices] == [0] * DEVICES
    finally:
        for device in devices:
            device.stop()
    recorded = {
        (lab.device_row(device.name).number, device.boot, k % 2, k // 2)
        for device in devices
        for k in range(device.recorded)
    }
    return set(recorded), Counter(lab.telemetry_rows())


def test_kills_of_broker_and_gateway_lose_and_double_nothing(lab: WorkspaceLab) -> None:
    recorded, stored = run_load(lab, ["broker", "gateway"] * 3, GOOD)
    assert recorded - stored.keys() == set()
    assert stored.keys() - recorded == set()
    assert {count for count in stored.values() if count != 1} == set()
    totals = lab.totals()
    assert totals["inserted"] == len(recorded)
    assert totals["received"] == totals["inserted"] + totals.get("duplicates", 0)


def test_the_harness_finds_a_gateway_that_acknowledges_too_early(lab: WorkspaceLab) -> None:
    recorded, stored = run_load(lab, ["gateway"] * 4, EARLY)
    assert len(recorded - stored.keys()) > 0
