"""The phase in which a candidate is compared with the confirmed package and answers nothing.

The candidate lies in the free bank, self-tested; the confirmed package goes on answering all the
while. What ends the phase well, its limits included, leads to the probation; a candidate that
crashes, hangs or takes too much memory has failed without having answered anybody. How far two
models may differ is not judged here: the server's gate does that with the counts of many devices.
A candidate it holds stays in this phase until it is let go by an assignment without a shadow.
"""

from dataclasses import replace

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from edge_agent.core import banks as bank_rules
from edge_agent.core.effects import StartShadow, StopShadow
from edge_agent.core.events import ServingLost, ShadowSeen, Ticked
from edge_agent.core.moves import Outcome, ask_for_candidate, fail, release_of
from edge_agent.core.slot import Slot

NOTHING_CONFIRMED = "nothing is confirmed here that it could be compared with"


def begin_trial(slot: Slot, now: float) -> Outcome:
    """Compare the candidate if that is asked for and possible, else let it answer."""
    slot = replace(slot, boots=0)
    policy, candidate = release_of(slot).shadow, slot.banks.at(slot.candidate)
    if policy is None or candidate is None:
        return begin_probation(slot, now)
    if slot.banks.confirmed is None:
        report = ShadowReport(
            sha256=candidate.sha256, state=ShadowState.SKIPPED, note=NOTHING_CONFIRMED
        )
        return begin_probation(
            replace(slot, shadow=report, detail=f"not shadowed: {NOTHING_CONFIRMED}"), now
        )
    return start_shadow(slot, policy, now)


def begin_probation(slot: Slot, now: float) -> Outcome:
    """Let the candidate answer, on probation."""
    return ask_for_candidate(
        replace(slot, phase=Phase.PROBATION, attempt=slot.attempt + 1, boots=0), now
    )


def start_shadow(slot: Slot, policy: ShadowPolicy, now: float) -> Outcome:
    """Begin to compare, from nothing; how often the agent stopped meanwhile is kept."""
    candidate, confirmed = slot.banks.at(slot.candidate), slot.banks.confirmed_package
    if candidate is None or confirmed is None:
        raise LookupError("shadowing without two packages")
    slot = replace(
        slot,
        phase=Phase.SHADOWING,
        attempt=slot.attempt + 1,
        since_at=None,
        rows=0,
        shadow=None,
        shadow_live=None,
        due_at=now + policy.timeout_s,
    )
    return slot, [StartShadow(slot.attempt, candidate, confirmed, policy)]


def resume_shadow(slot: Slot, now: float) -> Outcome:
    """Begin anew after a start of the agent."""
    policy = release_of(slot).shadow
    if policy is None or slot.banks.confirmed is None:
        return begin_probation(slot, now)
    return start_shadow(slot, policy, now)


def shadow_seen(slot: Slot, event: ShadowSeen) -> Outcome:
    """Take the counts so far; end the phase when they are enough, or when it failed."""
    if event.code is not None:
        return drop_shadow(replace(slot, shadow_live=event.report), event.code, event.detail)
    report, since_at = event.report, slot.since_at
    if since_at is None and report.state is ShadowState.COMPARING:
        since_at = event.now
    slot = replace(slot, shadow_live=report, rows=report.rows, since_at=since_at)
    if report.state is ShadowState.SKIPPED:
        return end_shadow(slot, report.note, event.now)
    policy = release_of(slot).shadow
    if policy is None or policy.is_held or since_at is None:
        return slot, []
    age_s = event.now - since_at
    if age_s < policy.duration_s or report.rows < policy.rows_min:
        return slot, []
    return end_shadow(slot, f"{report.rows} rows compared in {age_s:.0f} s", event.now)


def shadow_late(slot: Slot, event: Ticked) -> Outcome:
    """Let the candidate answer although there were too few rows to compare.

    A held one is given up: nobody has decided, and what is confirmed goes on answering.
    """
    policy = release_of(slot).shadow
    if policy is None:
        return end_shadow(slot, "", event.now)
    if policy.is_held:
        said = f"held for {policy.timeout_s:.0f} s, and the server has not decided"
        return drop_shadow(slot, Code.SHADOW_UNDECIDED, said)
    rows = f"only {slot.rows} of {policy.rows_min} rows compared"
    return end_shadow(slot, f"{rows} in {policy.timeout_s:.0f} s", event.now)


def serving_lost_in_shadow(slot: Slot, _: ServingLost) -> Outcome:
    """What was counted went with the process that answers; the limit of the phase goes on."""
    return replace(slot, running=None, since_at=None, rows=0, shadow_live=None), []


def follow_policy(slot: Slot, former: ShadowPolicy | None, now: float) -> Outcome:
    """Take another wish about the same candidate: begin anew, or end it when it is withdrawn."""
    policy = release_of(slot).shadow
    if policy == former:
        return slot, []
    if policy is None:
        return end_shadow(slot, "the assignment no longer asks for it", now)
    slot, effects = start_shadow(slot, policy, now)
    return slot, [StopShadow(), *effects]


def end_shadow(slot: Slot, note: str, now: float) -> Outcome:
    """Go on to the probation; the counts are kept with the slot."""
    slot, effects = begin_probation(_close(slot, note), now)
    return slot, [StopShadow(), *effects]


def drop_shadow(slot: Slot, code: Code, detail: str) -> Outcome:
    """End the attempt; the confirmed package has been answering all the while."""
    banks = slot.banks
    if slot.candidate is not None:
        banks = bank_rules.clear(banks, slot.candidate)
    slot = replace(_close(slot, detail), banks=banks, candidate=None, since_at=None, rows=0)
    slot, effects = fail(slot, code, detail)
    return slot, [StopShadow(), *effects]


def _close(slot: Slot, note: str) -> Slot:
    candidate, report = slot.banks.at(slot.candidate), slot.shadow_live
    if report is None:
        report = ShadowReport(sha256=candidate.sha256 if candidate is not None else "")
    state = report.state if report.state is ShadowState.SKIPPED else ShadowState.OVER
    return replace(slot, shadow=replace(report, state=state, note=note), shadow_live=None)
