"""What one look at a rollout sees and what it asks to be written, as values. Pure.

``Round`` is a look under way: the devices as they are so far, counts that follow, and what is to
be written. All of it is written in one transaction, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from device_profiles.profile import DeviceProfile
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport
from fleet_server.core.label_query import LabelQuery
from fleet_server.core.rollout_machine import (
    RolloutEffect,
    RolloutEvent,
    RolloutState,
    step,
)
from fleet_server.core.rollout_outcome import Progress, Reading
from fleet_server.core.rollout_state import Member, Rollout
from fleet_server.core.rollout_tally import Tally, TallyKey
from fleet_server.core.targeting import Candidate, Packages


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenShadow:
    """What comparing found on one device of a stage."""

    stage: int
    report: ShadowReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """Everything one look sees.

    Attributes:
        rollout: As stored.
        tally: All of its devices, counted.
        members: Those whose outcome may change or who may be offered something now.
        outsiders: Devices of the fleet that have no part in it.
        query: Its group; None when the group was removed.
        packages: The version's packages by profile, or those of a family's members.
        profiles: Known profiles by id.
        is_approved: The version's packages are signed and not rejected.
        is_superseded: A later rollout was started on the same slot.
        alarms: Open drift alarms that arose among its devices since it started, as short names.
        shadows: What its devices found in shadow, by number; empty when that is not judged.
        champion: Version of the model in service, 0 when none.
        listening_since: Since when the server has heard devices without a break.
        now: Aware UTC.
    """

    rollout: Rollout
    tally: Mapping[TallyKey, int]
    members: Sequence[Member]
    outsiders: Sequence[Candidate] = ()
    query: LabelQuery | None = None
    packages: Packages
    profiles: Mapping[str, DeviceProfile] = field(default_factory=dict)
    is_approved: bool = True
    is_superseded: bool = False
    alarms: Sequence[str] = ()
    shadows: Mapping[int, SeenShadow] = field(default_factory=dict)
    champion: int = 0
    listening_since: datetime | None = None
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A device's row as it is to be stored."""

    device: Candidate
    stage: int
    progress: Progress
    previous_target: str
    target: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """That a device's slot shall run the version's package, compared before when asked for."""

    device: Candidate
    target: str
    retry: int
    shadow: ShadowPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """That a device's slot shall run what it ran before; nothing when ``target`` is empty."""

    device: Candidate
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with its sentence and the inputs that give it again."""

    verdict: str
    sentence: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something for the audit log."""

    act: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What one look changes; all of it is written in one transaction, or none."""

    rollout: Rollout
    changes: tuple[Change, ...] = ()
    offers: tuple[Offer, ...] = ()
    releases: tuple[Offer, ...] = ()
    """Devices in shadow whose candidate may answer now: the same offer without the shadow."""
    withdrawals: tuple[Withdrawal, ...] = ()
    decisions: tuple[Decision, ...] = ()
    acts: tuple[Act, ...] = ()
    champion: int | None = None
    """Version to be the model's champion from now on; None leaves it."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write beside the rollout itself."""
        written = (self.changes, self.offers, self.releases, self.withdrawals, self.decisions)
        return not (any(written) or self.acts)


class Round:
    """A look under way: the members as they are now, and what is to be written so far."""

    def __init__(self, view: RoundView) -> None:
        """Start from what is stored."""
        self.view = view
        self.rollout = view.rollout
        self.members = {member.device.number: member for member in view.members}
        self.tally = Tally(
            view.tally,
            tries_max=view.rollout.policy.tries_max,
            excluded=view.rollout.excluded_models,
            has_place=view.rollout.has_place,
        )
        self.offers: list[Offer] = []
        self.releases: list[Offer] = []
        self.withdrawals: list[Withdrawal] = []
        self.decisions: list[Decision] = []
        self.acts: list[Act] = []
        self.champion: int | None = None
        self._stored = {member.device.number for member in view.members}
        self._changed: dict[int, None] = {}

    def set_member(self, member: Member) -> None:
        """Store a device's new row; counts follow."""
        number = member.device.number
        before = self.members.get(number)
        self.tally.move(_key(before) if before else None, _key(member))
        self.members[number] = member
        self._changed[number] = None

    def set_outcome(self, member: Member, reading: Reading, *, stage: int | None = None) -> Member:
        """Store a device's new outcome; the instant is kept when only the words changed."""
        progress = member.progress
        is_same = progress.outcome is reading.outcome and progress.code == reading.code
        progress = replace(
            progress,
            outcome=reading.outcome,
            code=reading.code,
            detail=reading.detail,
            changed_at=progress.changed_at if is_same else self.view.now,
        )
        changed = replace(member, progress=progress, stage=member.stage if stage is None else stage)
        self.set_member(changed)
        return changed

    def apply(self, event: RolloutEvent, reason: str = "") -> None:
        """Let an event happen to the rollout, with what it writes."""
        state, effects = step(self.rollout.state, event)
        self.rollout = enter_state(self.rollout, state, effects, now=self.view.now)
        if reason:
            self.rollout = replace(self.rollout, stop_reason=reason)
        if RolloutEffect.MOVE_CHAMPION in effects:
            self.champion = self.rollout.version
            self.rollout = replace(self.rollout, champion_before=self.view.champion)
        self.acts.append(
            Act(
                act=f"rollout.{event}",
                detail={
                    "state": str(self.rollout.state),
                    "stage": self.rollout.stage + 1,
                    "sentence": reason or self.rollout.sentence,
                },
            )
        )

    def finish(self) -> RoundPlan:
        """Give what is to be written."""
        changes = tuple(
            Change(
                device=member.device,
                stage=member.stage,
                progress=member.progress,
                previous_target=member.previous_target,
                target=member.target,
                is_new=number not in self._stored,
            )
            for number in self._changed
            for member in (self.members[number],)
        )
        return RoundPlan(
            rollout=self.rollout,
            changes=changes,
            offers=tuple(self.offers),
            releases=tuple(self.releases),
            withdrawals=tuple(self.withdrawals),
            decisions=tuple(self.decisions),
            acts=tuple(self.acts),
            champion=self.champion,
        )


def enter_state(
    rollout: Rollout, state: RolloutState, effects: Sequence[RolloutEffect], *, now: datetime
) -> Rollout:
    """Write what a transition writes on the rollout itself."""
    was_draft = rollout.state is RolloutState.DRAFT
    rollout = replace(rollout, state=state, is_undecided=False)
    if RolloutEffect.OPEN_STAGE in effects:
        rollout = replace(
            rollout,
            stage=0 if was_draft else rollout.stage + 1,
            stage_opened_at=now,
            started_at=rollout.started_at or now,
        )
    if RolloutEffect.BEGIN_RETURN in effects:
        rollout = replace(rollout, returning_at=now, finished_at=None)
    if RolloutEffect.FINISH in effects:
        rollout = replace(rollout, finished_at=now)
    return rollout


def _key(member: Member) -> TallyKey:
    progress = member.progress
    model = member.target.partition("/")[0]
    return TallyKey(member.stage, progress.outcome, progress.code, progress.tries, model)
