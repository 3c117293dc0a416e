"""What operators do to a rollout: start, pause, resume, abort, roll back.

Each act is one transaction: the rollout's new state, what it means and an audit row. Devices
follow at the controller's next look, so that an act holds even when the server is stopped right
after it. Nothing here reaches a device that the rollout has not reached already.
"""

from dataclasses import dataclass, replace

from fleet_server.core.rollout_gate import Basis, accept_by_operator
from fleet_server.core.rollout_look import dump_counts, say_stage
from fleet_server.core.rollout_machine import (
    RolloutEffect,
    RolloutEvent,
    TransitionError,
    step,
)
from fleet_server.core.rollout_outcome import IN_FLIGHT, Outcome
from fleet_server.core.rollout_round import Decision, enter_state
from fleet_server.core.rollout_state import Rollout
from fleet_server.core.rollout_tally import Tally
from fleet_server.core.rollout_words import say_devices
from fleet_server.core.shadow_gate import (
    ShadowCounts,
    ShadowSettled,
    count_compared,
    settle_shadow,
)
from fleet_server.core.shadow_limits import DisagreementTest
from fleet_server.errors import BusyError, MisuseError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.rollouts import Book, Books
from fleet_server.services.plan_rollout import find_packages
from fleet_server.services.rollout_members import uncrown

REASON_CHARS = range(8, 401)
_PAST = {
    RolloutEvent.PAUSE: "Paused",
    RolloutEvent.ABORT: "Aborted",
    RolloutEvent.ROLL_BACK: "Rolled back",
}
VERDICT_OF_OPERATOR = "advance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """What an act did, or would do: the rollout after it, and its effect on devices in words."""

    rollout: Rollout
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDesk:
    """Steers the rollouts of one fleet."""

    books: Books
    clock: Clock
    actor: str

    def start(self, rollout_id: int, *, is_dry_run: bool = False) -> Steered:
        """Open the first stage.

        Raises:
            NotFoundError: No such rollout.
            RefusedError: It is no draft, its version is not approved any more, or another
                rollout under way shares devices with it.
        """
        return self._steer(rollout_id, RolloutEvent.START, "", is_dry_run=is_dry_run)

    def pause(self, rollout_id: int, reason: str, *, is_dry_run: bool = False) -> Steered:
        """Offer nothing more; what is in flight finishes. Raises as ``start``."""
        check_reason(reason)
        return self._steer(rollout_id, RolloutEvent.PAUSE, reason, is_dry_run=is_dry_run)

    def resume(self, rollout_id: int, reason: str, *, is_dry_run: bool = False) -> Steered:
        """Go on; a stage that was left undecided is let pass. Raises as ``start``."""
        check_reason(reason)
        return self._steer(rollout_id, RolloutEvent.RESUME, reason, is_dry_run=is_dry_run)

    def abort(self, rollout_id: int, reason: str, *, is_dry_run: bool = False) -> Steered:
        """End it here: who runs the version keeps it. Raises as ``start``."""
        check_reason(reason)
        return self._steer(rollout_id, RolloutEvent.ABORT, reason, is_dry_run=is_dry_run)

    def roll_back(self, rollout_id: int, reason: str, *, is_dry_run: bool = False) -> Steered:
        """Let every device return to what it ran before. Raises as ``start``."""
        check_reason(reason)
        return self._steer(rollout_id, RolloutEvent.ROLL_BACK, reason, is_dry_run=is_dry_run)

    def _steer(
        self, rollout_id: int, event: RolloutEvent, reason: str, *, is_dry_run: bool
    ) -> Steered:
        opened = self.books.reading() if is_dry_run else self.books.writing()
        with opened as book:
            rollout = find_rollout(book, rollout_id)
            try:
                state, effects = step(rollout.state, event)
            except TransitionError as error:
                raise RefusedError(f"rollout {rollout_id}: {error}") from error
            if event is RolloutEvent.START:
                _check_start(book, rollout)
            effect = say_effect(book, rollout, event)
            after = enter_state(rollout, state, effects, now=self.clock.now())
            after = self._put_in_words(after, event, reason)
            if is_dry_run:
                return Steered(rollout=after, effect=effect)
            if event is RolloutEvent.RESUME and rollout.is_undecided:
                after = self._let_pass(book, after)
            if RolloutEffect.RESTORE_CHAMPION in effects:
                self._restore_champion(book, rollout, reason)
            self._write(book, rollout, after, event, reason)
        return Steered(rollout=replace(after, revision=after.revision + 1), effect=effect)

    def _put_in_words(self, rollout: Rollout, event: RolloutEvent, reason: str) -> Rollout:
        """Put the sentence beside the new state."""
        match event:
            case RolloutEvent.START:
                return replace(rollout, sentence=f"{say_stage(rollout, 0)}: just opened.")
            case RolloutEvent.RESUME:
                return replace(rollout, stop_reason="")
            case _:
                said = f"{_PAST[event]} by {self.actor}: {reason.strip()}."
                return replace(rollout, stop_reason=said, sentence=said)

    def _let_pass(self, book: Book, rollout: Rollout) -> Rollout:
        """Remember that the operator lets an undecided stage pass."""
        now, index = self.clock.now(), rollout.stage
        tally = Tally(
            book.rollouts.tally(rollout.id),
            tries_max=rollout.policy.tries_max,
            excluded=rollout.excluded_models,
            has_place=rollout.has_place,
        )
        counts = tally.count_stage(index)
        record = rollout.stages[index]
        if rollout.policy.disagreement is not None and record.shadow is None:
            # The candidate in shadow was undecided; the outcomes of the stage are judged later.
            stage = replace(record, shadow=self._accept_shadow(book, rollout, index))
        else:
            stage = replace(record, settled=accept_by_operator(counts, now=now))
        book.rollouts.add_decision(
            rollout.id,
            Decision(
                verdict=VERDICT_OF_OPERATOR,
                sentence=f"{say_stage(rollout, index)}: let pass by {self.actor}, undecided.",
                inputs={"stage": index, "counts": dump_counts(counts), "by": self.actor},
            ),
            at=now,
        )
        return replace(
            rollout, stages=(*rollout.stages[:index], stage, *rollout.stages[index + 1 :])
        )

    def _accept_shadow(self, book: Book, rollout: Rollout, stage: int) -> ShadowSettled:
        """Remember that a person lets an undecided candidate answer."""
        test = rollout.policy.disagreement or DisagreementTest()
        seen = book.rollouts.list_shadows(rollout).values()
        compared = count_compared(test.count(s.report) for s in seen if s.stage == stage)
        counts = ShadowCounts(compared=compared)
        return settle_shadow(counts, Basis.OPERATOR, now=self.clock.now())

    def _restore_champion(self, book: Book, rollout: Rollout, reason: str) -> None:
        """Put the version before back in service, unless another was put there since."""
        moved = uncrown(book, rollout)
        if not moved:
            return
        book.audit.append(
            at=self.clock.now(),
            actor=self.actor,
            act="model.champion",
            subject=rollout.model,
            reason=reason,
            detail={**moved, "rollout": rollout.id},
        )

    def _write(
        self, book: Book, before: Rollout, after: Rollout, event: RolloutEvent, reason: str
    ) -> None:
        if not book.rollouts.save(after):
            raise BusyError(f"rollout {before.id} was changed meanwhile; try again")
        book.audit.append(
            at=self.clock.now(),
            actor=self.actor,
            act=f"rollout.{event}",
            subject=f"rollout/{before.id}",
            reason=reason,
            detail={"from": str(before.state), "to": str(after.state), "stage": after.stage + 1},
        )


def find_rollout(book: Book, rollout_id: int) -> Rollout:
    """Return a rollout.

    Raises:
        NotFoundError: There is none of that number; names the newest.
    """
    rollout = book.rollouts.find(rollout_id)
    if rollout is None:
        newest = book.rollouts.list_newest(1)
        known = f"the newest is {newest[0].id}" if newest else "there is none yet"
        raise NotFoundError(f"no rollout {rollout_id}; {known} (`edgefleet rollout ls`)")
    return rollout


def check_reason(reason: str) -> None:
    """Refuse a reason that says nothing.

    Raises:
        MisuseError: Shorter than 8 characters or longer than 400.
    """
    if len(reason.strip()) not in REASON_CHARS:
        raise MisuseError(
            f"the reason has {len(reason.strip())} characters; say in"
            f" {REASON_CHARS[0]} to {REASON_CHARS[-1]} why: --reason '...'"
        )


def say_effect(book: Book, rollout: Rollout, event: RolloutEvent) -> str:
    """Say in numbers what an act does to devices."""
    tally = Tally(book.rollouts.tally(rollout.id), tries_max=rollout.policy.tries_max)
    in_flight = tally.count(*IN_FLIGHT)
    waiting = tally.count(Outcome.PENDING, Outcome.SILENT_BEFORE)
    has_it = tally.count(Outcome.CONFIRMED, Outcome.PROBATION)
    match event:
        case RolloutEvent.START:
            first = tally.count_stage(0).targeted
            return f"{say_devices(first)} in the first stage, {waiting:,} in all"
        case RolloutEvent.PAUSE:
            return f"{say_devices(waiting)} not offered for now, {in_flight:,} in flight finish"
        case RolloutEvent.RESUME if rollout.is_undecided:
            return f"the undecided stage is let pass; {say_devices(waiting)} still to be offered"
        case RolloutEvent.RESUME:
            return f"{say_devices(waiting)} still to be offered"
        case RolloutEvent.ABORT:
            back = in_flight - tally.count(Outcome.PROBATION)
            return (
                f"{say_devices(waiting)} never offered, {back:,} in flight taken back,"
                f" {has_it:,} that run {rollout.release} keep it"
            )
        case _:
            exposed = has_it + in_flight - tally.count(Outcome.PROBATION)
            return f"{say_devices(exposed)} return to what they ran before"


def _check_start(book: Book, rollout: Rollout) -> None:
    find_packages(book, rollout.model, rollout.version, rollout.policy.family)
    for other, shared in sorted(book.rollouts.find_overlaps(rollout).items()):
        raise RefusedError(
            f"rollout {other} is under way on slot {rollout.slot} of {say_devices(shared)} of this"
            f" one; wait for it (`edgefleet rollout watch {other}`) or end it"
            f" (`edgefleet rollout abort {other} --reason ...`)"
        )
