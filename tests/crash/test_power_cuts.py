"""The power goes at every moment of the agent's life: what is left always runs and gets on.

Every system call of a scenario is recorded once; every state that a cut may leave of it is then
made, and a new agent started on it. ``EDGEFLEET_POWER_CUTS=all`` looks at every state; without it
the plain ones and a fixed sample of the mixtures, enough for a thousand.
"""

import os
import time
from collections.abc import Mapping

import pytest

from tests.support.power_cut_identity import identity_scenarios
from tests.support.power_cut_search import Found, Scenario, describe, search
from tests.support.power_cut_world import AGENT_SCENARIOS

SCENARIOS: dict[str, Scenario] = {s.name: s for s in AGENT_SCENARIOS}
SCENARIOS |= {s.name: s for s in identity_scenarios()}
IS_ALL = os.environ.get("EDGEFLEET_POWER_CUTS") == "all"
MIXTURES = 50
STATES_MIN, CPU_S_MAX = 1_000, 60.0


@pytest.fixture(scope="module")
def began_at() -> float:
    return time.process_time()


@pytest.fixture(scope="module")
def all_found() -> dict[str, Found]:
    return {}


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_a_cut_leaves_runs_and_gets_on(
    name: str, all_found: dict[str, Found], began_at: float
) -> None:
    assert began_at >= 0
    found = search(SCENARIOS[name], mixtures=None if IS_ALL else MIXTURES)
    all_found[name] = found
    assert not found.failures, {
        words: describe(state) for words, state in list(found.failures.items())[:5]
    }
    assert found.looked_at > 10


def test_a_thousand_states_are_looked_at_within_a_minute(
    all_found: Mapping[str, Found], began_at: float
) -> None:
    if len(all_found) < len(SCENARIOS):
        pytest.skip("only some of the scenarios were run")
    cpu_s = time.process_time() - began_at
    looked_at = sum(found.looked_at for found in all_found.values())
    print()
    for name, found in all_found.items():
        print(f"{name:28} {found.calls:5} calls {found.states:6} states {found.looked_at:6} run")
    print(f"{looked_at} distinct states in {cpu_s:.1f} CPU-s")
    assert looked_at >= STATES_MIN
    assert IS_ALL or cpu_s < CPU_S_MAX
