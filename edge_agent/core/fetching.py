"""What a slot does while its package is fetched and hashed: rows of the update machine."""

from dataclasses import replace

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core.effects import CancelFetch, Fetch, Verify
from edge_agent.core.events import (
    Fetched,
    FetchFailed,
    FetchMoved,
    FetchStarted,
    LinkDown,
    LinkUp,
    Ticked,
    VerifyFailed,
)
from edge_agent.core.moves import VERIFY_S, Outcome, release_of, retry_or_fail
from edge_agent.core.slot import Slot

FETCH_STALL_S = 300.0
"""Longest time online without a durable piece."""


def fetch_started(slot: Slot, event: FetchStarted) -> Outcome:
    """Count from the first piece asked for."""
    return replace(slot, phase=Phase.FETCHING, due_at=event.now + FETCH_STALL_S), []


def fetch_moved(slot: Slot, event: FetchMoved) -> Outcome:
    """Start the stall limit anew."""
    return replace(slot, due_at=event.now + FETCH_STALL_S), []


def fetch_waits_for_link(slot: Slot, _: LinkDown) -> Outcome:
    """Stop the stall limit: being offline is no failure."""
    return replace(slot, due_at=None), []


def fetch_goes_on(slot: Slot, event: LinkUp) -> Outcome:
    """Start the stall limit anew with the session."""
    return replace(slot, due_at=event.now + FETCH_STALL_S), []


def fetched(slot: Slot, event: Fetched) -> Outcome:
    """Hash what is here."""
    attempt, due_at = slot.attempt + 1, event.now + VERIFY_S
    slot = replace(slot, phase=Phase.VERIFYING, attempt=attempt, due_at=due_at)
    return slot, [Verify(attempt, release_of(slot))]


def fetch_failed(slot: Slot, event: FetchFailed | VerifyFailed) -> Outcome:
    """Try again later, or give up."""
    return retry_or_fail(slot, event.code, event.detail, event.now, event.jitter)


def fetch_stalled(slot: Slot, event: Ticked) -> Outcome:
    """Give up a fetch that does not get on."""
    detail = f"no piece arrived in {FETCH_STALL_S:.0f} s of connection"
    slot, effects = retry_or_fail(slot, Code.FETCH_TIMEOUT, detail, event.now, event.jitter)
    return slot, [CancelFetch(), *effects]


def verify_late(slot: Slot, event: Ticked) -> Outcome:
    """Give up a disk that does not get on."""
    detail = f"hashing the package did not end in {VERIFY_S:.0f} s"
    return retry_or_fail(slot, Code.DISK_ERROR, detail, event.now, event.jitter)


def retry(slot: Slot, _: Ticked) -> Outcome:
    """Fetch again after a back-off."""
    return replace(slot, due_at=None), [Fetch(slot.attempt, release_of(slot))]
