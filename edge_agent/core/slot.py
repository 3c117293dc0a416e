"""The state of one slot as a value, what of it must survive, and how it is reported."""

from dataclasses import dataclass

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import Running, SlotReport, SlotState
from edge_agent.contract.shadow import ShadowReport
from edge_agent.core.banks import Bank, Banks
from edge_agent.core.release import BadPackage, Package, Release

_EMPTY = Banks()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One slot.

    Durable attributes:
        phase: Where the newest attempt stands.
        wanted: Release of the newest accepted assignment.
        banks: What the banks hold and which is confirmed.
        candidate: Bank in shadowing or probation, None outside of them.
        boots: Lives of the agent that ended inside this self-test, shadowing or probation.
        is_stopped: The last life ended in good order.
        code: Why the newest attempt failed or waits; None when it did not.
        detail: One sentence beside the code.
        bad: Packages that failed here.
        shadow: What comparing the newest candidate found, once that ended.

    Volatile attributes:
        running: What answers now.
        asked: sha256 last asked to answer.
        attempt: Names the piece of work under way; a completion that names another is ignored.
        tries: Retryable failures of this round.
        due_at: Deadline or next try of the phase.
        reask_at: When to ask the confirmed package again after it could not be loaded.
        since_at: When the candidate began to answer, or to be compared.
        rows: Rows answered in this probation, or compared.
        shadow_live: What comparing has found so far.
    """

    phase: SlotState = SlotState.EMPTY
    wanted: Release | None = None
    banks: Banks = _EMPTY
    candidate: Bank | None = None
    boots: int = 0
    is_stopped: bool = False
    code: Code | None = None
    detail: str = ""
    bad: tuple[BadPackage, ...] = ()
    shadow: ShadowReport | None = None
    running: Package | None = None
    asked: str | None = None
    attempt: int = 0
    tries: int = 0
    due_at: float | None = None
    reask_at: float | None = None
    since_at: float | None = None
    rows: int = 0
    shadow_live: ShadowReport | None = None

    @property
    def next_at(self) -> float | None:
        """When time alone will move this slot, None when never."""
        if self.due_at is None or self.reask_at is None:
            return self.reask_at if self.due_at is None else self.due_at
        return min(self.due_at, self.reask_at)


def durable_part(slot: Slot) -> tuple[object, ...]:
    """Return what must be on disk before an effect may follow."""
    return (
        slot.phase,
        slot.wanted,
        slot.banks,
        slot.candidate,
        slot.boots,
        slot.is_stopped,
        slot.code,
        slot.detail,
        slot.bad,
        slot.shadow,
    )


IN_PROGRESS = frozenset(
    {SlotState.OFFERED, SlotState.FETCHING, SlotState.VERIFYING, SlotState.SELF_TESTING}
)
"""Phases in which a release is on its way into the free bank."""


def find_needed_digests(slot: Slot) -> frozenset[str]:
    """Return every sha256 whose bytes or parts must stay on disk."""
    if slot.wanted is not None and slot.phase in IN_PROGRESS:
        return slot.banks.digests | {slot.wanted.sha256}
    return slot.banks.digests


def report_slot(slot: Slot) -> SlotReport:
    """Say what the slot runs, wants and met."""
    running, wanted = slot.running, slot.wanted
    bank = slot.banks.find(running.sha256) if running else None
    confirmed, detail = slot.banks.confirmed_package, slot.detail
    if confirmed is not None and confirmed.is_withdrawn:
        kept = f"{confirmed.target} was withdrawn; it keeps running, as the approvers signed"
        detail = f"{kept}; {detail}" if slot.code else kept
    return SlotReport(
        state=slot.phase,
        running=_running(running),
        confirmed=_running(confirmed),
        desired=Running(target=wanted.target, sha256=wanted.sha256) if wanted else None,
        bank=str(bank) if bank else "",
        code=str(slot.code) if slot.code else None,
        detail=detail,
        rollout=wanted.rollout if wanted else 0,
        rows=slot.rows if slot.phase is not SlotState.SHADOWING else 0,
        shadow=slot.shadow_live or slot.shadow,
    )


def _running(package: Package | None) -> Running | None:
    return Running(target=package.target, sha256=package.sha256) if package else None
