"""What a slot will do next, in a sentence for people.

Works on a slot as committed, too, where nothing volatile is known: then it tells what an agent that
starts now will do. Times are told in whole seconds from ``now``.
"""

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core.moves import TRIES_MAX, may_work_later
from edge_agent.core.slot import Slot


def describe_next(slot: Slot, *, now: float | None = None, is_connected: bool = True) -> str:
    """Say what happens next with the slot, and what it waits for.

    Args:
        slot: As it is.
        now: Monotonic seconds; None when no agent runs.
        is_connected: Whether a session with the server stands.

    >>> describe_next(Slot())
    'waits for an assignment'
    """
    wanted = slot.wanted.target if slot.wanted is not None else "the assigned package"
    confirmed = slot.banks.confirmed_package
    back = confirmed.target if confirmed is not None else ""
    plain = {
        Phase.EMPTY: "waits for an assignment",
        Phase.VERIFYING: f"checks the hash and form of {wanted}, then self-tests it",
        Phase.SELF_TESTING: f"self-tests {wanted} in a process of its own, then"
        f" {_describe_trial(slot)}",
        Phase.ROLLING_BACK: f"waits until {back} answers again" if back else "lets nothing answer",
    }
    match slot.phase:
        case Phase.OFFERED | Phase.FETCHING:
            return _describe_fetch(slot, wanted, now, is_connected=is_connected)
        case Phase.SHADOWING:
            return _describe_shadow(slot, wanted, back, now)
        case Phase.PROBATION:
            return _describe_probation(slot, wanted, back, now)
        case Phase.FAILED:
            return _describe_failed(slot, back)
        case Phase.CONFIRMED if slot.reask_at is not None and now is not None:
            return f"asks {back} to answer again in {_seconds(slot.reask_at, now)} s"
        case _:
            return plain.get(slot.phase, "keeps answering and waits for the next assignment")


def _describe_fetch(slot: Slot, wanted: str, now: float | None, *, is_connected: bool) -> str:
    if not is_connected:
        return f"fetches {wanted} when the server is reached again"
    if slot.phase is Phase.FETCHING:
        return f"is fetching {wanted}, then checks it"
    if slot.due_at is not None and now is not None:
        tries = f"try {slot.tries + 1} of {TRIES_MAX}"
        return f"fetches {wanted} again in {_seconds(slot.due_at, now)} s ({tries})"
    return f"fetches {wanted}, after what is fetched before it"


def _describe_trial(slot: Slot) -> str:
    is_shadowed = slot.wanted is not None and slot.wanted.shadow is not None
    if is_shadowed and slot.banks.confirmed is not None:
        return "compares its answers without giving them"
    return "lets it answer on probation"


def _describe_shadow(slot: Slot, wanted: str, back: str, now: float | None) -> str:
    policy = slot.wanted.shadow if slot.wanted is not None else None
    what = f"compares {wanted} with {back} on real requests without letting it answer"
    then = "then lets it answer on probation"
    if policy is None or now is None:
        return f"{what}, {then}"
    age_s = int(now - slot.since_at) if slot.since_at is not None else 0
    if policy.is_held:
        return f"{what} ({age_s} s and {slot.rows} rows so far) until the server has decided"
    need = f"{policy.duration_s:g} s and {policy.rows_min} rows needed, {policy.timeout_s:g} s at"
    return f"{what} ({age_s} s and {slot.rows} rows so far, {need} most), {then}"


def _describe_probation(slot: Slot, wanted: str, back: str, now: float | None) -> str:
    policy = slot.wanted.probation if slot.wanted is not None else None
    otherwise = f", or goes back to {back}" if back else ", or lets nothing answer"
    if policy is None or slot.since_at is None or now is None:
        return f"lets {wanted} answer on probation, then confirms it{otherwise}"
    age_s = int(now - slot.since_at)
    so_far = f"{age_s} s and {slot.rows} rows so far"
    need = f"{policy.duration_s:g} s and {policy.rows_min} rows"
    return f"confirms {wanted} after {need} without a fault ({so_far}){otherwise}"


def _describe_failed(slot: Slot, back: str) -> str:
    meanwhile = f"{back} keeps answering" if back else "nothing answers"
    if may_work_later(slot.code):
        return f"{meanwhile}; tries again at the next connection or assignment"
    if slot.code is Code.WITHDRAWN:
        return f"{meanwhile}; waits for the assignment of an approved version"
    return f"{meanwhile}; waits for another version, or the same planned with --again"


def _seconds(at: float, now: float) -> int:
    return max(0, round(at - now))
