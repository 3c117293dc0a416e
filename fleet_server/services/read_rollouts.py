"""Read rollouts for people and programs: the list, one rollout whole, and why it was decided so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet_server.core.member_gate import ExcludedMember, MemberCounts, weigh_member
from fleet_server.core.rollout_gate import StageCounts
from fleet_server.core.rollout_limits import OnHalt
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_replay import Replay, replay_decision
from fleet_server.core.rollout_state import Rollout
from fleet_server.core.rollout_tally import Tally
from fleet_server.core.shadow_gate import ShadowCounts, count_compared, find_share_interval
from fleet_server.core.shadow_limits import DisagreementTest
from fleet_server.core.targeting import LeftOut, find_targets
from fleet_server.ports.clock import Clock
from fleet_server.ports.rollouts import Book, Books, MemberView, ProfileSource, StoredDecision
from fleet_server.services.define_group import find_query, is_in, read_query
from fleet_server.services.rollout_members import load_packages
from fleet_server.services.steer_rollout import find_rollout

FAILURES_SHOWN = 5
LEFT_OUT_SHOWN = 1_000
DECISIONS_SHOWN = 200
BAD = (Outcome.FAILED, Outcome.SILENT_AFTER)
NOTHING_COMPARED = ShadowCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One stage: its devices as the gate sees them and by outcome."""

    name: str
    counts: StageCounts
    outcomes: Mapping[Outcome, int]
    verdict: str
    is_passed: bool
    shadow: ShadowCounts = NOTHING_COMPARED

    def dump_shadow(self, likeness: float) -> dict[str, float] | None:
        """Give what was compared as JSON, with the share's 95 % interval; None: nothing."""
        shadow = self.shadow
        if not shadow.rows:
            return None
        low, high = find_share_interval(shadow, likeness)
        return {
            "devices": shadow.devices,
            "rows": shadow.rows,
            "differing": shadow.differing,
            "share": shadow.differing / shadow.rows,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFigure:
    """One member of a family that failed somewhere, or was taken out.

    Attributes:
        model: Its model name.
        counts: Its devices in all stages; of one that was taken out those it was judged by.
        evidence: Against it; it is taken out at the rollout's limit.
        excluded: When and on what it was taken out; None while it is in.
        closed: When and on what it was decided that no further device gets it; None before.
    """

    model: str
    counts: MemberCounts
    evidence: float
    excluded: ExcludedMember | None = None
    closed: ExcludedMember | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "model": self.model,
            "finished": self.counts.finished,
            "failed": self.counts.failed,
            "evidence": self.evidence,
            "excluded_at": self.excluded.at if self.excluded else None,
            "closed_at": self.closed.at if self.closed else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One rollout whole.

    Attributes:
        rollout: Its state and sentence.
        stages: In order.
        failures: The newest devices that failed or fell silent.
        running: Devices of it that say they run its version now.
        read_at: When this was read.
        members: Of a family: those that failed somewhere, the worst first.
        members_finished: Of a family: members with a finished device.
    """

    rollout: Rollout
    stages: tuple[StageView, ...]
    failures: tuple[MemberView, ...]
    running: int
    read_at: datetime
    members: tuple[MemberFigure, ...] = ()
    members_finished: int = 0

    def count(self, *outcomes: Outcome) -> int:
        """Give the devices of all stages with one of these outcomes."""
        return sum(stage.outcomes.get(o, 0) for stage in self.stages for o in outcomes)

    @property
    def devices(self) -> int:
        """All devices of the rollout."""
        return sum(stage.counts.targeted for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        rollout = self.rollout
        test = rollout.policy.disagreement or DisagreementTest()
        return {
            "id": rollout.id,
            "model": rollout.model,
            "version": rollout.version,
            "slot": rollout.slot,
            "group": rollout.group,
            "state": str(rollout.state),
            "is_undecided": rollout.is_undecided,
            "sentence": rollout.sentence,
            "stage": rollout.stage + 1,
            "stages": [
                {
                    "name": stage.name,
                    "devices": stage.counts.targeted,
                    "outcomes": {str(o): count for o, count in stage.outcomes.items()},
                    "verdict": stage.verdict,
                    "is_passed": stage.is_passed,
                    "shadow": stage.dump_shadow(test.likeness),
                }
                for stage in self.stages
            ],
            "running": self.running,
            "failures": [dump_member(member) for member in self.failures],
            "members": [member.to_json() for member in self.members],
            "members_finished": self.members_finished,
            "policy": rollout.policy.to_json(),
            "created_at": rollout.created_at,
            "started_at": rollout.started_at,
            "stage_opened_at": rollout.stage_opened_at,
            "finished_at": rollout.finished_at,
            "revision": rollout.revision,
            "read_at": self.read_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A verdict and what the gate makes of its inputs again; None when no gate made it."""

    decision: StoredDecision
    replay: Replay | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReader:
    """Reads the rollouts of one fleet."""

    books: Books
    profiles: ProfileSource
    clock: Clock

    def list_newest(self, limit: int) -> list[RolloutView]:
        """Return rollouts, newest first."""
        with self.books.reading() as book:
            return [self._view(book, rollout) for rollout in book.rollouts.list_newest(limit)]

    def show(self, rollout_id: int) -> RolloutView:
        """Return one rollout.

        Raises:
            NotFoundError: There is none of that number.
        """
        with self.books.reading() as book:
            return self._view(book, find_rollout(book, rollout_id))

    def list_members(
        self, rollout_id: int, outcomes: Sequence[Outcome], limit: int
    ) -> list[MemberView]:
        """Return a rollout's devices with these outcomes. Raises as ``show``."""
        with self.books.reading() as book:
            find_rollout(book, rollout_id)
            return book.rollouts.list_members(rollout_id, outcomes, limit)

    def list_left_out(self, rollout_id: int) -> list[LeftOut]:
        """Return devices of its group that can be given nothing now. Raises as ``show``."""
        with self.books.reading() as book:
            rollout = find_rollout(book, rollout_id)
            text = find_query(book.groups, rollout.group)
            if text is None:
                return []
            query = read_query(text)
            devices = [d for d in book.fleet.list_candidates() if is_in(query, d)]
            family = rollout.policy.family
            packages = load_packages(
                book, rollout.model, rollout.version, family, rollout.excluded_models
            )
            found = find_targets(devices, query, packages, self.profiles.load_all()).left_out
            return list(found[:LEFT_OUT_SHOWN])

    def explain(self, rollout_id: int) -> list[Explanation]:
        """Return its verdicts, oldest first, each judged again. Raises as ``show``."""
        with self.books.reading() as book:
            find_rollout(book, rollout_id)
            decisions = book.rollouts.list_decisions(rollout_id, DECISIONS_SHOWN)
        return [
            Explanation(decision=d, replay=replay_decision(d.verdict, d.inputs)) for d in decisions
        ]

    def _view(self, book: Book, rollout: Rollout) -> RolloutView:
        counted = book.rollouts.tally(rollout.id)
        tally = Tally(counted, tries_max=rollout.policy.tries_max, excluded=rollout.excluded_models)
        shadows = _count_shadows(book, rollout)
        stages = tuple(
            StageView(
                name=record.name,
                counts=tally.count_stage(index),
                outcomes=tally.by_outcome(index),
                verdict=record.verdict,
                is_passed=_is_passed(rollout, index),
                shadow=shadows.get(index, NOTHING_COMPARED),
            )
            for index, record in enumerate(rollout.stages)
        )
        return RolloutView(
            rollout=rollout,
            stages=stages,
            failures=tuple(book.rollouts.list_members(rollout.id, BAD, FAILURES_SHOWN)),
            running=book.rollouts.count_running(rollout),
            read_at=self.clock.now(),
            members=_list_members(rollout, tally),
            members_finished=_count_finished(rollout, tally),
        )


def _count_finished(rollout: Rollout, tally: Tally) -> int:
    if rollout.policy.family is None:
        return 0
    return sum(counts.finished > 0 for counts in tally.count_members().values())


def _list_members(rollout: Rollout, tally: Tally) -> tuple[MemberFigure, ...]:
    """Give the members of a family that failed somewhere, the worst first."""
    if rollout.policy.family is None:
        return ()
    goal = rollout.policy.goal
    closed = {out.model: out for out in rollout.closed}
    found = [
        MemberFigure(
            model=model,
            counts=counts,
            evidence=weigh_member(counts, goal),
            closed=closed.get(model),
        )
        for model, counts in tally.count_members().items()
        if counts.failed
    ]
    for out in rollout.excluded:
        counts = MemberCounts(finished=out.finished, failed=out.failed, in_flight=out.in_flight)
        evidence = weigh_member(counts, goal)
        found.append(MemberFigure(model=out.model, counts=counts, evidence=evidence, excluded=out))
    return tuple(sorted(found, key=lambda one: (-one.evidence, one.model)))


def dump_member(member: MemberView) -> dict[str, Any]:
    """Give the JSON form."""
    return {
        "device": member.device,
        "profile": member.profile,
        "stage": member.stage + 1,
        "outcome": str(member.outcome),
        "code": member.code,
        "detail": member.detail,
        "running": member.running_target,
        "offered_at": member.offered_at,
        "changed_at": member.changed_at,
        "tries": member.tries,
    }


def is_moving(rollout: Rollout) -> bool:
    """Tell whether a rollout will go on without a person: what ``watch`` waits for."""
    if rollout.state is RolloutState.HALTED:
        return rollout.policy.on_halt is not OnHalt.STAY
    return rollout.state in (
        RolloutState.RUNNING,
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK,
    )


def _is_passed(rollout: Rollout, index: int) -> bool:
    return index < rollout.stage or rollout.state is RolloutState.COMPLETED


def _count_shadows(book: Book, rollout: Rollout) -> dict[int, ShadowCounts]:
    """Count what was compared in each stage; labels, where the plan sets no limits."""
    test = rollout.policy.disagreement or DisagreementTest()
    found: dict[int, list[tuple[int, int]]] = {}
    for seen in book.rollouts.list_shadows(rollout).values():
        found.setdefault(seen.stage, []).append(test.count(seen.report))
    return {stage: ShadowCounts(compared=count_compared(rows)) for stage, rows in found.items()}
