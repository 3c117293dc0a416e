"""Run every rollout one look further: read, decide, write.

Each look reads one state without holding up anybody, decides with the pure core, and writes rows,
desired slots, verdicts and audit in one transaction that only the holder of the controller's lease
may commit, and only over the revision it has read. Killed at any point, it has written all of a
look or nothing, and the next look starts from what is stored.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.codes import Code
from fleet_server.core.label_query import LabelQuery, QueryError, parse_query
from fleet_server.core.rollout_look import plan_round
from fleet_server.core.rollout_machine import FINAL, RolloutState
from fleet_server.core.rollout_moves import MOVE
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_round import Act, Change, RoundPlan, RoundView
from fleet_server.core.rollout_state import Member, Rollout
from fleet_server.errors import BusyError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import Wish
from fleet_server.ports.rollouts import Book, Books, Fence, ProfileSource
from fleet_server.services.assign_devices import Assigner, Objection
from fleet_server.services.define_group import find_query
from fleet_server.services.rollout_members import crown, is_approved, load_packages

ACTOR = "controller"
LOOKS_AT_ONCE_MAX = 4
SETTLE_FOR = timedelta(days=30)
"""How long a rollout that is over still serves and hears the devices that were offline."""
RETURN_PROBATION = ProbationPolicy(
    duration_s=0, rows_min=0, timeout_s=60, error_rate_max=1, output_shift_max=1
)
"""What a device returns to was confirmed there before."""
LOG = logging.getLogger(__name__)


class RolloutMovedError(BusyError):
    """Somebody else wrote the rollout between this look's reading and writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookReport:
    """What one call did.

    Attributes:
        rollouts: Looked at.
        offers: Devices offered a version.
        withdrawals: Devices told to return.
        moved: Rollouts skipped because an operator acted meanwhile; looked at next time.
    """

    rollouts: int = 0
    offers: int = 0
    withdrawals: int = 0
    moved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRunner:
    """Runs the rollouts of one fleet.

    Attributes:
        books: Opens transactions.
        make_assigner: Gives what checks and stores wishes, with the approvals of this moment.
        profiles: Device profiles.
        clock: Time of day.
        listening_since: Since when this server has heard devices; silence counts from here.
    """

    books: Books
    make_assigner: Callable[[], Assigner]
    profiles: ProfileSource
    clock: Clock
    listening_since: datetime | None = None

    def run_once(self, fence: Fence | None = None) -> LookReport:
        """Look at every rollout once.

        Raises:
            LeaseLostError: Another process runs the rollouts by now; stop.
        """
        with self.books.reading() as book:
            rollouts = book.rollouts.list_to_look_at(finished_after=self.clock.now() - SETTLE_FOR)
        report = LookReport(rollouts=len(rollouts))
        for rollout in rollouts:
            try:
                plans = self._follow(rollout.id, fence)
            except RolloutMovedError as error:
                LOG.info("%s", error)
                report = replace(report, moved=report.moved + 1)
                continue
            report = replace(
                report,
                offers=report.offers + sum(len(plan.offers) for plan in plans),
                withdrawals=report.withdrawals + sum(len(plan.withdrawals) for plan in plans),
            )
        return report

    def _follow(self, rollout_id: int, fence: Fence | None) -> list[RoundPlan]:
        """Look, and look again at once when something was decided: the next state acts now."""
        plans: list[RoundPlan] = []
        for _ in range(LOOKS_AT_ONCE_MAX):
            plan = self.look_at(rollout_id, fence)
            if plan is not None:
                plans.append(plan)
            if plan is None or not plan.acts:
                break
        return plans

    def look_at(self, rollout_id: int, fence: Fence | None = None) -> RoundPlan | None:
        """Look at one rollout; return what was written, None when there was nothing to write.

        Raises:
            RolloutMovedError: It was written meanwhile; nothing was done.
            LeaseLostError: As ``run_once``.
        """
        with self.books.reading() as book:
            rollout = book.rollouts.find(rollout_id)
            if rollout is None:
                return None
            view = self._view(book, rollout)
        plan = plan_round(view)
        if plan.is_empty and plan.rollout == rollout:
            return None
        with self.books.writing(fence) as book:
            self._write(book, plan, {member.device.id: member for member in view.members})
        if plan.rollout.state is not rollout.state:
            LOG.info("rollout %d is %s: %s", rollout.id, plan.rollout.state, plan.rollout.sentence)
        return plan

    def _view(self, book: Book, rollout: Rollout) -> RoundView:
        query = _read_query(book, rollout)
        is_open = rollout.state is RolloutState.RUNNING and query is not None
        outsiders = book.fleet.list_outsiders(rollout.id, query) if is_open and query else []
        family = rollout.policy.family
        is_judged = rollout.policy.disagreement is not None and rollout.state not in FINAL
        return RoundView(
            rollout=rollout,
            tally=book.rollouts.tally(rollout.id),
            members=book.rollouts.load_members(rollout),
            outsiders=outsiders,
            query=query,
            packages=load_packages(
                book, rollout.model, rollout.version, family, rollout.excluded_models
            ),
            profiles=self.profiles.load_all(),
            is_approved=is_approved(book, rollout.model, rollout.version, family),
            is_superseded=book.rollouts.is_superseded(rollout),
            alarms=book.fleet.list_alarms(rollout),
            shadows=book.rollouts.list_shadows(rollout) if is_judged else {},
            champion=book.fleet.find_champion(rollout.model),
            listening_since=self.listening_since,
            now=self.clock.now(),
        )

    def _write(self, book: Book, plan: RoundPlan, formers: Mapping[str, Member]) -> None:
        rollout, now = plan.rollout, self.clock.now()
        if not book.rollouts.save(rollout):
            raise RolloutMovedError(f"rollout {rollout.id} was changed meanwhile; looking again")
        assigner = self.make_assigner()
        objections = _offer(book, assigner, plan)
        stuck = _withdraw(book, assigner, plan)
        changes = [
            heed(change, formers.get(change.device.id), objections, stuck, now)
            for change in plan.changes
        ]
        book.rollouts.put_members(rollout.id, changes)
        for decision in plan.decisions:
            book.rollouts.add_decision(rollout.id, decision, at=now)
        acts = _leave_out({**objections, **stuck}, plan.acts)
        if plan.champion is not None:
            detail = crown(book, rollout, plan.champion)
            acts.append(Act(act="model.champion", detail=detail))
        for act in acts:
            is_model = act.act.startswith("model.")
            book.audit.append(
                at=now,
                actor=ACTOR,
                act=act.act,
                subject=rollout.model if is_model else f"rollout/{rollout.id}",
                detail={**act.detail, "rollout": rollout.id},
            )


def run_rollouts_once(runner: RolloutRunner, fence: Fence | None = None) -> LookReport:
    """Look at every rollout once; what the controller calls at every turn."""
    return runner.run_once(fence)


def _read_query(book: Book, rollout: Rollout) -> LabelQuery | None:
    """Read the group's query; None when it was removed or no longer reads."""
    text = find_query(book.groups, rollout.group)
    if text is None:
        return None
    try:
        return parse_query(text)
    except QueryError as error:
        LOG.warning("rollout %d takes nobody new: group %s: %s", rollout.id, rollout.group, error)
        return None


def _offer(book: Book, assigner: Assigner, plan: RoundPlan) -> dict[str, Objection]:
    """Let the offered devices' slots run the version; return what stands against some."""
    rollout = plan.rollout
    wishes = [
        Wish(
            device=offer.device.id,
            slot=rollout.slot,
            target=offer.target,
            rollout=rollout.id,
            retry=offer.retry,
            probation=rollout.policy.probation,
            shadow=offer.shadow,
        )
        for offer in (*plan.offers, *plan.releases)
    ]
    return _by_device(assigner.set_desired_many(book.devices, book.assignments, wishes))


def _withdraw(book: Book, assigner: Assigner, plan: RoundPlan) -> dict[str, Objection]:
    """Let the devices return that this rollout still holds; return who cannot.

    A slot that had nothing before, or whose earlier package may not run any more, is left as it
    is: nothing unsigned is ever wished for.
    """
    rollout = plan.rollout
    held = book.rollouts.find_held(rollout, [w.device.number for w in plan.withdrawals])
    due = [withdrawal for withdrawal in plan.withdrawals if withdrawal.device.number in held]
    wishes = [
        Wish(
            device=withdrawal.device.id,
            slot=rollout.slot,
            target=withdrawal.target,
            probation=RETURN_PROBATION,
        )
        for withdrawal in due
        if withdrawal.target
    ]
    stuck = _by_device(assigner.set_desired_many(book.devices, book.assignments, wishes))
    for withdrawal in due:
        if not withdrawal.target or withdrawal.device.id in stuck:
            book.assignments.clear_desired(withdrawal.device.number, rollout.slot)
    return stuck


def _by_device(objections: Sequence[Objection]) -> dict[str, Objection]:
    return {objection.device: objection for objection in objections}


def _leave_out(refused: Mapping[str, Objection], acts: Sequence[Act]) -> list[Act]:
    """Let the audit log name only devices that were moved, not those something stood against."""
    kept = []
    for act in acts:
        if act.act != MOVE:
            kept.append(act)
        elif moved := {k: v for k, v in act.detail["devices"].items() if k not in refused}:
            kept.append(replace(act, detail={**act.detail, "devices": moved}))
    return kept


def heed(
    change: Change,
    former: Member | None,
    objections: Mapping[str, Objection],
    stuck: Mapping[str, Objection],
    now: datetime,
) -> Change:
    """Turn an offer that was not made into a refusal, and say who cannot return.

    Of a device that was to move the row goes on naming what this rollout gave it before: that is
    what it runs, and what a rollback takes back.

    Args:
        change: What the look wants to store.
        former: The device as the look found it; None for a newcomer.
        objections: Offers that were not made, by device.
        stuck: Returns that cannot be, by device.
        now: Aware UTC.
    """
    progress = change.progress
    if (objection := objections.get(change.device.id)) is not None:
        is_move = former is not None and former.target not in ("", change.target)
        if former is not None and is_move:
            previous = former.previous_target
            change = replace(change, previous_target=previous, target=former.target)
        code = Code.NOT_APPROVED if objection.field == "approval" else Code.MISFIT
        progress = replace(
            progress,
            outcome=Outcome.REFUSED,
            code=str(code),
            detail=str(objection),
            offered_at=now if is_move else None,
            changed_at=now,
        )
    elif (objection := stuck.get(change.device.id)) is not None:
        progress = replace(progress, detail=f"cannot return: {objection}")
    return replace(change, progress=progress)
