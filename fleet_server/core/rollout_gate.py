"""Decide from counts whether a stage may be followed by the next. Pure, so it can be replayed.

The test is Wald's sequential probability ratio test (Wald 1945) of *goal*, the failure rate that a
good release keeps, against *never above*, the rate that must stop it. It may be looked at after
every report. Once it has decided for the stage, a fresh test watches what happens after (at a part
of alpha) and starts anew each time it finds nothing, until the rollout ends: deciding once is no
pardon.

A stage may be too small to ever decide. When all of its devices have finished, then, in this
order: at or above *never above* with ``failures_min`` failures, or nothing but failures, halts;
within the goal advances, and the sentence says that it was not decided statistically; anything
else is inconclusive.

A self-test fails in seconds and a probation holds for minutes, so failures come first. A device in
flight therefore counts as holding until it has failed, for the halt alone: the evidence is then
never above that of the devices in the order of their offers, which no outcome decides, and alpha
holds however many are in flight at once.

Harm outranks progress: halting rules come first, and one more failure among the finished devices
never makes the verdict kinder. Devices left out (offline before the offer, refused as not for
them, given up by the network) are no evidence for either side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from fleet_server.core.rollout_limits import (
    FixedThreshold,
    GatePolicy,
    OnInconclusive,
    SequentialTest,
)
from fleet_server.core.rollout_words import say_instant, say_share, say_span


class Verdict(StrEnum):
    """What the gate says of a stage."""

    HALT = "halt"
    INCONCLUSIVE = "inconclusive"
    WAIT_NO_DATA = "wait (no data)"
    WAIT = "wait"
    ADVANCE = "advance"


class Basis(StrEnum):
    """On what a stage was found good enough."""

    EVIDENCE = "evidence"
    ALL_FINISHED = "all_finished"
    POLICY = "policy"
    NOBODY = "nobody"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCounts:
    """Devices of one stage.

    Attributes:
        targeted: All of them.
        confirmed: Health-confirmed on the device.
        failed: The release failed there, or they fell silent after the offer.
        left_out: No evidence: offline before the offer, refused as not for them, network gave up.
        in_flight: Offered and not finished; part of ``waiting``.
        offline: Left out because offline when their turn came; part of ``left_out``.
    """

    targeted: int
    confirmed: int
    failed: int
    left_out: int = 0
    in_flight: int = 0
    offline: int = 0

    def __post_init__(self) -> None:
        parts = (self.targeted, self.confirmed, self.failed, self.left_out, self.offline)
        if (
            min(parts) < 0
            or not 0 <= self.in_flight <= self.waiting
            or self.offline > self.left_out
        ):
            raise ValueError(f"outcomes must fit the stage: {self}")

    @property
    def finished(self) -> int:
        """Devices that are evidence."""
        return self.confirmed + self.failed

    @property
    def waiting(self) -> int:
        """Devices whose outcome is still to come."""
        return self.targeted - self.finished - self.left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """That a stage was found good enough, when and on what.

    Attributes:
        at: When; the soak runs from here.
        finished: Devices finished then.
        failed: Of these.
        basis: On what.
        watch_finished: Finished devices that the watching test no longer counts.
        watch_failed: Failed devices that the watching test no longer counts.
    """

    at: datetime
    finished: int
    failed: int
    basis: Basis
    watch_finished: int
    watch_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageJudgement:
    """A verdict, the sentence beside it and what to remember for the next look."""

    verdict: Verdict
    sentence: str
    settled: Settled | None


def judge_stage(
    counts: StageCounts,
    policy: GatePolicy,
    settled: Settled | None,
    *,
    now: datetime,
    is_backed: bool = False,
    alarms: Sequence[str] = (),
) -> StageJudgement:
    """Judge one stage.

    Args:
        counts: Its devices now.
        policy: Limits.
        settled: What was remembered of an earlier look; None before the stage was found good.
        now: Aware UTC.
        is_backed: A stage before it has passed; then a stage of which every device refused or was
            given up does not hold the rollout for ever.
        alarms: Open drift alarms among its devices, as short names; each blocks the advance.

    >>> now = datetime.fromisoformat("2026-01-01T12:00:00+00:00")
    >>> counts = StageCounts(targeted=6, confirmed=3, failed=3)
    >>> judge_stage(counts, GatePolicy(), None, now=now).verdict
    <Verdict.HALT: 'halt'>
    """
    figure = say_figure(counts)
    if reason := _find_harm(counts, policy, settled):
        return StageJudgement(verdict=Verdict.HALT, sentence=f"{figure} {reason}", settled=settled)
    if settled is None:
        settled = _settle(counts, policy, now, is_backed=is_backed)
    if settled is None:
        return _judge_unsettled(counts, policy, figure)
    settled = _restart_watch(counts, policy, settled)
    return _judge_settled(counts, policy, settled, now=now, alarms=alarms)


def accept_by_operator(counts: StageCounts, *, now: datetime) -> Settled:
    """Remember that a person let an inconclusive stage pass."""
    return _settled_now(counts, Basis.OPERATOR, now)


def say_figure(counts: StageCounts) -> str:
    """Say failures with their interval, or that nobody has finished."""
    if counts.finished == 0:
        return f"0 of {counts.targeted} devices finished."
    return say_span(counts.failed, counts.finished)


def _find_harm(counts: StageCounts, policy: GatePolicy, settled: Settled | None) -> str:
    """Say why the stage must stop; empty when it need not."""
    test = policy.test
    in_flight = counts.in_flight if policy.is_flight_holding else 0
    if isinstance(test, FixedThreshold):
        return _find_excess(counts, test, in_flight)
    found = _find_evidence(counts, test, settled, in_flight)
    if not found and counts.finished and counts.waiting == 0:
        found = _find_complete_harm(counts, test, policy.failures_min)
    limit = f"Never above {say_share(test.never_above)} (goal {say_share(test.goal)})"
    return f"{limit}: {found}" if found else ""


def _find_excess(counts: StageCounts, test: FixedThreshold, in_flight: int) -> str:
    is_looked_at = counts.finished >= test.finished_min or counts.waiting == 0
    if is_looked_at and counts.failed > test.failure_share_max * (counts.finished + in_flight):
        return f"At most {say_share(test.failure_share_max)} may fail: too many fail."
    return ""


def _find_evidence(
    counts: StageCounts, test: SequentialTest, settled: Settled | None, in_flight: int
) -> str:
    if settled is None:
        is_harm = test.weigh(counts.finished + in_flight, counts.failed) >= test.halt_at
        return "the evidence says too many fail." if is_harm else ""
    finished, failed = _since(counts, settled)
    if test.weigh(finished + in_flight, failed) < test.watch_halt_at:
        return ""
    return (
        f"the stage passed at {say_instant(settled.at)}, but {failed} of {finished} failed since:"
        " the evidence says too many fail."
    )


def _find_complete_harm(counts: StageCounts, test: SequentialTest, failures_min: int) -> str:
    """Stop a stage that is over, whether or not the test could decide on so few."""
    if counts.failed == counts.finished:
        return "every device that finished has failed."
    if counts.failed >= failures_min and counts.failed >= test.never_above * counts.finished:
        return "too many of the finished stage failed."
    return ""


def _settle(
    counts: StageCounts, policy: GatePolicy, now: datetime, *, is_backed: bool
) -> Settled | None:
    """Find the stage good enough, by evidence or because all finished within the goal."""
    basis: Basis | None = None
    test = policy.test
    if counts.finished == 0:
        is_over = counts.targeted > 0 and counts.waiting == 0 and counts.offline == 0
        basis = Basis.NOBODY if is_backed and is_over else None
    elif (
        isinstance(test, SequentialTest)
        and test.weigh(counts.finished, counts.failed) <= test.advance_at
    ):
        basis = Basis.EVIDENCE
    elif counts.waiting == 0:
        basis = _find_complete_basis(counts, policy)
    return _settled_now(counts, basis, now) if basis else None


def _find_complete_basis(counts: StageCounts, policy: GatePolicy) -> Basis | None:
    test = policy.test
    if isinstance(test, FixedThreshold) or counts.failed <= test.goal * counts.finished:
        return Basis.ALL_FINISHED
    return Basis.POLICY if policy.on_inconclusive is OnInconclusive.ADVANCE else None


def _settled_now(counts: StageCounts, basis: Basis, now: datetime) -> Settled:
    return Settled(
        at=now,
        finished=counts.finished,
        failed=counts.failed,
        basis=basis,
        watch_finished=counts.finished,
        watch_failed=counts.failed,
    )


def _since(counts: StageCounts, settled: Settled) -> tuple[int, int]:
    """Count (finished, failed) after the watch began; a device that turned bad is one failure."""
    failed = max(0, counts.failed - settled.watch_failed)
    confirmed = max(0, counts.confirmed - (settled.watch_finished - settled.watch_failed))
    return failed + confirmed, failed


def _restart_watch(counts: StageCounts, policy: GatePolicy, settled: Settled) -> Settled:
    """Begin the watching test anew when it has found nothing, so that it never grows deaf."""
    if isinstance(policy.test, FixedThreshold):
        return settled
    if policy.test.weigh(*_since(counts, settled)) > policy.test.advance_at:
        return settled
    return replace(settled, watch_finished=counts.finished, watch_failed=counts.failed)


def _judge_unsettled(counts: StageCounts, policy: GatePolicy, figure: str) -> StageJudgement:
    rule = _say_rule(policy)
    if counts.finished == 0:
        parts = [f"{counts.in_flight} offered"]
        parts += [f"{counts.offline} offline"] if counts.offline else []
        refused = counts.left_out - counts.offline
        parts += [f"{refused} not for them"] if refused else []
        sentence = f"{figure} {', '.join(parts)}: nothing to judge yet."
        return StageJudgement(verdict=Verdict.WAIT_NO_DATA, sentence=sentence, settled=None)
    if counts.waiting:
        sentence = f"{figure} {rule}: not decided yet, {counts.waiting} still to finish."
        return StageJudgement(verdict=Verdict.WAIT, sentence=sentence, settled=None)
    sentence = f"{figure} {rule}: all finished, the evidence decides neither."
    if policy.on_inconclusive is OnInconclusive.HALT:
        sentence += " The policy halts an undecided stage."
        return StageJudgement(verdict=Verdict.HALT, sentence=sentence, settled=None)
    return StageJudgement(verdict=Verdict.INCONCLUSIVE, sentence=sentence, settled=None)


def _judge_settled(
    counts: StageCounts,
    policy: GatePolicy,
    settled: Settled,
    *,
    now: datetime,
    alarms: Sequence[str],
) -> StageJudgement:
    sentence = _say_settled(counts, policy, settled)
    soaked_at = settled.at + timedelta(seconds=policy.soak_s)
    if counts.waiting:
        return StageJudgement(
            verdict=Verdict.WAIT,
            sentence=f"{sentence} {counts.waiting} still to finish.",
            settled=settled,
        )
    if now < soaked_at:
        return StageJudgement(
            verdict=Verdict.WAIT,
            sentence=f"{sentence} Soaking until {say_instant(soaked_at)}.",
            settled=settled,
        )
    if alarms:
        more = f" and {len(alarms) - 3} more" if len(alarms) > 3 else ""
        return StageJudgement(
            verdict=Verdict.WAIT,
            sentence=f"{sentence} Open drift alarms hold it: {', '.join(alarms[:3])}{more}.",
            settled=settled,
        )
    return StageJudgement(verdict=Verdict.ADVANCE, sentence=sentence, settled=settled)


def _say_rule(policy: GatePolicy) -> str:
    if isinstance(policy.test, FixedThreshold):
        return f"At most {say_share(policy.test.failure_share_max)} may fail"
    return f"Goal {say_share(policy.test.goal)}, never above {say_share(policy.test.never_above)}"


def _say_settled(counts: StageCounts, policy: GatePolicy, settled: Settled) -> str:
    devices = f"{settled.finished} device{'' if settled.finished == 1 else 's'}"
    when = f"Decided {say_instant(settled.at)} on {devices}:"
    test = policy.test
    match settled.basis:
        case Basis.OPERATOR:
            said = f"{when} let pass by the operator."
        case Basis.NOBODY:
            said = f"{when} nobody here could take it, the stages before passed."
        case Basis.POLICY:
            said = f"{when} the evidence decides neither, the policy lets it pass."
        case Basis.EVIDENCE if isinstance(test, SequentialTest):
            said = f"{when} the evidence says below {say_share(test.never_above)}."
        case _ if isinstance(test, SequentialTest):
            said = (
                f"{when} all finished within the goal of {say_share(test.goal)}"
                " (too few to decide statistically)."
            )
        case _:
            said = f"{when} all finished. {_say_rule(policy)}."
    figure = say_figure(counts)
    is_moved = (counts.finished, counts.failed) != (settled.finished, settled.failed)
    return f"{said} {'Now ' if is_moved else ''}{figure}"
