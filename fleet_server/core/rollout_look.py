"""One look at a rollout: what was reported, what the gate says of it, what to do now. Pure.

The controller, the tests and the rehearsal run this same function. It is made to be run again:
everything it asks for follows from the state it is given, so that a look that was lost, or done
twice, changes nothing in the end.

A look first reads reports, then queues who came back or joined, then lets the gates judge (single
members of a family first, then the stages), then
does the duty of the state (``rollout_duties``) unless the state has just changed: the devices the
new state concerns are seen at the next look. A stage's devices are
offered the version in ``running`` only, never before their stage is open, and never while more
than the allowed number are in flight.
"""

from dataclasses import replace
from typing import Any

from fleet_server.core.rollout_duties import do_duty
from fleet_server.core.rollout_gate import StageCounts, Verdict, judge_stage
from fleet_server.core.rollout_limits import OnHalt
from fleet_server.core.rollout_machine import RolloutEvent, RolloutState
from fleet_server.core.rollout_moves import (
    close_members,
    exclude_members,
    find_queue,
    queue_labelled,
)
from fleet_server.core.rollout_outcome import (
    Outcome,
    Progress,
    Reading,
    Standpoint,
    judge_outcome,
    say_outcome,
)
from fleet_server.core.rollout_round import Decision, Round, RoundPlan, RoundView
from fleet_server.core.rollout_shadow import count_shadow, judge_with_shadow
from fleet_server.core.rollout_state import Member, Rollout, StageRecord, dump_settled
from fleet_server.core.rollout_words import say_devices
from fleet_server.core.targeting import find_offered, find_targets

_STILL_WAITING = {"", str(Verdict.WAIT), str(Verdict.WAIT_NO_DATA)}
"""Verdicts that are no news after one another."""


def plan_round(view: RoundView) -> RoundPlan:
    """Decide one look; an empty plan with an equal rollout means there is nothing to write."""
    look = Round(view)
    if look.rollout.state is RolloutState.DRAFT:
        return look.finish()
    read_reports(look)
    match look.rollout.state:
        case RolloutState.RUNNING:
            queue_newcomers(look)
            queue_labelled(look)
            judge_rollout(look)
        case RolloutState.PAUSED:
            judge_rollout(look)
        case RolloutState.COMPLETED:
            queue_labelled(look)
            close_members(look)
        case RolloutState.HALTED if look.rollout.policy.on_halt is not OnHalt.STAY:
            look.apply(RolloutEvent.ROLL_BACK)
    # The packages were read with the members that were taken out before.
    is_as_read = look.rollout.excluded == view.rollout.excluded
    if look.rollout.state is view.rollout.state and is_as_read:
        do_duty(look)
    return look.finish()


def read_reports(look: Round) -> None:
    """Bring every outcome to what its device last said."""
    view = look.view
    standpoint = Standpoint(
        rollout=view.rollout.id,
        policy=view.rollout.policy,
        now=view.now,
        listening_since=view.listening_since,
    )
    for member in tuple(look.members.values()):
        package = find_offered(view.packages, member.device, member.target)
        if package is None:
            continue
        reading = judge_outcome(
            member.progress,
            member.slot,
            member.refusal,
            standpoint,
            sha256=package.sha256,
            is_held=member.desired is not None and member.desired.rollout == view.rollout.id,
            is_shadowed=member.desired is not None and member.desired.is_shadowed,
        )
        known = member.progress
        if reading != Reading(known.outcome, known.code, known.detail):
            look.set_outcome(member, reading)


def queue_newcomers(look: Round) -> None:
    """Queue who joined the group and who came back.

    In the open stage until it has passed its gate, so that a stage always ends; in the next one
    afterwards. After the last, they are served when the rollout completes.
    """
    view, rollout = look.view, look.rollout
    stage, is_closed = find_queue(rollout)
    for member in tuple(look.members.values()):
        is_left_out = member.progress.outcome is Outcome.SILENT_BEFORE
        if is_left_out and member.device.is_online and not is_closed:
            look.set_outcome(member, Reading(Outcome.PENDING), stage=stage)
    if view.query is None:
        return
    outcome = Outcome.SILENT_BEFORE if is_closed else Outcome.PENDING
    targets = find_targets(view.outsiders, view.query, view.packages, view.profiles)
    for device in targets.fit:
        progress = Progress(outcome=outcome, changed_at=view.now)
        look.set_member(Member(device=device, stage=stage, progress=progress))


def judge_rollout(look: Round) -> None:
    """Let the gate judge every open stage, and let happen what it says."""
    if not look.view.is_approved:
        reason = f"{look.rollout.release} is no longer approved."
        look.decisions.append(Decision(verdict=Verdict.HALT, sentence=reason, inputs={}))
        look.apply(RolloutEvent.HALT, reason)
        return
    if exclude_members(look):
        return
    for stage in range(look.rollout.stage + 1):
        counts = look.tally.count_stage(stage)
        verdict = _judge_one(look, stage, counts)
        if verdict is Verdict.HALT:
            look.apply(RolloutEvent.HALT, look.rollout.sentence)
            is_stage_only = look.rollout.policy.on_halt is OnHalt.ROLL_BACK_STAGE
            returning = stage if is_stage_only else None
            look.rollout = replace(look.rollout, returning_stage=returning)
            return
    if look.rollout.state is not RolloutState.RUNNING:
        return
    if verdict is Verdict.INCONCLUSIVE:
        look.apply(RolloutEvent.PAUSE)
        look.rollout = replace(look.rollout, is_undecided=True)
    elif verdict is Verdict.ADVANCE:
        is_last = look.rollout.stage + 1 == len(look.rollout.stages)
        look.apply(RolloutEvent.LAST_STAGE_PASSED if is_last else RolloutEvent.STAGE_PASSED)
        if is_last:
            look.rollout = replace(look.rollout, sentence=_say_completed(look))


def _judge_one(look: Round, stage: int, counts: StageCounts) -> Verdict:
    rollout, view = look.rollout, look.view
    record = rollout.stages[stage]
    is_open = stage == rollout.stage
    alarms = tuple(view.alarms) if is_open else ()
    is_backed = stage > 0
    judgement = judge_stage(
        counts,
        rollout.policy.gate,
        record.settled,
        now=view.now,
        is_backed=is_backed,
        alarms=alarms,
    )
    compared = count_shadow(look, stage)
    found, words, shadow = judge_with_shadow(look, stage, compared, judgement)
    shadow_settled = shadow.settled if shadow is not None else None
    is_halt = found is Verdict.HALT
    verdict = str(found) if is_open or is_halt else record.verdict
    sentence = f"{say_stage(rollout, stage)}: {words}"
    is_news = (
        (record.settled is None) != (judgement.settled is None)
        or (record.shadow is None) != (shadow_settled is None)
        or (verdict != record.verdict and not {verdict, record.verdict} <= _STILL_WAITING)
    )
    if is_news:
        inputs: dict[str, Any] = {
            "stage": stage,
            "counts": dump_counts(counts),
            "gate": rollout.policy.to_json()["gate"],
            "settled": dump_settled(record.settled),
            "is_backed": is_backed,
            "alarms": list(alarms),
            "now": view.now.isoformat(),
        }
        if rollout.policy.disagreement is not None:
            inputs["shadow"] = {
                "test": rollout.policy.disagreement.to_json(),
                "counts": compared.to_json(),
                "settled": record.shadow.to_json() if record.shadow is not None else None,
            }
        look.decisions.append(Decision(verdict=verdict, sentence=sentence, inputs=inputs))
    updated = StageRecord(
        name=record.name, verdict=verdict, settled=judgement.settled, shadow=shadow_settled
    )
    stages = (*rollout.stages[:stage], updated, *rollout.stages[stage + 1 :])
    if not is_halt and rollout.state is RolloutState.PAUSED:
        sentence = f"{rollout.stop_reason} {sentence}".strip()
    look.rollout = replace(
        rollout,
        stages=stages,
        sentence=sentence if is_open or is_halt else rollout.sentence,
    )
    return found


def _say_completed(look: Round) -> str:
    tally = look.tally.by_outcome()
    confirmed = tally.pop(Outcome.CONFIRMED, 0)
    others = [f"{count:,} {say_outcome(outcome)}" for outcome, count in tally.items()]
    tail = f" ({', '.join(others)})" if others else ""
    out = sorted(look.rollout.excluded_models)
    said = f"{look.rollout.release} is confirmed on {say_devices(confirmed)}{tail}."
    return f"{said} Taken out: {', '.join(out[:5])}{' and more' * (len(out) > 5)}." if out else said


def say_stage(rollout: Rollout, stage: int) -> str:
    """Name a stage with its place: ``Stage 2 of 3 (25%)``."""
    return f"Stage {stage + 1} of {len(rollout.stages)} ({rollout.stages[stage].name})"


def dump_counts(counts: StageCounts) -> dict[str, int]:
    """Give the JSON form."""
    return {
        "targeted": counts.targeted,
        "confirmed": counts.confirmed,
        "failed": counts.failed,
        "left_out": counts.left_out,
        "in_flight": counts.in_flight,
        "offline": counts.offline,
    }
