"""A device that stopped a withdrawn package never counts against the release."""

from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.contract.codes import Code
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_outcome import (
    Outcome,
    Progress,
    SlotFacts,
    Standpoint,
    Weight,
    judge_outcome,
    weigh_outcome,
)

OURS = "a" * 64
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("before", [Outcome.FETCHING, Outcome.PROBATION, Outcome.CONFIRMED])
def test_a_withdrawn_package_is_refused_by_the_device_and_left_out_by_the_gate(
    before: Outcome,
) -> None:
    slot = SlotFacts(state="failed", rollout=7, code=str(Code.WITHDRAWN), detail="stopped")
    found = judge_outcome(
        Progress(outcome=before, tries=1, offered_at=NOW, changed_at=NOW),
        slot,
        None,
        Standpoint(rollout=7, policy=RolloutPolicy(), now=NOW + timedelta(minutes=5)),
        sha256=OURS,
    )
    assert (found.outcome, found.code) == (Outcome.REFUSED, "withdrawn")
    assert weigh_outcome(found.outcome, found.code, 1, 3) is Weight.LEFT_OUT
