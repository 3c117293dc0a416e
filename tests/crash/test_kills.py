"""SIGKILL at the calls of every scenario: a process that is really gone, a disk that keeps all.

Less than a power cut, and no model: the very bytes a dead process leaves. The suite kills at a
fixed choice of calls; ``EDGEFLEET_POWER_CUTS=all`` at every one.
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters import files
from edge_agent.adapters.identity_store import is_enrolled
from tests.support.power_cut import CrashState, Marked, Recording
from tests.support.power_cut_identity import (
    AuthorityScenario,
    IdentityScenario,
    check_whole,
    identity_scenarios,
)
from tests.support.power_cut_search import SEED, ram_directory
from tests.support.power_cut_world import AGENT_SCENARIOS, HOME, AgentScenario

IS_ALL = os.environ.get("EDGEFLEET_POWER_CUTS") == "all"
KILLS = 5
CALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "link", "mkdir")


class KillingOs:
    """Stands for ``os`` in the seam; ends the process before a call, or in the midst of a write."""

    def __init__(self, at: int) -> None:
        self._at, self._count = at, 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        return self._killing(name, call) if name in CALLS else call

    def _killing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            self._count += 1
            if self._count == self._at:
                if name == "write":
                    call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return made


def kill(live: Callable[[Path], None], root: Path, at: int) -> bool:
    """Live in a child that dies at a call; tell whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            vars(files)["os"] = KillingOs(at)  # the child is thrown away
            live(root / HOME)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def promised_before(recorded: Recording, at: int) -> CrashState:
    marks = [s for s in recorded.steps if isinstance(s, Marked) and s.calls < at]
    values = {mark.name: mark.value for mark in marks}
    return CrashState(at=at, tree=frozenset(), marks=values, is_plain=True)


@pytest.mark.parametrize("scenario", AGENT_SCENARIOS, ids=lambda s: s.name)
def test_a_killed_agent_gets_on(scenario: AgentScenario) -> None:
    with ram_directory() as root:
        recorded = scenario.record(root)
    calls = range(1, recorded.calls + 1)
    chosen = calls if IS_ALL else sorted(random.Random(SEED).sample(calls, KILLS))
    for at in chosen:
        with ram_directory() as root:
            scenario.prepare(root / HOME)
            assert kill(scenario.live, root, at), f"the child did not die at call {at}"
            scenario.check(promised_before(recorded, at), root)


@pytest.mark.parametrize("scenario", identity_scenarios(), ids=lambda s: s.name)
def test_a_killed_joining_or_renewal_leaves_one_whole_identity(
    scenario: IdentityScenario | AuthorityScenario,
) -> None:
    at, was_killed = 0, True
    while was_killed:
        at += 1
        with ram_directory() as root:
            scenario.prepare(root / HOME)
            was_killed = kill(scenario.live, root, at)
            if scenario.before is not None or is_enrolled(root / HOME):
                check_whole(root / HOME)
            scenario.live(root / HOME)
            check_whole(root / HOME)
    assert at > 15
