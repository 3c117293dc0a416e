"""A fleet in memory that runs the real look: devices that behave, rows that are stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from edge_agent.contract.shadow import ShadowReport, ShadowState
from fleet_server.core.label_query import parse_query
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_look import plan_round
from fleet_server.core.rollout_machine import RolloutEvent, RolloutState, step
from fleet_server.core.rollout_outcome import Outcome, Progress, SlotFacts
from fleet_server.core.rollout_round import RoundPlan, RoundView, SeenShadow, enter_state
from fleet_server.core.rollout_state import Desired, Member, Rollout, StageRecord
from fleet_server.core.rollout_tally import TallyKey
from fleet_server.core.stage_plan import parse_stages, plan_stages
from fleet_server.core.targeting import Candidate, Package

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD_SHA, NEW_SHA = "1" * 64, "2" * 64
OLD, NEW = "m/1/camera.tar", "m/2/camera.tar"
COMPARED_MAX = 2_000
"""Rows after which a device that is not held leaves the shadow by itself."""
PACKAGES = {"camera": Package(profile="camera", target=NEW, sha256=NEW_SHA)}


@dataclass
class FakeDevice:
    """A device that takes what it is assigned, one phase a tick, unless told otherwise.

    Attributes:
        fails_with: Code it fails with in its self-test; empty when it succeeds.
        is_dead_after_offer: Never says anything again once it was assigned something.
        has_old: Runs the old version before.
        differs: Of the rows that it compares a tick when asked to; None: it cannot compare.
        rows_a_tick: Those rows.
        is_held: Compares until it is told otherwise, as devices do of which the gate asks it.
    """

    number: int
    is_online: bool = True
    fails_with: str = ""
    is_dead_after_offer: bool = False
    has_old: bool = True
    differs: int | None = None
    rows_a_tick: int = 100
    is_held: bool = False
    shadow: ShadowReport | None = None
    slot: SlotFacts = field(default_factory=SlotFacts)
    assigned: Desired | None = None
    failed_retry: int = -1
    left: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.has_old:
            self.slot = SlotFacts(
                state="confirmed",
                running_sha256=OLD_SHA,
                confirmed_sha256=OLD_SHA,
                running_target=OLD,
                confirmed_target=OLD,
                has_newest=True,
            )

    def tick(self, desired: Desired | None, now: datetime) -> None:
        """Hear what is desired and move one phase on."""
        if not self.is_online or (self.is_dead_after_offer and desired is not None):
            return
        self.slot = replace(self.slot, has_newest=True)
        is_same = self.assigned is not None and desired == replace(
            self.assigned, is_shadowed=desired is not None and desired.is_shadowed
        )
        self.assigned = desired if is_same else self.assigned
        if desired is None or is_same:
            self._move_on(now)
            return
        self.assigned, self.shadow = desired, None
        is_new = desired.target == NEW
        wanted = NEW_SHA if is_new else OLD_SHA
        if self.slot.confirmed_sha256 == wanted:
            self._say("confirmed", now, running=wanted)
        elif is_new and self.fails_with and desired.retry <= self.failed_retry:
            self._say("failed", now, code="known-bad")
        else:
            is_compared = desired.is_shadowed and self.differs is not None and self.has_old
            compared = ("shadowing",) if is_compared else ()
            self.left = ("fetching", "self_testing", *compared, "probation", "confirmed")
            self._say("offered", now)

    def _move_on(self, now: datetime) -> None:
        if not self.left or self.assigned is None:
            return
        if self.slot.state == "shadowing" and self._compare():
            return
        phase, *rest = self.left
        self.left = tuple(rest)
        is_new = self.assigned.target == NEW
        sha = NEW_SHA if is_new else OLD_SHA
        if is_new and self.fails_with and phase == "probation":
            self.left, self.failed_retry = (), self.assigned.retry
            self._say("failed", now, code=self.fails_with)
        else:
            running = sha if phase in ("probation", "confirmed") else None
            self._say(phase, now, running=running, is_confirmed=phase == "confirmed")

    def _compare(self) -> bool:
        """Compare some rows more; tell whether to go on with that."""
        before = self.shadow or ShadowReport(sha256=NEW_SHA, state=ShadowState.COMPARING)
        is_enough = not self.is_held and before.rows >= COMPARED_MAX
        if self.assigned is None or not self.assigned.is_shadowed or is_enough:
            self.shadow = replace(before, state=ShadowState.OVER)
            return False
        self.shadow = replace(
            before,
            rows=before.rows + self.rows_a_tick,
            seconds=before.seconds + 10,
            differs=before.differs + (self.differs or 0),
        )
        return True

    def _say(
        self,
        state: str,
        now: datetime,
        *,
        code: str = "",
        running: str | None = None,
        is_confirmed: bool = True,
    ) -> None:
        rollout = self.assigned.rollout if self.assigned else 0
        names = {OLD_SHA: OLD, NEW_SHA: NEW, "": ""}
        slot = replace(self.slot, state=state, code=code, rollout=rollout, changed_at=now)
        sha = running if running is not None else slot.confirmed_sha256
        slot = replace(slot, running_sha256=sha, running_target=names[sha])
        if running is not None and is_confirmed:
            slot = replace(slot, confirmed_sha256=sha, confirmed_target=names[sha])
        self.slot = slot


class RolloutWorld:
    """One rollout of ``m`` 2 over cameras, its stored rows, and the devices."""

    def __init__(
        self,
        devices: Sequence[FakeDevice],
        *,
        stages: str = "100%",
        policy: RolloutPolicy | None = None,
        period_s: float = 10.0,
    ) -> None:
        self.now, self.period_s = START, period_s
        self.devices = {device.number: device for device in devices}
        self.desired: dict[int, Desired] = {
            d.number: Desired(target=OLD) for d in devices if d.has_old
        }
        self.last_seen: dict[int, datetime] = {}
        self.champion = 1
        self.offered_total: list[int] = []
        self.plans: list[RoundPlan] = []
        for each in devices:
            each.is_held = policy is not None and policy.disagreement is not None
        plan = plan_stages(
            [self.candidate(device) for device in devices],
            parse_stages(stages),
            release="m/2",
            groups={},
        )
        self.rows: dict[int, Member] = {}
        for index, stage in enumerate(plan.stages):
            for device in stage.devices:
                progress = Progress(outcome=Outcome.PENDING, changed_at=self.now)
                self.rows[device.number] = Member(device=device, stage=index, progress=progress)
        self.rollout = Rollout(
            id=7,
            model="m",
            version=2,
            slot="m",
            group="cameras",
            state=RolloutState.DRAFT,
            policy=policy or RolloutPolicy(),
            stages=tuple(StageRecord(name=stage.name) for stage in plan.stages),
            created_at=self.now,
        )

    @staticmethod
    def candidate(device: FakeDevice) -> Candidate:
        return Candidate(
            number=device.number,
            id=f"cam-{device.number:04d}",
            profile="camera",
            is_online=device.is_online,
        )

    def add(self, device: FakeDevice) -> None:
        """Let a device join the fleet."""
        self.devices[device.number] = device

    def steer(self, event: RolloutEvent) -> None:
        """Do what an operator does."""
        state, effects = step(self.rollout.state, event)
        self.rollout = enter_state(self.rollout, state, effects, now=self.now)

    def view(self) -> RoundView:
        """See what is stored and what devices say."""
        return RoundView(
            rollout=self.rollout,
            tally=Counter(
                TallyKey(
                    r.stage,
                    r.progress.outcome,
                    r.progress.code,
                    r.progress.tries,
                    r.target.partition("/")[0],
                )
                for r in self.rows.values()
            ),
            members=[
                replace(
                    row,
                    device=self.candidate(self.devices[number]),
                    slot=self.devices[number].slot,
                    desired=self.desired.get(number),
                    last_seen_at=self.last_seen.get(number),
                )
                for number, row in self.rows.items()
            ],
            outsiders=[
                self.candidate(device)
                for number, device in self.devices.items()
                if number not in self.rows
            ],
            query=parse_query("profile=camera"),
            packages=PACKAGES,
            shadows={
                number: SeenShadow(stage=row.stage, report=shadow)
                for number, row in self.rows.items()
                if (shadow := self.devices[number].shadow) is not None
            },
            champion=self.champion,
            now=self.now,
        )

    def look(self) -> RoundPlan:
        """Run one look of the controller and store what it asks for."""
        return self.store(plan_round(self.view()))

    def store(self, plan: RoundPlan) -> RoundPlan:
        """Store what a look asks for."""
        for change in plan.changes:
            row = self.rows.get(change.device.number)
            stored = row or Member(
                device=change.device, stage=change.stage, progress=change.progress
            )
            self.rows[change.device.number] = replace(
                stored,
                stage=change.stage,
                progress=change.progress,
                previous_target=change.previous_target,
                target=change.target,
            )
        for offer in plan.offers:
            number = offer.device.number
            self.desired[number] = Desired(
                target=offer.target,
                rollout=7,
                retry=offer.retry,
                is_shadowed=offer.shadow is not None,
            )
            self.offered_total.append(number)
            self._unsee(number)
        for release in plan.releases:
            number = release.device.number
            self.desired[number] = replace(self.desired[number], is_shadowed=False)
            self._unsee(number)
        for withdrawal in plan.withdrawals:
            number = withdrawal.device.number
            if withdrawal.target:
                self.desired[number] = Desired(target=withdrawal.target)
            else:
                self.desired.pop(number, None)
            self._unsee(number)
        if plan.champion is not None:
            self.champion = plan.champion
        self.rollout = plan.rollout
        self.plans.append(plan)
        return plan

    def _unsee(self, number: int) -> None:
        device = self.devices[number]
        device.slot = replace(device.slot, has_newest=False)

    def tick(self) -> RoundPlan:
        """Let time pass: devices act, then the controller looks."""
        self.now += timedelta(seconds=self.period_s)
        for number, device in self.devices.items():
            device.tick(self.desired.get(number), self.now)
            if device.is_online and not device.is_dead_after_offer:
                self.last_seen[number] = self.now
        return self.look()

    def run(self, ticks: int) -> None:
        """Tick until the rollout is over, at most so often."""
        for _ in range(ticks):
            self.tick()
            if self.rollout.finished_at is not None:
                return

    def start(self) -> None:
        """Start the rollout."""
        self.steer(RolloutEvent.START)

    def outcomes(self) -> Mapping[Outcome, int]:
        """Devices by outcome."""
        return Counter(row.progress.outcome for row in self.rows.values())

    def exposed(self) -> set[int]:
        """Devices whose slot was ever offered the version."""
        return set(self.offered_total)


def fleet(count: int, **changes: Any) -> list[FakeDevice]:
    """Devices that all behave alike."""
    return [FakeDevice(number=k + 1, **changes) for k in range(count)]
