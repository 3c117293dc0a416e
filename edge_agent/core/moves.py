"""Moves that several rows of the update machine share. Each returns the next state and effects.

The rules that must hold whatever happens are kept here: where a slot may be left to, what is
asked to answer, and when a package is remembered as bad.
"""

from dataclasses import replace

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core import banks as bank_rules
from edge_agent.core.effects import (
    Activate,
    CancelFetch,
    Collect,
    Deactivate,
    Effect,
    Fetch,
    StopShadow,
)
from edge_agent.core.release import Release, find_bad, remember_bad
from edge_agent.core.retry import full_jitter_s
from edge_agent.core.slot import Slot

VERIFY_S = 600.0
"""1 GiB at the 2 MB/s of a bad SD card."""
SELF_TEST_S = 300.0
"""Above the self-test's own limit: this one is for a child that cannot be waited for."""
ACTIVATE_S = 120.0
RETRY_BASE_S = 5.0
RETRY_CAP_S = 900.0
TRIES_MAX = 10
"""Retryable failures in one round; a reconnect or a newer assignment begins another."""

Outcome = tuple[Slot, list[Effect]]
CORRUPT = frozenset({Code.BLOB_HASH, Code.BLOB_SIZE})
"""Bytes that arrived right and were read back wrong; fetched once more before it counts."""


def begin(slot: Slot, now: float) -> Outcome:
    """Turn to what is wanted, whatever was under way; the confirmed package answers meanwhile."""
    effects: list[Effect] = []
    if slot.phase in (Phase.OFFERED, Phase.FETCHING):
        effects.append(CancelFetch())
    if slot.phase is Phase.SHADOWING:
        effects.append(StopShadow())
    slot = replace(
        slot,
        banks=name_confirmed(slot),
        candidate=None,
        boots=0,
        code=None,
        detail="",
        attempt=slot.attempt + 1,
        tries=0,
        due_at=None,
        since_at=None,
        rows=0,
        shadow=None,
        shadow_live=None,
    )
    wanted, confirmed = slot.wanted, slot.banks.confirmed_package
    if wanted is None:
        return replace(slot, phase=Phase.CONFIRMED if confirmed else Phase.EMPTY), effects
    if confirmed is not None and confirmed.sha256 == wanted.sha256:
        if slot.running is not None and slot.running.sha256 == confirmed.sha256 == slot.asked:
            return replace(slot, phase=Phase.CONFIRMED), [*effects, Collect()]
        slot, asked = ask_for_confirmed(slot)
        slot = replace(slot, phase=Phase.ROLLING_BACK, due_at=now + ACTIVATE_S)
        return slot, [*effects, *asked]
    if confirmed is not None and slot.asked != confirmed.sha256:
        slot, asked = ask_for_confirmed(slot)
        effects += asked
    known = find_bad(slot.bad, wanted)
    if known is not None:
        return replace(
            slot,
            phase=Phase.FAILED,
            code=Code.KNOWN_BAD,
            detail=f"failed here before with {known.code}; plan with --again to try it once more",
        ), [*effects, Collect()]
    return replace(slot, phase=Phase.OFFERED), [*effects, Fetch(slot.attempt, wanted)]


def ask_for_confirmed(slot: Slot) -> Outcome:
    """Let the confirmed package answer, or nothing when there is none."""
    confirmed = slot.banks.confirmed_package
    if confirmed is None:
        return replace(slot, asked=None, reask_at=None), [Deactivate(slot.detail)]
    return replace(slot, asked=confirmed.sha256, reask_at=None), [Activate(confirmed)]


def ask_for_candidate(slot: Slot, now: float) -> Outcome:
    """Let the candidate answer; its probation counts from when it does."""
    candidate = slot.banks.at(slot.candidate)
    if candidate is None:
        raise LookupError("probation without a candidate")
    return replace(
        slot, asked=candidate.sha256, reask_at=None, since_at=None, rows=0, due_at=now + ACTIVATE_S
    ), [Activate(candidate)]


def retry_or_fail(slot: Slot, code: Code, detail: str, now: float, jitter: float) -> Outcome:
    """Wait for another try with back-off, or end the attempt."""
    tries = slot.tries + 1
    if code in CORRUPT:
        is_over = slot.code in CORRUPT
    else:
        is_over = tries >= TRIES_MAX or not may_work_later(code)
    if is_over:
        return fail(slot, code, detail)
    wait_s = full_jitter_s(tries, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, jitter=jitter)
    return replace(
        slot,
        phase=Phase.OFFERED,
        attempt=slot.attempt + 1,
        tries=tries,
        code=code,
        detail=detail,
        due_at=now + wait_s,
    ), []


def fail(slot: Slot, code: Code, detail: str) -> Outcome:
    """End the attempt before anything of it answered."""
    is_bad = not may_work_later(code) and code is not Code.WITHDRAWN
    bad = remember_bad(slot.bad, release_of(slot), code) if is_bad else slot.bad
    return replace(
        slot,
        phase=Phase.FAILED,
        attempt=slot.attempt + 1,
        code=code,
        detail=detail,
        bad=bad,
        boots=0,
        due_at=None,
    ), [Collect()]


def roll_back(slot: Slot, code: Code, detail: str, now: float) -> Outcome:
    """Return to the confirmed package; remember the candidate as bad if it is what failed."""
    banks, bad = slot.banks, slot.bad
    if code is not Code.WITHDRAWN:
        bad = remember_bad(bad, release_of(slot), code)
    if slot.candidate is not None:
        banks = bank_rules.clear(banks, slot.candidate)
    slot = replace(
        slot,
        phase=Phase.ROLLING_BACK,
        banks=banks,
        candidate=None,
        attempt=slot.attempt + 1,
        boots=0,
        code=code,
        detail=detail,
        bad=bad,
        since_at=None,
        due_at=now + ACTIVATE_S,
    )
    return ask_for_confirmed(slot)


def name_confirmed(slot: Slot) -> bank_rules.Banks:
    """Give the confirmed bytes the name they are assigned by, when it is they that are wanted."""
    wanted, confirmed = slot.wanted, slot.banks.confirmed_package
    if wanted is None or confirmed is None or confirmed.sha256 != wanted.sha256:
        return slot.banks
    return bank_rules.rename_confirmed(slot.banks, wanted)


def release_of(slot: Slot) -> Release:
    """Return the wanted release; raises LookupError when the phase cannot be without one."""
    if slot.wanted is None:
        raise LookupError(f"phase {slot.phase} without a release")
    return slot.wanted


def may_work_later(code: Code | None) -> bool:
    """Tell whether trying the same package again can help."""
    return code is not None and class_of(code) is FailureClass.RETRYABLE
