"""Tell how a rollout went on one device, from what the device last reported. Pure.

The digest a device reports wins over every record of the server: the package confirmed and running
is success whoever asked for it, and a success whose bytes no longer run is taken back. Failures
and progress count only from reports that name this rollout, so that an old failure of the same
package is not counted again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import SlotState
from fleet_server.core.rollout_limits import RolloutPolicy

REVERTED = "reverted"
"""Code of a device that had confirmed the version and runs another one now."""
SUPERSEDED = "superseded"
"""Code of a device whose slot was given something else while it was in flight or confirmed."""
SILENT = "silent"
"""Code of a device that gave no outcome in time."""
GRACE_S = 5.0
"""A refusal of a whole assignment counts from this long after the offer: an older one may still
be in the report that comes first."""


class Outcome(StrEnum):
    """Where one device of a rollout stands."""

    PENDING = "pending"
    SILENT_BEFORE = "silent_before"
    """Offline when its turn came; not offered, left out of the gate, queued again when back."""
    OFFERED = "offered"
    FETCHING = "fetching"
    TESTING = "testing"
    SHADOW = "shadow"
    """Compared with what runs; it answers nobody yet."""
    PROBATION = "probation"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    REFUSED = "refused"
    SILENT_AFTER = "silent_after"
    WITHDRAWN = "withdrawn"
    """Told to return to what it ran before; has not reported doing so."""
    RETURNED = "returned"
    """Reported that it does not run the version any more, after being told to return."""


IN_FLIGHT = frozenset(
    {Outcome.OFFERED, Outcome.FETCHING, Outcome.TESTING, Outcome.SHADOW, Outcome.PROBATION}
)
EXPOSED = frozenset({*IN_FLIGHT, Outcome.CONFIRMED, Outcome.FAILED, Outcome.SILENT_AFTER})
"""Devices that may run the version, or did."""

_IN_PROGRESS = {
    SlotState.OFFERED: Outcome.OFFERED,
    SlotState.FETCHING: Outcome.FETCHING,
    SlotState.VERIFYING: Outcome.TESTING,
    SlotState.SELF_TESTING: Outcome.TESTING,
    SlotState.SHADOWING: Outcome.SHADOW,
    SlotState.PROBATION: Outcome.PROBATION,
    SlotState.ROLLING_BACK: Outcome.PROBATION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """The device's newest word on the slot; empty texts where it said nothing.

    Attributes:
        state: Of the newest attempt; empty when the slot was never reported.
        running_sha256: What answers requests.
        confirmed_sha256: What would run after a power cut.
        running_target: Name of what answers requests.
        confirmed_target: Name of what would run after a power cut.
        code: Why the newest attempt was refused or failed.
        detail: One sentence beside it.
        rollout: Which rollout the newest attempt belongs to.
        changed_at: When the server last saw this word change.
        has_newest: The device has accepted the newest assignment made for it.
    """

    state: str = ""
    running_sha256: str = ""
    confirmed_sha256: str = ""
    running_target: str = ""
    confirmed_target: str = ""
    code: str = ""
    detail: str = ""
    rollout: int = 0
    changed_at: datetime | None = None
    has_newest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A device's refusal of a whole assignment, with the instant of the report."""

    code: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One device of a rollout as the server remembers it.

    Attributes:
        outcome: Newest.
        code: Refusal or failure code, empty when none.
        detail: One sentence beside it.
        offered_at: Newest offer; None before the first.
        changed_at: When the outcome last changed.
        tries: Offers so far.
    """

    outcome: Outcome
    code: str = ""
    detail: str = ""
    offered_at: datetime | None = None
    changed_at: datetime
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """An outcome with its code and sentence."""

    outcome: Outcome
    code: str = ""
    detail: str = ""


class Weight(StrEnum):
    """What a device's outcome is to the gate."""

    WAITING = "waiting"
    IN_FLIGHT = "in_flight"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standpoint:
    """From where outcomes are judged.

    Attributes:
        rollout: This rollout's number.
        policy: Deadlines.
        now: Aware UTC.
        listening_since: Silence counts from here at the earliest: a server that was down heard
            nobody.
    """

    rollout: int
    policy: RolloutPolicy
    now: datetime
    listening_since: datetime | None = None


def judge_outcome(
    known: Progress,
    slot: SlotFacts,
    refusal: Refusal | None,
    standpoint: Standpoint,
    *,
    sha256: str,
    is_held: bool = True,
    is_shadowed: bool = False,
) -> Reading:
    """Tell how it went on one device.

    Args:
        known: What was remembered.
        slot: The device's newest word on the slot.
        refusal: Its refusal of a whole assignment, if its newest report has one.
        standpoint: From where it is judged.
        sha256: Of the package this device was offered.
        is_held: The slot's desired target is still this rollout's.
        is_shadowed: It is asked to compare, and not let go yet.
    """
    remembered = Reading(known.outcome, known.code, known.detail)
    offered_at = known.offered_at
    if offered_at is None or known.outcome in (Outcome.WITHDRAWN, Outcome.RETURNED):
        return remembered
    if slot.running_sha256 == slot.confirmed_sha256 == sha256:
        return remembered if known.outcome is Outcome.CONFIRMED else Reading(Outcome.CONFIRMED)
    if not is_held and (known.outcome in IN_FLIGHT or known.outcome is Outcome.CONFIRMED):
        return Reading(Outcome.REFUSED, SUPERSEDED, "its slot was given something else since")
    if known.outcome is Outcome.CONFIRMED and not slot.code:
        if slot.confirmed_sha256 == sha256 and not slot.running_sha256:
            return remembered  # it has just started and answers in a moment
        return Reading(Outcome.FAILED, REVERTED, f"runs {slot.running_target or 'nothing'} now")
    if slot.rollout == standpoint.rollout and _is_of_this_try(known, slot, offered_at):
        read = _read_slot(slot)
    elif refusal is not None and _is_about_offer(refusal, slot, offered_at):
        read = read_failure(refusal.code, refusal.detail)
    else:
        read = remembered
    if is_shadowed and read.outcome is Outcome.SHADOW and standpoint.policy.disagreement:
        # Held for as long as the gate on the shadow, or a person, needs.
        offered_at = standpoint.now
    return _judge_silence(known, read, standpoint, offered_at)


def read_failure(code: str, detail: str) -> Reading:
    """Sort a code into failed or refused; a code this server does not know is a failure.

    >>> read_failure("misfit", "").outcome
    <Outcome.REFUSED: 'refused'>
    """
    is_refusal = code_class(code) is FailureClass.NOT_FOR_ME
    return Reading(Outcome.REFUSED if is_refusal else Outcome.FAILED, code or "unknown", detail)


def code_class(code: str) -> FailureClass:
    """Give the class of a code; one this server does not know counts against the release."""
    try:
        return class_of(Code(code))
    except ValueError:
        return FailureClass.BROKEN_HERE


def weigh_outcome(outcome: Outcome, code: str, tries: int, tries_max: int) -> Weight:
    """Tell what an outcome is to the gate.

    >>> weigh_outcome(Outcome.FAILED, "fetch-timeout", 3, 3)
    <Weight.LEFT_OUT: 'left_out'>
    """
    match outcome:
        case Outcome.PENDING:
            return Weight.WAITING
        case Outcome.CONFIRMED:
            return Weight.CONFIRMED
        case Outcome.SILENT_AFTER:
            return Weight.FAILED
        case Outcome.FAILED if code_class(code) is FailureClass.BROKEN_HERE:
            return Weight.FAILED
        case Outcome.FAILED:
            return Weight.WAITING if tries < tries_max else Weight.LEFT_OUT
        case _:
            return Weight.IN_FLIGHT if outcome in IN_FLIGHT else Weight.LEFT_OUT


def find_retry_at(known: Progress, policy: RolloutPolicy) -> datetime | None:
    """Say when a failed device is offered the version again; None when never."""
    is_failed = known.outcome is Outcome.FAILED
    if not is_failed or code_class(known.code) is not FailureClass.RETRYABLE:
        return None
    if known.tries >= policy.tries_max:
        return None
    return known.changed_at + timedelta(seconds=policy.retry_delay_s * 2 ** (known.tries - 1))


def _is_of_this_try(known: Progress, slot: SlotFacts, offered_at: datetime) -> bool:
    """Tell a report on the newest offer from one on an earlier try of the same rollout."""
    if known.tries <= 1 or slot.has_newest:
        return True
    return slot.changed_at is not None and slot.changed_at >= offered_at


def _is_about_offer(refusal: Refusal, slot: SlotFacts, offered_at: datetime) -> bool:
    return not slot.has_newest and refusal.at >= offered_at + timedelta(seconds=GRACE_S)


def _read_slot(slot: SlotFacts) -> Reading:
    """Read a report that names this rollout and does not show the package confirmed."""
    if slot.state in _IN_PROGRESS:
        return Reading(_IN_PROGRESS[SlotState(slot.state)])
    if slot.code or slot.state == SlotState.FAILED:
        return read_failure(slot.code, slot.detail)
    return Reading(Outcome.OFFERED)


def _judge_silence(
    known: Progress, read: Reading, standpoint: Standpoint, offered_at: datetime
) -> Reading:
    """Turn an unfinished outcome into silence once its deadline has passed."""
    if read.outcome not in IN_FLIGHT:
        return read
    policy, now = standpoint.policy, standpoint.now
    since, limit_s = max(offered_at, standpoint.listening_since or offered_at), policy.deadline_s
    if policy.shadow is not None and read.outcome in (Outcome.TESTING, Outcome.SHADOW):
        limit_s += policy.shadow.timeout_s
    if read.outcome is Outcome.PROBATION:
        is_old = known.outcome is Outcome.PROBATION
        since = max(since, known.changed_at) if is_old else now
        limit_s += policy.probation.timeout_s
    if now < since + timedelta(seconds=limit_s):
        return read
    detail = f"no outcome {limit_s:g} s after it was {say_outcome(read.outcome)}"
    return Reading(Outcome.SILENT_AFTER, SILENT, detail)


def say_outcome(outcome: Outcome) -> str:
    """Write an outcome as people say it.

    >>> say_outcome(Outcome.PROBATION), say_outcome(Outcome.SILENT_AFTER)
    ('in probation', 'silent after the offer')
    """
    return _WORDS.get(outcome, outcome.value)


_WORDS = {
    Outcome.SHADOW: "in shadow",
    Outcome.PROBATION: "in probation",
    Outcome.SILENT_BEFORE: "offline before the offer",
    Outcome.SILENT_AFTER: "silent after the offer",
}
