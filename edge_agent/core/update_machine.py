"""The life of one slot: ``step(slot, event) -> (slot, effects)``, a table of small rows.

What it keeps, whatever happens and whenever the power goes:

* The confirmed bank is never written and is left only by confirming another, so a slot that was
  ever confirmed has a way back. (Bytes the disk itself damaged are dropped and fetched again;
  what the approvers withdrew is dropped, and nothing unasked takes its place.)
* Only a package that was verified and self-tested in this attempt becomes a candidate; one in
  shadow is never asked to answer; only
  a candidate that passed its probation becomes confirmed. "Asked to answer", "answers" and
  "confirmed" are three facts.
* Every phase ends: it has a deadline, or waits for one of the slots fetched before it.
* The newest assignment supersedes; completions of an older attempt are ignored.

Left out: clock, randomness, files, messages. ``docs/update_states.md`` shows the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core import banks as bank_rules
from edge_agent.core.boot import COUNTED_BOOTS, booted
from edge_agent.core.effects import (
    Collect,
    Fetch,
    SelfTest,
    StartProbation,
)
from edge_agent.core.events import (
    ActivationFailed,
    Answering,
    Assigned,
    Booted,
    Event,
    Fetched,
    FetchFailed,
    FetchMoved,
    FetchStarted,
    LinkDown,
    LinkUp,
    Observed,
    OperatorRollback,
    Reapproved,
    SelfTested,
    ServingLost,
    ShadowSeen,
    Stopped,
    Ticked,
    Verified,
    VerifyFailed,
    Withdrawn,
)
from edge_agent.core.fetching import (
    fetch_failed,
    fetch_goes_on,
    fetch_moved,
    fetch_stalled,
    fetch_started,
    fetch_waits_for_link,
    fetched,
    retry,
    verify_late,
)
from edge_agent.core.moves import (
    ACTIVATE_S,
    CORRUPT,
    SELF_TEST_S,
    Outcome,
    ask_for_confirmed,
    begin,
    fail,
    may_work_later,
    name_confirmed,
    release_of,
    roll_back,
)
from edge_agent.core.operator_rollback import (
    is_left_for_nothing,
    is_update_waiting,
    operator_rollback,
    return_to_left,
)
from edge_agent.core.probation import ProbationVerdict, judge_probation
from edge_agent.core.release import Package, find_bad, forget_bad
from edge_agent.core.shadowing import (
    begin_trial,
    end_shadow,
    follow_policy,
    serving_lost_in_shadow,
    shadow_late,
    shadow_seen,
)
from edge_agent.core.slot import Slot
from edge_agent.core.withdrawal import reapproved, withdrawn

REASK_S = 30.0


def step(slot: Slot, event: Event) -> Outcome:
    """Return the next state and the effects to carry out in order, after it was committed.

    Raises:
        LookupError: The event cannot happen in this phase: a mistake in the shell.
    """
    attempt = getattr(event, "attempt", None)
    if attempt is not None and attempt != slot.attempt:
        return slot, []
    kind = type(event)
    handler = TABLE.get((slot.phase, kind)) or ANYWHERE.get(kind)
    if handler is None:
        raise LookupError(f"{kind.__name__} cannot happen in phase {slot.phase}")
    return handler(slot, event)


def _assigned(slot: Slot, event: Assigned) -> Outcome:
    old, new = slot.wanted, event.release
    slot = replace(slot, wanted=new)
    is_same = old is not None and old.sha256 == new.sha256 and old.retry == new.retry
    if not is_same or slot.code is Code.WITHDRAWN:
        return begin(slot, event.now)
    if slot.phase is Phase.SHADOWING:
        return follow_policy(slot, old.shadow if old is not None else None, event.now)
    if slot.phase is not Phase.FAILED:
        return replace(slot, banks=name_confirmed(slot)), []
    if may_work_later(slot.code) or (old is not None and old.rollout != new.rollout):
        return begin(slot, event.now)
    return slot, []


def _new_round(slot: Slot, event: LinkUp) -> Outcome:
    return begin(slot, event.now) if may_work_later(slot.code) else (slot, [])


def _verified(slot: Slot, event: Verified) -> Outcome:
    slot = replace(
        slot,
        phase=Phase.SELF_TESTING,
        attempt=slot.attempt + 1,
        boots=0,
        code=None,
        detail="",
        due_at=event.now + SELF_TEST_S,
    )
    return slot, [SelfTest(slot.attempt, release_of(slot))]


def _self_tested(slot: Slot, event: SelfTested) -> Outcome:
    if event.code is not None:
        return fail(slot, event.code, event.detail)
    wanted, confirmed = release_of(slot), slot.banks.confirmed_package
    if confirmed is not None and confirmed.sha256 == wanted.sha256:
        return begin(slot, event.now)  # what was confirmed is damaged; this one took its place
    candidate = Package(
        target=wanted.target, sha256=wanted.sha256, on_withdrawn=wanted.on_withdrawn
    )
    running = slot.running.sha256 if slot.running else None
    banks, bank = bank_rules.place_candidate(slot.banks, candidate, running=running)
    return begin_trial(replace(slot, banks=banks, candidate=bank), event.now)


def _self_test_late(slot: Slot, _: Ticked) -> Outcome:
    return fail(slot, Code.SELFTEST_TIMEOUT, f"the self-test did not end in {SELF_TEST_S:.0f} s")


def _answering_in_probation(slot: Slot, event: Answering) -> Outcome:
    slot, _ = _answering(slot, event)
    candidate = slot.banks.at(slot.candidate)
    if candidate is None or event.sha256 != candidate.sha256 or slot.since_at is not None:
        return slot, []
    return replace(slot, since_at=event.now, due_at=None), [StartProbation()]


def _observed(slot: Slot, event: Observed) -> Outcome:
    wanted = release_of(slot)
    if slot.since_at is None or slot.candidate is None:
        return slot, []
    decision = judge_probation(
        event.stats,
        wanted.probation,
        age_s=event.now - slot.since_at,
        latency_ms_p95_max=event.latency_ms_p95_max,
    )
    bank, slot = slot.candidate, replace(slot, rows=event.stats.rows)
    if decision.verdict is ProbationVerdict.WAIT:
        return slot, []
    if decision.code is not None:
        return roll_back(slot, decision.code, decision.reason, event.now)
    return replace(
        slot,
        phase=Phase.CONFIRMED,
        banks=bank_rules.confirm(slot.banks, bank),
        bad=forget_bad(slot.bad, wanted.sha256),
        candidate=None,
        boots=0,
        code=None,
        detail=decision.reason,
    ), [Collect()]


def _candidate_late(slot: Slot, event: Ticked) -> Outcome:
    if slot.since_at is not None:
        return replace(slot, due_at=None), []
    detail = f"the candidate did not begin to answer in {ACTIVATE_S:.0f} s"
    return roll_back(slot, Code.SELFTEST_LOAD, detail, event.now)


def _candidate_failed(slot: Slot, event: ActivationFailed) -> Outcome:
    candidate = slot.banks.at(slot.candidate)
    if candidate is None or event.sha256 != candidate.sha256:
        return _activation_failed(slot, event)
    code = event.code
    if class_of(code) is not FailureClass.BROKEN_HERE:
        code = Code.SELFTEST_LOAD
    return roll_back(slot, code, event.detail, event.now)


def _serving_lost_in_probation(slot: Slot, event: ServingLost) -> Outcome:
    """The candidate may be what ended it: the confirmed package must answer at once."""
    return roll_back(replace(slot, running=None), event.code, event.detail, event.now)


def _answering_in_rollback(slot: Slot, event: Answering) -> Outcome:
    slot, _ = _answering(slot, event)
    confirmed = slot.banks.confirmed_package
    if event.sha256 != (confirmed.sha256 if confirmed else None):
        return slot, []
    if is_update_waiting(slot):
        return begin(slot, event.now)
    phase = Phase.CONFIRMED if slot.code is None and confirmed else Phase.FAILED
    return replace(slot, phase=phase, due_at=None), [Collect()]


def _rollback_failed(slot: Slot, event: ActivationFailed) -> Outcome:
    if is_left_for_nothing(slot, event):
        return return_to_left(slot, event)
    return _activation_failed(slot, event)


def _rollback_late(slot: Slot, event: Ticked) -> Outcome:
    slot, effects = ask_for_confirmed(slot)
    return replace(slot, due_at=event.now + ACTIVATE_S), effects


def _answering(slot: Slot, event: Answering) -> Outcome:
    running = Package(target=event.target, sha256=event.sha256) if event.sha256 else None
    if running is not None and slot.phase is Phase.CONFIRMED and slot.code is Code.DISK_ERROR:
        slot = replace(slot, code=None, detail="")
    return replace(slot, running=running), []


def _serving_lost(slot: Slot, _: ServingLost) -> Outcome:
    return replace(slot, running=None), []


def _activation_failed(slot: Slot, event: ActivationFailed) -> Outcome:
    """Keep asking for the confirmed package unless its very bytes are gone."""
    confirmed = slot.banks.confirmed_package
    if confirmed is None or confirmed.sha256 != event.sha256:
        return slot, []
    if event.code not in CORRUPT:
        if slot.asked != event.sha256:
            return slot, []
        return _tell_unreadable(replace(slot, asked=None, reask_at=event.now + REASK_S), event), []
    was_asked = slot.asked == event.sha256
    slot = replace(slot, banks=bank_rules.lose_confirmed(slot.banks), reask_at=None)
    slot, effects = ask_for_confirmed(slot) if was_asked else (slot, [])
    if slot.phase not in (Phase.CONFIRMED, Phase.ROLLING_BACK) or slot.wanted is None:
        return slot, effects
    if find_bad(slot.bad, slot.wanted) is not None:
        return slot, effects
    slot = replace(
        slot,
        phase=Phase.OFFERED,
        attempt=slot.attempt + 1,
        tries=0,
        code=event.code,
        detail=event.detail,
        due_at=None,
    )
    return slot, [*effects, Fetch(slot.attempt, release_of(slot))]


def _tell_unreadable(slot: Slot, event: ActivationFailed) -> Slot:
    """Report a confirmed package that the disk does not give; it is asked for again and again."""
    if slot.phase is not Phase.CONFIRMED or event.code is not Code.DISK_ERROR:
        return slot
    return replace(slot, code=event.code, detail=event.detail)


def _confirmed_failed_in_shadow(slot: Slot, event: ActivationFailed) -> Outcome:
    slot, effects = _activation_failed(slot, event)
    if slot.banks.confirmed is not None:
        return slot, effects
    note = "the bytes of what it was compared with are damaged"
    slot, more = end_shadow(slot, note, event.now)
    return slot, [*effects, *more]


def _ticked(slot: Slot, event: Ticked) -> Outcome:
    if slot.reask_at is not None and event.now >= slot.reask_at:
        return ask_for_confirmed(slot)
    late = DEADLINES.get(slot.phase)
    if late is None or slot.due_at is None or event.now < slot.due_at:
        return slot, []
    return late(slot, event)


def _stopped(slot: Slot, _: Stopped) -> Outcome:
    return replace(slot, is_stopped=slot.phase in COUNTED_BOOTS), []


def _ignored(slot: Slot, _: Any) -> Outcome:
    return slot, []


Handler = Callable[[Slot, Any], Outcome]

TABLE: Mapping[tuple[Phase, type], Handler] = {
    (Phase.OFFERED, FetchStarted): fetch_started,
    (Phase.OFFERED, FetchMoved): _ignored,
    (Phase.OFFERED, Fetched): fetched,
    (Phase.OFFERED, FetchFailed): fetch_failed,
    (Phase.FETCHING, FetchStarted): fetch_started,
    (Phase.FETCHING, FetchMoved): fetch_moved,
    (Phase.FETCHING, Fetched): fetched,
    (Phase.FETCHING, FetchFailed): fetch_failed,
    (Phase.FETCHING, LinkDown): fetch_waits_for_link,
    (Phase.FETCHING, LinkUp): fetch_goes_on,
    (Phase.VERIFYING, Verified): _verified,
    (Phase.VERIFYING, VerifyFailed): fetch_failed,
    (Phase.SELF_TESTING, SelfTested): _self_tested,
    (Phase.SHADOWING, ShadowSeen): shadow_seen,
    (Phase.SHADOWING, ServingLost): serving_lost_in_shadow,
    (Phase.SHADOWING, ActivationFailed): _confirmed_failed_in_shadow,
    (Phase.PROBATION, Answering): _answering_in_probation,
    (Phase.PROBATION, ActivationFailed): _candidate_failed,
    (Phase.PROBATION, ServingLost): _serving_lost_in_probation,
    (Phase.PROBATION, Observed): _observed,
    (Phase.ROLLING_BACK, Answering): _answering_in_rollback,
    (Phase.ROLLING_BACK, ActivationFailed): _rollback_failed,
    (Phase.FAILED, LinkUp): _new_round,
}
"""What each phase does with the events that concern it."""

ANYWHERE: Mapping[type, Handler] = {
    Booted: booted,
    Stopped: _stopped,
    Assigned: _assigned,
    Withdrawn: withdrawn,
    Reapproved: reapproved,
    OperatorRollback: operator_rollback,
    Answering: _answering,
    ActivationFailed: _activation_failed,
    ServingLost: _serving_lost,
    Ticked: _ticked,
    LinkUp: _ignored,
    LinkDown: _ignored,
    Observed: _ignored,
    ShadowSeen: _ignored,
}
"""What happens in every phase that has no row of its own for the event."""

DEADLINES: Mapping[Phase, Handler] = {
    Phase.OFFERED: retry,
    Phase.FETCHING: fetch_stalled,
    Phase.VERIFYING: verify_late,
    Phase.SELF_TESTING: _self_test_late,
    Phase.SHADOWING: shadow_late,
    Phase.PROBATION: _candidate_late,
    Phase.ROLLING_BACK: _rollback_late,
}
"""What happens when a phase has lasted too long, or its next try is due."""
