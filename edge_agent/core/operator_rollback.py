"""What a slot does when a person on the device asks for the package that was confirmed before.

The way back is the other bank, if it was confirmed here and the approvers have not withdrawn it.
A candidate in shadow has answered nobody: it is let go of, and what answers goes on.
What is left stays on disk and is remembered as bad, so that nothing brings it back by itself: the
same assignment does not, a larger retry number or another package does. An update under way is
interrupted for the moment of the switch and then taken up again.

A package that does not load here any more is no way back: the slot returns to what it left.
"""

from dataclasses import replace

from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SlotState as Phase
from edge_agent.core import banks as bank_rules
from edge_agent.core.effects import CancelFetch, Effect
from edge_agent.core.events import ActivationFailed, OperatorRollback
from edge_agent.core.moves import ACTIVATE_S, CORRUPT, Outcome, ask_for_confirmed, roll_back
from edge_agent.core.release import (
    BAD_PACKAGES_MAX,
    BadPackage,
    Package,
    find_bad,
)
from edge_agent.core.shadowing import drop_shadow
from edge_agent.core.slot import Slot


def find_rollback_problem(slot: Slot) -> str:
    """Say why an operator cannot roll the slot back now, and what to do; empty when it is possible.

    >>> find_rollback_problem(Slot())
    'nothing was ever confirmed in this slot; assign a version on the server'
    """
    confirmed = slot.banks.confirmed_package
    if confirmed is None:
        return "nothing was ever confirmed in this slot; assign a version on the server"
    if slot.phase is Phase.ROLLING_BACK:
        return "it is rolling back already; look again with edge-agent status"
    if slot.phase in (Phase.SHADOWING, Phase.PROBATION):
        return ""
    former = _former(slot)
    if former is None:
        problem = f"no version confirmed before {confirmed.target} is left on this device"
    elif any(bad.sha256 == former.sha256 for bad in slot.bad):
        problem = f"{former.target} failed here before"
    else:
        return ""
    return f"{problem}; on the server roll the group back, or assign a version"


def operator_rollback(slot: Slot, event: OperatorRollback) -> Outcome:
    """Go back to what was confirmed before what answers now; nothing when that is impossible."""
    left = slot.banks.confirmed_package
    if left is None or find_rollback_problem(slot):
        return slot, []
    if slot.phase is Phase.PROBATION:
        detail = f"an operator on the device ended the probation and went back to {left.target}"
        return roll_back(slot, Code.OPERATOR_ROLLBACK, detail, event.now)
    if slot.phase is Phase.SHADOWING:
        detail = f"an operator on the device ended the shadowing; {left.target} goes on"
        return drop_shadow(slot, Code.OPERATOR_ROLLBACK, detail)
    effects: list[Effect] = []
    if slot.phase in (Phase.OFFERED, Phase.FETCHING):
        effects.append(CancelFetch())
    banks = bank_rules.return_to_former(slot.banks)
    former = banks.confirmed_package
    target = former.target if former is not None else ""
    slot = replace(
        slot,
        phase=Phase.ROLLING_BACK,
        banks=banks,
        candidate=None,
        attempt=slot.attempt + 1,
        boots=0,
        tries=0,
        code=Code.OPERATOR_ROLLBACK,
        detail=f"an operator on the device went back from {left.target} to {target}",
        bad=_remember_left(slot, left),
        since_at=None,
        rows=0,
        due_at=event.now + ACTIVATE_S,
    )
    slot, asked = ask_for_confirmed(slot)
    return slot, [*effects, *asked]


def is_left_for_nothing(slot: Slot, event: ActivationFailed) -> bool:
    """Tell whether what an operator went back to cannot answer here, while what was left can."""
    confirmed = slot.banks.confirmed_package
    return (
        slot.phase is Phase.ROLLING_BACK
        and slot.code is Code.OPERATOR_ROLLBACK
        and confirmed is not None
        and confirmed.sha256 == event.sha256
        and slot.asked == event.sha256
        and _former(slot) is not None
    )


def return_to_left(slot: Slot, event: ActivationFailed) -> Outcome:
    """Take back an operator's rollback whose package does not load."""
    failed = slot.banks.confirmed_package
    banks = bank_rules.return_to_former(slot.banks)
    left = banks.confirmed_package
    if failed is None or left is None or banks.confirmed is None:
        return slot, []
    if event.code in CORRUPT:
        banks = bank_rules.clear(banks, banks.confirmed.other)
    slot = replace(
        slot,
        banks=banks,
        code=None,
        detail=f"an operator's rollback to {failed.target} failed ({event.code}); it goes on with"
        f" {left.target}",
        bad=tuple(bad for bad in slot.bad if bad.sha256 != left.sha256),
        due_at=event.now + ACTIVATE_S,
    )
    return ask_for_confirmed(slot)


def is_update_waiting(slot: Slot) -> bool:
    """Tell whether an update was interrupted by the switch and is to be taken up again."""
    confirmed, wanted = slot.banks.confirmed_package, slot.wanted
    is_switch = slot.phase is Phase.ROLLING_BACK and slot.code in (None, Code.OPERATOR_ROLLBACK)
    if not is_switch or wanted is None or find_bad(slot.bad, wanted) is not None:
        return False
    return confirmed is None or wanted.sha256 != confirmed.sha256


def _former(slot: Slot) -> Package | None:
    if slot.banks.confirmed is None:
        return None
    package = slot.banks.at(slot.banks.confirmed.other)
    is_usable = package is not None and package.is_proven and not package.is_withdrawn
    return package if is_usable else None


def _remember_left(slot: Slot, left: Package) -> tuple[BadPackage, ...]:
    wanted = slot.wanted
    retry = wanted.retry if wanted is not None and wanted.sha256 == left.sha256 else 0
    others = tuple(bad for bad in slot.bad if bad.sha256 != left.sha256)
    newest = BadPackage(sha256=left.sha256, retry=retry, code=Code.OPERATOR_ROLLBACK)
    return (*others, newest)[-BAD_PACKAGES_MAX:]
