"""What a real agent says after an update and a failed one, byte for byte as the server knows it."""

from pathlib import Path

import pytest

from edge_agent.contract.messages import Reported
from edge_agent.core.probation import ProbationStats
from tests.support.agent import a_package
from tests.support.agent_world import World

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["report_confirmed.json", "report_rolled_back.json"])
def test_an_agents_report_stays_the_same(tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    world.connect()
    world.assign(a_package("one"), 1, rollout=3)
    world.run(65)
    if name == "report_rolled_back.json":
        world.inference.stats = ProbationStats(requests=100, rows=100, errors=50)
        world.assign(a_package("two"), 2, rollout=4)
        world.run(5)
    encoded = world.reports[-1].encode()
    assert Reported.decode(encoded).encode() == encoded
    assert encoded == (GOLDEN / name).read_bytes()
