"""A controller that is killed again and again, anywhere, still ends a rollout as it should."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run_and_kill(path: Path, behaviour: str, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.rollout_kill", str(path), behaviour, str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2_000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("behaviour", "seed", "state", "outcomes", "end"),
    [
        ("good", 2, "completed", {"confirmed": 18}, "model.champion"),
        (
            "mixed",
            2,
            "rolled_back",
            {"failed": 3, "returned": 1, "pending": 14},
            "rollout.all_returned",
        ),
    ],
)
def test_a_rollout_survives_kills_at_any_statement(
    tmp_path: Path, behaviour: str, seed: int, state: str, outcomes: dict[str, int], end: str
) -> None:
    found = run_and_kill(tmp_path / "control.db", behaviour, seed)
    assert found["deaths"] >= 5, found
    assert found["state"] == state, found
    assert found["outcomes"] == outcomes, found
    assert found["offered_twice"] == 0, found
    acts = [act for act in found["acts"] if act not in ("rollout.plan", "rollout.start")]
    assert len(acts) == len(set(acts)), found
    assert acts[-1] == end, found
