"""What this device's clock says, beside the dates it can be held to."""

import contextlib
from dataclasses import dataclass
from datetime import datetime

from edge_agent.adapters.identity_renewer import read_facts
from edge_agent.core.clock_check import find_clock_fault
from edge_agent.core.verified import EARLIEST_AT
from edge_agent.errors import StorageError
from edge_agent.ports import Clock, Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFinding:
    """One look at the clock.

    Attributes:
        now_at: What it says.
        floor_at: Newest date the approvers signed, None before the first metadata.
        fault: What is wrong and what to do; empty when nothing is known to be.
    """

    now_at: datetime
    floor_at: datetime | None
    fault: str


def look_at_clock(
    clock: Clock, identity: Identity | None = None, floor_at: datetime = EARLIEST_AT
) -> ClockFinding:
    """Hold the clock to the certificate in use and to the newest date the approvers signed."""
    now_at = clock.now()
    floor = floor_at if floor_at > EARLIEST_AT else None
    not_before_at = not_after_at = None
    if identity is not None and not identity.is_plain:
        with contextlib.suppress(StorageError):  # the check of the identity says so
            facts = read_facts(identity)
            not_before_at, not_after_at = facts.not_before, facts.not_after
    fault = find_clock_fault(
        now_at, floor_at=floor, not_before_at=not_before_at, not_after_at=not_after_at
    )
    return ClockFinding(now_at=now_at, floor_at=floor, fault=fault)
